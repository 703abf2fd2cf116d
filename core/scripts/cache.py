"""Keep verified scripts on disk, found by version and format, within an age and a size.

`ScriptCache.find` answers with bytes that were proven in that very call. It reads manifest and files,
marks the use on the folder, and touches no database. All changes are one write transaction of the
journal with renames inside it, so that a process killed at any step leaves what `reconcile` puts
right (`core.scripts.recovery`).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from core.errors import EscherError, IntegrityError, StorageError, storage_error
from core.journal import Journal
from core.journal.facts import Counters
from core.journal.scripts import DOWNLOADS, FolderState
from core.models import ScriptKey
from core.scripts.cache_owner import CacheOwner
from core.scripts.copies import Copies
from core.scripts.eviction import (
    DAY_SECONDS,
    EVICTED_BYTES,
    MEBIBYTE,
    CacheContext,
    CacheLock,
    Evictor,
    EvictReport,
)
from core.scripts.integrity import PROOF_SECONDS, Proofs, files_beside, prove
from core.scripts.manifest import Manifest, footprint, read_manifest, write_manifest
from core.scripts.models import PARTIAL, CacheEntry, CacheHit, Listing, Staged
from core.scripts.paths import CacheLayout, Place, remove
from core.scripts.promotion import Promotion, Quarantine
from core.scripts.recovery import CacheProblem, Recovery
from core.settings import Settings

# Each flush is a commit: it waits for the disk, and ends what all processes remember of the journal
# (`core.journal.script_lookup`).
FLUSH_SECONDS = 5.0

log = logging.getLogger(__name__)


class HitCounter:
    """Counts hits and misses for all threads of a process; a killed one loses a few seconds' worth."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pending: Counter[str] = Counter()
        self._flushed_at = time.monotonic()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count one; every few seconds this writes to the journal, and never waits for it."""
        with self._lock:
            self._pending[name] += 1
            due = time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if due:
            self.flush()

    def flush(self, *, wait: bool = False) -> None:
        """Add what was counted to the journal; kept for later while the journal is busy.

        ``wait``: there is no later, so a writer is waited for.
        """
        with self._lock:
            pending, self._pending = self._pending, Counter()
            self._flushed_at = time.monotonic()
        if not pending:
            return
        try:
            if not wait and self._counters.add_now(pending):
                return
            if wait:
                self._counters.add_all(pending)
                return
        except EscherError as error:
            log.debug("the cache's counters were not written: %s", error.detail)
        with self._lock:
            self._pending.update(pending)


REMEMBERED = 4096  # manifests, each good while its file's stat is the same
# An entry is marked as used at most so often by a process: a script that is asked for a thousand
# times a second need not be written to the disk as often. The lease is much longer.
MARK_SECONDS = 1.0
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Known(NamedTuple):
    """A manifest that was read, and its entry's paths as text: a look-up has no time for others."""

    signature: tuple[int, int, int, int]
    manifest_path: str
    folder: str
    root: str
    place: Place
    manifest: Manifest


