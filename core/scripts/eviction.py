"""Evict from the script cache; and the lock between those who use an entry and who takes it away.

A resolver holds it shared for the instant in which it marks an entry as used. Whoever evicts,
replaces or quarantines holds it exclusively while looking at that mark and renaming, so what was
marked in time stays. Order: first a write transaction of the journal, of which there is one at a
time, in it this lock; never the other way round. The kernel releases it when its holder dies.

What is evicted: quarantine first, then what is older than the TTL, then the least recently used. An
entry that was used within ``cache_lease_seconds`` never goes: somebody may be running it. Whether it
was is read from its folder under the exclusive lock, in which it is renamed away as well.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import CacheFull, Refused, StorageError, storage_error
from core.files import make_private_dir
from core.journal import Journal
from core.journal.scripts import CacheFolder, FolderState
from core.scripts.paths import CacheLayout

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


MEBIBYTE = 1 << 20
DAY_SECONDS = 86_400
# Fetched later than this from now: the clock was wrong then, or is now, and the age is not known.
CLOCK_TOLERANCE_SECONDS = 300.0
MIN_RETRY_SECONDS = 1.0
EVICTED_BYTES = "evicted_bytes"


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


@dataclass(frozen=True, slots=True)
class CacheContext:
    """Holds what all who change the cache work with; times in seconds, ``clock`` gives Unix time."""

    journal: Journal
    layout: CacheLayout
    lock: CacheLock
    clock: Callable[[], float]
    max_bytes: int
    ttl_seconds: float
    lease_seconds: float

    def is_fresh(self, fetched_at: float) -> bool:
        """Tell whether what was fetched then is within the TTL; a time to come is none to trust."""
        return -CLOCK_TOLERANCE_SECONDS <= self.clock() - fetched_at < self.ttl_seconds

    def is_in_use(self, used: float) -> bool:
        return self.clock() - used < self.lease_seconds

    def last_use(self, folder: Path) -> float | None:
        """Tell when an entry was used last, as its folder's mtime has it; None when it is gone.

        A use in the future is of a clock that was set back since: it counts as one of this instant,
        and is written down as one, so that the lease ends. The caller holds the exclusive lock.
        """
        now = self.clock()
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
        with self._context.lock.exclusive():
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
        with self._context.lock.exclusive():
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
