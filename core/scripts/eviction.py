"""The lock between those who use an entry and those who take it away.

A resolver holds it shared for the instant in which it marks an entry as used. Whoever evicts,
replaces or quarantines holds it exclusively while looking at that mark and renaming, so what was
marked in time stays. Order: first a write transaction of the journal, in it the room's lock
(`ScriptCacheRows.changing`), then this lock; never the other way round. The kernel releases it when
its holder dies.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import CacheFull, Refused, StorageError, storage_error
from core.files import make_private_dir
from core.journal import Journal
from core.journal.scripts import CacheRow, EntryKey, QuarantineRow
from core.scripts.models import ScriptKey
from core.scripts.paths import CacheLayout
from core.settings import Settings

LOCK_SECONDS = 30.0
POLL_SECONDS = 0.001
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class CacheLock:
    """An advisory lock on a file; it holds between threads and between processes."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        """``check`` is asked before each exclusive hold; it refuses a cache of somebody else's."""
        self._check = check
        self._path = str(path)
        self._folder = path.parent

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Raises ``OSError`` as it comes where the lock's file can't be opened."""
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            self._take(fd, fcntl.LOCK_SH)
            yield
        finally:
            _give_back(fd)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """`StorageError` when it can't be had, `Refused` where the cache is not this home's."""
        self._check()
        if not self._folder.is_dir():
            make_private_dir(self._folder)
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            raise storage_error(error, f"Taking the lock {self._path}") from error
        try:
            self._take(fd, fcntl.LOCK_EX)
            yield
        finally:
            _give_back(fd)

    def _take(self, fd: int, kind: int) -> None:
        deadline = None
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + LOCK_SECONDS
                if now > deadline:
                    raise StorageError(
                        f"The cache's lock {self._path} was held for {LOCK_SECONDS:.0f} s.",
                        "A process that evicts hangs; `escher-playbooks status` shows what runs.",
                    ) from None
                time.sleep(POLL_SECONDS)
            else:
                return


def _give_back(fd: int) -> None:
    # a child forked meanwhile has a copy of the descriptor: closing ours alone would not release
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


# Room in the cache: what goes first, and what may not go.
#
# Quarantine first, then what is older than the TTL, then the least recently used. An entry that was
# used within ``cache_lease_seconds`` never goes: somebody may be running it. Whether it was is read
# from its folder under the exclusive lock, in which it is renamed away as well.


MEBIBYTE = 1 << 20
DAY_SECONDS = 86_400
# Fetched later than this from now: the clock was wrong then, or is now, and the age is not known.
CLOCK_TOLERANCE_SECONDS = 300.0
MIN_RETRY_SECONDS = 1.0
EVICTED_BYTES = "evicted_bytes"


@dataclass(frozen=True, slots=True)
class EvictReport:
    """What was let go; ``in_use`` entries would have gone too, but for their leases."""

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
        return {
            "bytes_freed": self.bytes_freed,
            "entries": self.entries,
            "quarantined": self.quarantined,
            "in_use": self.in_use,
        }


@dataclass(slots=True)
class _Plan:
    """What is to go; nothing has been touched yet."""

    entries: dict[EntryKey, CacheRow] = field(default_factory=dict)
    quarantined: list[QuarantineRow] = field(default_factory=list)
    seen: dict[EntryKey, float] = field(default_factory=dict)
    in_use: set[EntryKey] = field(default_factory=set)
    bytes: int = 0
    lease_ends: float | None = None

    def take(self, row: CacheRow) -> None:
        self.entries[row.key] = row
        self.bytes += row.size_bytes


class CacheRoom:
    """Takes entries away. Every method runs inside the caller's write transaction."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        layout: CacheLayout,
        lock: CacheLock,
        clock: Callable[[], float],
    ) -> None:
        self.max_bytes = int(settings.cache_max_size_mb * MEBIBYTE)
        self.ttl_seconds = settings.cache_ttl_days * DAY_SECONDS
        self._lease_seconds = settings.cache_lease_seconds
        self._rows = journal.script_cache
        self._counters = journal.counters
        self._layout = layout
        self._lock = lock
        self._clock = clock
        # what `core.scripts.copies` gives back for so many bytes; None: of what is too old
        self.let_copies_go: Callable[[int | None, Connection], int] = lambda _needed, _opened: 0

    def is_fresh(self, fetched_at: float) -> bool:
        """Whether what was fetched then is within the TTL; a time to come is none to trust."""
        return -CLOCK_TOLERANCE_SECONDS <= self._clock() - fetched_at < self.ttl_seconds

    def make(self, size_bytes: int, connection: Connection) -> EvictReport:
        """Take away what it needs for ``size_bytes`` more to fit; the room is there on return.

        `CacheFull` when what is not in use does not suffice (nothing is taken then), `Refused` when
        it would not fit into an empty cache.
        """
        if size_bytes > self.max_bytes:
            raise Refused(
                f"{size_bytes} bytes do not fit into a cache of {self.max_bytes}.",
                "Raise cache_max_size_mb.",
            )
        self._layout.prepare()
        self._rows.lock_room(connection)
        missing = self._used(connection) + size_bytes - self.max_bytes
        if missing > 0:  # copies are made again from what is here: they go first
            missing -= self.let_copies_go(missing, connection)
        if missing <= 0:
            return EvictReport()
        with self._lock.exclusive():
            plan = self._plan(missing, connection)
            if plan.bytes < missing:
                raise self._full(size_bytes, plan)
            return self._carry_out(plan, connection)

    def trim(self, connection: Connection) -> EvictReport:
        """Bring the cache below its limit, as far as it is not in use."""
        self._rows.lock_room(connection)
        excess = self._used(connection) - self.max_bytes
        if excess <= 0:
            return EvictReport()
        with self._lock.exclusive():
            return self._carry_out(self._plan(excess, connection), connection)

    def expire(self, connection: Connection, *, entries: bool) -> EvictReport:
        """Take away what is older than the TTL: of the quarantine, and of ``entries`` if asked."""
        now = self._clock()
        plan = _Plan()
        for row in self._rows.quarantined(connection):
            if not self.is_fresh(row.at):
                plan.quarantined.append(row)
                plan.bytes += row.size_bytes
        with self._lock.exclusive():
            if entries:
                self._take_expired(plan, connection, now)
            return self._carry_out(plan, connection)

    def clear(self, connection: Connection) -> EvictReport:
        """Take away everything that is not in use."""
        with self._lock.exclusive():
            return self._carry_out(self._plan(None, connection), connection)

    def last_use(self, folder: Path) -> float | None:
        """When an entry was used last, as its folder's mtime has it; None when it is gone.

        A use in the future is of a clock that was set back since: it counts as one of this instant,
        and is written down as one, so that the lease ends. The caller holds the exclusive lock.
        """
        now = self._clock()
        try:
            used = folder.lstat().st_mtime_ns / 1e9
            if used > now:
                os.utime(folder, (now, now), follow_symlinks=False)
                used = now
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"Looking at {folder}") from error
        return used

    def is_in_use(self, used: float) -> bool:
        return self._clock() - used < self._lease_seconds

    # -- choosing ---------------------------------------------------------------------------
    def _used(self, connection: Connection) -> int:
        """Bytes that count towards the limit, with what could not be removed from the trash."""
        return self._rows.sizes(connection).used + self._layout.sweep()

    def _plan(self, needed: int | None, connection: Connection) -> _Plan:
        """What must go for ``needed`` bytes, or all that may (None)."""
        plan = _Plan()
        for aside in self._rows.quarantined(connection):
            if needed is not None and plan.bytes >= needed:
                return plan
            plan.quarantined.append(aside)
            plan.bytes += aside.size_bytes
        if needed is None or plan.bytes < needed:
            self._take_expired(plan, connection, self._clock(), needed)
        if needed is None or plan.bytes < needed:
            for row, used in self._least_recent(plan, connection):
                if used is not None and self.is_in_use(used):
                    plan.in_use.add(row.key)
                    plan.lease_ends = plan.lease_ends or used + self._lease_seconds
                    continue  # not the end: where the clock was set back, the index tells no order
                plan.take(row)
                if needed is not None and plan.bytes >= needed:
                    break
        return plan

    def _take_expired(
        self, plan: _Plan, connection: Connection, now: float, needed: int | None = None
    ) -> None:
        old = now - self.ttl_seconds
        rows = self._rows.expired(old, now + CLOCK_TOLERANCE_SECONDS, connection)
        found = [(self.last_use(self._folder(row)), row.key, row) for row in rows]
        for used, key, row in sorted(found, key=lambda item: (item[0] or 0, item[1])):
            if needed is not None and plan.bytes >= needed:
                return
            if used is not None and self.is_in_use(used):
                plan.in_use.add(key)
            else:
                plan.take(row)

    def _least_recent(
        self, plan: _Plan, connection: Connection
    ) -> Iterator[tuple[CacheRow, float | None]]:
        """Entries from the least recently used; None: its folder is gone.

        The index knows a last use that may be too early, never too late. So an entry is certain
        once every entry that the index has not told of yet was used later than it.
        """
        waiting: list[tuple[float, EntryKey, CacheRow]] = []
        for row in self._rows.by_last_use(connection):
            while waiting and waiting[0][0] <= row.last_used:
                used, _, certain = heapq.heappop(waiting)
                yield certain, used
            if row.key in plan.entries:
                continue
            found = self.last_use(self._folder(row))
            if found is None:
                yield row, None
                continue
            if found != row.last_used:
                plan.seen[row.key] = found
            heapq.heappush(waiting, (found, row.key, row))
        while waiting:
            used, _, certain = heapq.heappop(waiting)
            yield certain, used

    def _folder(self, row: CacheRow) -> Path:
        return self._layout.place(ScriptKey(row.ref, row.format)).folder

    # -- doing ------------------------------------------------------------------------------
    def _carry_out(self, plan: _Plan, connection: Connection) -> EvictReport:
        try:
            for row in plan.entries.values():
                self._layout.remove_entry(self._layout.place(ScriptKey(row.ref, row.format)))
            for aside in plan.quarantined:
                self._layout.drop_quarantined(aside.name)
        except OSError as error:
            raise storage_error(error, "Evicting from the script cache") from error
        self._rows.delete(list(plan.entries), connection)
        self._rows.delete_quarantined([row.name for row in plan.quarantined], connection)
        stay = {key: at for key, at in plan.seen.items() if key not in plan.entries}
        self._rows.seen(stay, connection)
        if plan.bytes:
            self._counters.add({EVICTED_BYTES: plan.bytes}, connection)
        self._layout.sweep()
        return EvictReport(plan.bytes, len(plan.entries), len(plan.quarantined), len(plan.in_use))

    def _full(self, size_bytes: int, plan: _Plan) -> CacheFull:
        wait = MIN_RETRY_SECONDS
        if plan.lease_ends is not None:
            wait = max(wait, plan.lease_ends - self._clock())
        return CacheFull(
            f"No room for {size_bytes} bytes in the script cache: what is in it is in use.",
            "Room comes when the leases end; or raise cache_max_size_mb.",
            wait,
        )
