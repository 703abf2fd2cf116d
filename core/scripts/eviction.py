"""Evict from the script cache, and put aside what turned out wrong; under its exclusive lock.

What is evicted: quarantine first, then what is older than the TTL, then the least recently used. An
entry that was used within ``cache_lease_seconds`` never goes: somebody may be running it. Whether it
was is read from its folder under the lock (`core.scripts.layout`), in which it is renamed away as well.
Everything runs in a write transaction of the journal.
"""

from __future__ import annotations

import heapq
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import CacheFull, Refused, storage_error
from core.journal.scripts import NOBODYS, CacheFolder, FolderState
from core.models import ScriptKey
from core.scripts.entries import folder_name, ref_of, size_on_disk
from core.scripts.layout import CLOCK_TOLERANCE_SECONDS, UNKNOWN, CacheContext

MIN_RETRY_SECONDS = 1.0
EVICTED_BYTES = "evicted_bytes"
SHARE = 0.1  # of the cache's size, that the quarantine takes at most
STRAY = "it was in the quarantine already, and nobody knows since when or why"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvictReport:
    """Tells what was evicted; ``in_use`` entries would have gone too, but for their leases."""

    bytes_freed: int = 0
    entries: int = 0
    quarantined: int = 0
    in_use: int = 0

    def __add__(self, other: EvictReport) -> EvictReport:
        return EvictReport(
            self.bytes_freed + other.bytes_freed,
            self.entries + other.entries,
            self.quarantined + other.quarantined,
            max(self.in_use, other.in_use),  # the same ones were looked at
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Plan:
    """What is to go, by name; nothing has been touched yet."""

    folders: dict[str, CacheFolder] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    in_use: set[str] = field(default_factory=set)
    bytes: int = 0
    lease_ends: float | None = None

    def count(self, state: FolderState) -> int:
        return sum(row.state is state for row in self.folders.values())


# A folder that may go, and its last use; None: it has no lease, or is not there.
_Candidate = tuple[CacheFolder, float | None]


class Evictor:
    """Evicts entries and quarantine. Every method runs inside the caller's write transaction."""

    def __init__(self, context: CacheContext) -> None:
        self._context = context
        self._rows = context.journal.cache_folders
        self._layout = context.layout
        # what `core.scripts.copies` gives back for so many bytes; None: of what is too old
        self.let_copies_go: Callable[[int | None, Connection], int] = lambda _needed, _opened: 0

    def make_room(self, size_bytes: int, connection: Connection) -> EvictReport:
        """Evict what it needs for ``size_bytes`` more to fit; the room is there on return.

        `CacheFull` when what is not in use does not suffice (nothing is taken then), `Refused` when
        it would not fit into an empty cache.
        """
        max_bytes = self._context.max_bytes
        if size_bytes > max_bytes:
            raise Refused(
                f"{size_bytes} bytes do not fit into a cache of {max_bytes}.",
                "Raise cache_max_size_mb.",
            )
        self._layout.prepare()
        missing = self._used(connection) + size_bytes - max_bytes
        if missing > 0:  # copies are made again from what is here: they go first
            missing -= self.let_copies_go(missing, connection)
        if missing <= 0:
            return EvictReport()
        with self._layout.lock.exclusive():
            plan = self._plan(self._all(connection), missing)
            if plan.bytes < missing:
                raise self._full(size_bytes, plan)
            return self._carry_out(plan, connection)

    def trim(self, connection: Connection) -> EvictReport:
        """Evict what is over the limit, as far as it is not in use."""
        excess = self._used(connection) - self._context.max_bytes
        if excess <= 0:
            return EvictReport()
        return self._evict(self._all(connection), connection, excess)

    def expire(self, connection: Connection, *, entries: bool) -> EvictReport:
        """Evict what is older than the TTL: of the quarantine, and of ``entries`` if asked."""

        def old() -> Iterator[_Candidate]:
            for row, used in self._quarantined(connection):
                if not self._context.is_fresh(row.since):
                    yield row, used
            if entries:
                yield from self._expired(connection)

        return self._evict(old(), connection)

    def clear(self, connection: Connection) -> EvictReport:
        """Evict everything that is not in use."""
        return self._evict(self._all(connection), connection)

    # -- choosing ---------------------------------------------------------------------------
    def _used(self, connection: Connection) -> int:
        """Bytes that count towards the limit, with what could not be removed from the trash."""
        return self._rows.used_bytes(connection) + self._layout.sweep()

    def _plan(self, candidates: Iterable[_Candidate], needed: int | None) -> _Plan:
        """What of ``candidates``, in their order, must go for ``needed`` bytes, or may (None)."""
        plan = _Plan()
        for row, used in candidates:
            if row.name in plan.folders:
                continue
            if used is not None and used != row.last_used:
                plan.seen[row.name] = used
            if used is not None and self._context.is_in_use(used):
                plan.in_use.add(row.name)
                ends = used + self._context.lease_seconds
                plan.lease_ends = min(plan.lease_ends or ends, ends)
                continue  # not the end: where the clock was set back, the index tells no order
            plan.folders[row.name] = row
            plan.bytes += row.size_bytes
            if needed is not None and plan.bytes >= needed:
                break
        return plan

    def _all(self, connection: Connection) -> Iterator[_Candidate]:
        yield from self._quarantined(connection)
        yield from self._expired(connection)
        yield from self._least_recent(connection)

    def _quarantined(self, connection: Connection) -> Iterator[_Candidate]:
        for row in self._rows.of(FolderState.QUARANTINED, connection=connection):
            yield row, None

    def _expired(self, connection: Connection) -> list[_Candidate]:
        now = self._context.clock()
        old = now - self._context.ttl_seconds
        rows = self._rows.expired(old, now + CLOCK_TOLERANCE_SECONDS, connection)
        found = [(row, self._last_use(row)) for row in rows]
        return sorted(found, key=lambda item: (item[1] or 0, item[0].key))

    def _least_recent(self, connection: Connection) -> Iterator[_Candidate]:
        """Entries from the least recently used.

        The index knows a last use that may be too early, never too late. So an entry is certain
        once every entry that the index has not told of yet was used later than it.
        """
        waiting: list[tuple[float, str, CacheFolder]] = []
        for row in self._rows.by_last_use(connection):
            while waiting and waiting[0][0] <= row.last_used:
                used, _, certain = heapq.heappop(waiting)
                yield certain, used
            found = self._last_use(row)
            if found is None:
                yield row, None
            else:
                heapq.heappush(waiting, (found, row.name, row))
        while waiting:
            used, _, certain = heapq.heappop(waiting)
            yield certain, used

    def _last_use(self, row: CacheFolder) -> float | None:
        return self._context.last_use(self._layout.root / row.name)

    # -- doing ------------------------------------------------------------------------------
    def _evict(
        self, candidates: Iterable[_Candidate], connection: Connection, needed: int | None = None
    ) -> EvictReport:
        with self._layout.lock.exclusive():
            return self._carry_out(self._plan(candidates, needed), connection)

    def _carry_out(self, plan: _Plan, connection: Connection) -> EvictReport:
        try:
            for row in plan.folders.values():
                if row.state is FolderState.COMPLETE:
                    self._layout.remove_entry(self._layout.place(row.key))
                else:
                    self._layout.drop_quarantined(row.name)
        except OSError as error:
            raise storage_error(error, "Evicting from the script cache") from error
        self._rows.delete(plan.folders, connection)
        stay = {name: at for name, at in plan.seen.items() if name not in plan.folders}
        self._rows.seen(stay, connection)
        if plan.bytes:
            self._context.journal.counters.add({EVICTED_BYTES: plan.bytes}, connection)
        self._layout.sweep()
        entries, quarantined = map(plan.count, (FolderState.COMPLETE, FolderState.QUARANTINED))
        return EvictReport(plan.bytes, entries, quarantined, len(plan.in_use))

    def _full(self, size_bytes: int, plan: _Plan) -> CacheFull:
        wait = MIN_RETRY_SECONDS
        if plan.lease_ends is not None:
            wait = max(wait, plan.lease_ends - self._context.clock())
        return CacheFull(
            f"No room for {size_bytes} bytes in the script cache: what is in it is in use.",
            "Room comes when the leases end; or raise cache_max_size_mb.",
            wait,
        )


class Quarantine:
    """Puts things aside; a share of the cache at most is taken by them.

    They are kept so that somebody can look at them, count towards the cache's size, are the first
    to go when room is needed, and are gone after the TTL.
    """

    def __init__(self, context: CacheContext) -> None:
        self._rows = context.journal.cache_folders
        self._layout = context.layout
        self._clock = context.clock
        self._max_bytes = int(context.max_bytes * SHARE)

    def put(self, path: Path, key: ScriptKey, reason: str, connection: Connection) -> None:
        """Move what stands at ``path`` aside; nothing there is fine."""
        if not os.path.lexists(path):
            return
        hex_ = uuid.uuid4().hex
        inner = (
            f"{UNKNOWN}/{hex_}" if key == NOBODYS else f"{folder_name(key.ref)}/{key.format}-{hex_}"
        )
        name = f"{self._layout.quarantine.name}/{inner}"
        log.warning("%s goes into quarantine: %s", path if key == NOBODYS else key, reason)
        try:
            self._layout.set_aside(path, name)
        except OSError as error:
            raise storage_error(error, f"Putting {path} into quarantine") from error
        self._enter(name, key, reason, connection)
        self._bound(connection)

    def put_entry(self, key: ScriptKey, reason: str, connection: Connection) -> None:
        """Move a cached entry aside, its manifest and row gone with it."""
        place = self._layout.place(key)
        if not self._layout.drop_link(place):
            self.put(place.folder, key, reason, connection)
        try:
            self._layout.remove_entry(place)
        except OSError as error:
            raise storage_error(error, f"Removing {place.manifest}") from error
        self._rows.delete([place.name], connection)

    def reconcile(self, connection: Connection) -> None:
        """Make the rows say what is there."""
        there = set(self._layout.quarantined())
        rows = self._rows.of(FolderState.QUARANTINED, connection=connection)
        known = {row.name for row in rows}
        self._rows.delete(known - there, connection)
        for name in sorted(there - known):
            _, folder, *rest = name.split("/")
            ref = ref_of(folder)
            format_ = "".join(rest).rpartition("-")[0]
            key = ScriptKey(ref, format_) if ref is not None and format_ else NOBODYS
            self._enter(name, key, STRAY, connection)
        self._bound(connection)

    def _enter(self, name: str, key: ScriptKey, reason: str, connection: Connection) -> None:
        row = CacheFolder(
            name,
            FolderState.QUARANTINED,
            key,
            size_on_disk(self._layout.root / name),
            since=self._clock(),
            reason=reason,
        )
        self._rows.put([row], connection)

    def _bound(self, connection: Connection) -> None:
        rows = self._rows.of(FolderState.QUARANTINED, connection=connection)
        excess = sum(row.size_bytes for row in rows) - self._max_bytes
        gone: list[str] = []
        for row in rows:
            if excess <= 0:
                break
            self._layout.drop_quarantined(row.name)
            gone.append(row.name)
            excess -= row.size_bytes
        self._rows.delete(gone, connection)
        self._layout.sweep()