class Lookup:
    """Finds an entry's manifest, from memory where it can, and marks its use; safe between threads."""

    def __init__(self, layout: CacheLayout, lock: CacheLock, clock: Callable[[], float]) -> None:
        self._layout = layout
        self._lock = lock
        self._clock = clock
        self._known: dict[ScriptKey, Known] = {}
        self._marked: dict[str, float] = {}

    def manifest(self, key: ScriptKey) -> Known | None:
        """Return the manifest of an entry, None where there is none; `IntegrityError` when damaged."""
        known = self._known.get(key)
        place = known.place if known is not None else self._layout.place(key)
        path = known.manifest_path if known is not None else place.manifest_path
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(key, None)
            return None
        except OSError as error:
            raise storage_error(error, f"Looking at {path}") from error
        signature = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        if known is not None and known.signature == signature:
            return known
        for folder in (place.root, place.root.parent):
            if folder.is_symlink():
                raise IntegrityError(f"{folder} is a link, which may lead anywhere.")
        manifest = read_manifest(place)
        if manifest is None:  # gone in between
            return None
        root = str(place.root)
        known = Known(signature, path, f"{root}/{key.format}", root, place, manifest)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = known
        return known

    def touch(self, folder: str) -> bool:
        """Mark the entry as used now, unless it was just marked; False when it is gone."""
        now = self._clock()
        if 0 <= now - self._marked.get(folder, now - MARK_SECONDS) < MARK_SECONDS:
            return True
        used = int(now * 1e9)
        try:
            with self._lock.shared():
                os.utime(folder, ns=(used, used), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise storage_error(error, f"Marking {folder} as used") from error
            # a home that can only be read: no process of ours evicts from it either
        if len(self._marked) >= REMEMBERED:
            self._marked.clear()
        self._marked[folder] = now
        return True


HITS, MISSES = "hits", "misses"

Settle = Callable[[Connection], object]

__all__ = ["CacheEntry", "CacheHit", "CacheProblem", "EvictReport", "ScriptCache", "Staged"]


class ScriptCache:
    """Stores, finds and evicts scripts; safe between threads, processes and over a fork."""

    def __init__(
        self, settings: Settings, journal: Journal, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._rows = journal.cache_folders
        self._clock = clock
        self.layout = CacheLayout(settings)
        self.layout.check = CacheOwner(settings, journal, self.layout).check
        self.proofs = Proofs(journal.proofs, clock)
        self._lock = CacheLock(self.layout.lock, self.layout.check)
        self._context = CacheContext(
            journal,
            self.layout,
            self._lock,
            clock,
            max_bytes=int(settings.cache_max_size_mb * MEBIBYTE),
            ttl_seconds=settings.cache_ttl_days * DAY_SECONDS,
            lease_seconds=settings.cache_lease_seconds,
        )
        self._evictor = Evictor(self._context)
        self._quarantine = Quarantine(self._context)
        self._recovery = Recovery(self._context, self._evictor, self._quarantine, self.proofs)
        self._promotion = Promotion(self._context, self._quarantine, self.proofs)
        self.copies = Copies(
            settings, journal, self.layout, self.proofs,
            make_room=self._evictor.make_room, clock=clock,
        )  # fmt: skip
        self._evictor.let_copies_go = self.copies.evict
        self._lookup = Lookup(self.layout, self._lock, clock)
        self._counter = HitCounter(journal.counters)

    @property
    def max_bytes(self) -> int:
        return self._context.max_bytes

    # -- looking up -------------------------------------------------------------------------
    def find(self, key: ScriptKey) -> CacheHit | None:
        """Return the entry of ``key``, its use marked and its bytes proven; None when there is none.

        One whose bytes are wrong goes into quarantine. A stale one (``fresh`` is False) is found
        like any other.
        """
        try:
            known = self._lookup.manifest(key)
        except IntegrityError as error:
            self._set_aside(key, error.detail)
            return None
        # marked before it is proven, so that it is not evicted meanwhile
        if known is None or not self._lookup.touch(known.folder):
            return None
        files = known.manifest.listing.files
        if (wrong := prove(known.root, key.format, files, self.proofs)) is not None:
            beside = files_beside(known.root, key.format, files)
            if beside and prove(known.root, key.format, files, self.proofs, beside) is None:
                # what a run left there, and the content is right
                return replace(self._hit(known.place, known.manifest), beside=tuple(beside))
            self._set_aside(key, wrong)
            return None
        return self._hit(known.place, known.manifest)

    def cached_versions(self, playbook_id: str, format_: str) -> list[str]:
        """List the versions of which this format is cached, fresh or not, in no order."""
        return self._rows.versions(playbook_id, format_)

    def hit(self) -> None:
        """Count a resolve that was answered from the cache."""
        self._counter.add(HITS)

    def miss(self) -> None:
        """Count a resolve that the cache could not answer."""
        self._counter.add(MISSES)

    # -- changing ---------------------------------------------------------------------------
    def make_room(self, size_bytes: int, connection: Connection) -> None:
        """Evict until ``size_bytes`` more fit; reserve them in this very transaction.

        Raises `CacheFull` (transient) when what may go does not suffice, and `Refused` when they
        are more than the cache may ever hold.
        """
        self._evictor.make_room(size_bytes, connection)

    def promote(
        self, staged: Path, listing: Listing, source: str, *, settle: Settle | None = None
    ) -> CacheHit:
        """Store one staged folder, which the caller has just hashed; see `promote_many`."""
        return self.promote_many([Staged(staged, listing, source)], settle=settle)[0]

    def promote_many(
        self, items: Sequence[Staged], *, settle: Settle | None = None
    ) -> list[CacheHit]:
        """Store staged folders as entries by renaming them into their places, in one transaction.

        ``settle`` runs first in that transaction, to give back what was reserved. An entry that
        stands there already is kept when it is the same, else replaced. Raises `CacheFull` or
        `StorageError`; what was not renamed is still staged.
        """
        self.layout.prepare()
        with self._journal.database.write() as connection:
            if settle is not None:
                settle(connection)
            self._evictor.make_room(sum(footprint(item.listing) for item in items), connection)
            with self._lock.exclusive():
                done = self._promotion.promote(items, connection)
            self.layout.sweep()
        for item in items:
            remove(item.folder)
        return [self._hit(place, manifest) for place, manifest in done]

    def refresh(self, key: ScriptKey) -> bool:
        """Make an entry fresh again, as the server lists the same still; False when it is gone."""
        place = self.layout.place(key)
        with self._journal.database.write() as connection, self._lock.exclusive():
            try:
                manifest = read_manifest(place)
            except IntegrityError:
                return False  # the next `find` puts it into quarantine
            used = self._context.last_use(place.folder)
            if manifest is None or used is None:
                return False
            manifest = replace(manifest, fetched_at=self._clock())
            self._rows.put([manifest.row(place, used)], connection)
            write_manifest(place, manifest)
        return True

    def quarantine(self, key: ScriptKey, reason: str) -> None:
        """Put an entry aside whatever its bytes are."""
        self.layout.prepare()
        with self._journal.database.write() as connection:
            with self._lock.exclusive():
                self._quarantine.put_entry(key, reason, connection)
            self._evictor.trim(connection)

    def quarantine_staged(
        self, staged: Path, key: ScriptKey, reason: str, *, settle: Settle | None = None
    ) -> None:
        """Put a download aside whose bytes are wrong; ``settle`` as for `promote_many`."""
        self.layout.prepare()
        with self._journal.database.write() as connection:
            if settle is not None:
                settle(connection)
            with self._lock.exclusive():
                self._quarantine.put(staged, key, reason, connection)
            self._evictor.trim(connection)

    def evict(self) -> EvictReport:
        """Evict what is too old and what is over the limit; put the index right first."""
        report = self.reconcile()
        with self._journal.database.write() as connection:
            entries = not self._settings.serve_stale
            report += self._evictor.expire(connection, entries=entries)
            report += EvictReport(self.copies.evict(None, connection))
        now = self._clock()
        self._journal.proofs.forget(now - PROOF_SECONDS, now)
        self._counter.flush()
        return report

    def clear(self) -> EvictReport:
        """Evict everything that is not in use."""
        report = self.reconcile()
        with self._journal.database.write() as connection:
            freed = self.copies.evict(self.max_bytes, connection)
            return report + self._evictor.clear(connection) + EvictReport(freed)

    def reconcile(self) -> EvictReport:
        """Bring index and disk together, whatever crash or loss there was; see `Recovery`."""
        return self._recovery.run()

    def recover(self) -> None:
        """Run `reconcile` when there are signs of a crash or a loss: few files are looked at."""
        with suppress(StorageError):  # a home that can't be written: nothing is removed either
            self.layout.check()
        if self._recovery.is_needed():
            self.reconcile()

    # -- telling ----------------------------------------------------------------------------
    def entries(self) -> list[CacheEntry]:
        """List what is cached, the latest used first."""
        found = []
        for row in self._rows.of(FolderState.COMPLETE):
            used = row.last_used
            with suppress(OSError):  # it may be gone by now
                used = min(self._clock(), (self.layout.root / row.name).lstat().st_mtime_ns / 1e9)
            expires_at = row.since + self._context.ttl_seconds
            found.append(
                CacheEntry(
                    row.key, row.source, len(row.files), row.size_bytes, row.since, expires_at,
                    used, self._context.is_in_use(used),
                )
            )  # fmt: skip
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def usage(self) -> dict[str, Any]:
        """Tell sizes and counters; ``used_bytes`` is all that counts towards ``max_bytes``."""
        self._counter.flush()
        totals = self._rows.totals()
        entries = totals[FolderState.COMPLETE]
        counters = self._journal.counters.all()
        return {
            "max_bytes": self.max_bytes,
            "used_bytes": sum(total.size_bytes for total in totals.values()),
            "reserved_bytes": sum(totals[state].size_bytes for state in DOWNLOADS),
            "quarantined_bytes": totals[FolderState.QUARANTINED].size_bytes,
            "copies_bytes": totals[FolderState.COPY].size_bytes,
            "entries": entries.folders,
            "hits": counters.get(HITS, 0),
            "misses": counters.get(MISSES, 0),
            "evicted_bytes": counters.get(EVICTED_BYTES, 0),
            "next_expiry": None
            if entries.earliest is None
            else entries.earliest + self._context.ttl_seconds,
            "ttl_days": self._context.ttl_seconds / DAY_SECONDS,
        }

    def verify(self) -> list[CacheProblem]:
        """List everything that is not as it should be, every byte read; nothing is changed."""
        return self._recovery.problems()

    def close(self) -> None:
        """Write what was counted."""
        self._counter.flush(wait=True)

    def _hit(self, place: Place, manifest: Manifest) -> CacheHit:
        fetched_at = manifest.fetched_at
        return CacheHit(
            manifest.listing,
            place.root,
            manifest.source,
            fetched_at,
            self._context.is_fresh(fetched_at) and manifest.source != PARTIAL,
        )

    def _set_aside(self, key: ScriptKey, wrong: str) -> None:
        """Quarantine an entry that was found wrong, unless it has been replaced since."""
        place = self.layout.place(key)
        try:
            self.layout.prepare()
            with self._journal.database.write() as connection:
                with self._lock.exclusive():
                    changed = self._promotion.set_aside_if_wrong(place, connection)
                if changed:
                    self._evictor.trim(connection)
        except StorageError as error:  # a read-only home: it is not served all the same
            log.warning("%s is not what it should be (%s) and stays: %s", key, wrong, error)
