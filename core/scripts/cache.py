"""Keep verified scripts on disk, found by version and format, within an age and a size.

`ScriptCache.find` answers with bytes that were proven in that very call. It reads manifest and files,
marks the use on the folder, and touches no database. All changes are one write transaction of the
journal with renames inside it, so that a process killed at any step leaves what `reconcile` puts
right (`core.scripts.recovery`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import EscherError, IntegrityError, StorageError, storage_error
from core.journal import Journal
from core.journal.facts import Counters
from core.journal.scripts import DOWNLOADS, NOBODYS, FolderState
from core.models import ScriptKey
from core.scripts.copies import Copies
from core.scripts.entries import (
    Manifest,
    Manifests,
    Place,
    footprint,
    is_folder,
    read_manifest,
    remove,
    write_manifest,
)
from core.scripts.eviction import EVICTED_BYTES, Evictor, EvictReport, Quarantine
from core.scripts.integrity import PROOF_SECONDS, Proofs, files_beside, prove
from core.scripts.layout import DAY_SECONDS, MEBIBYTE, CacheContext, CacheLayout
from core.scripts.models import PARTIAL, CacheEntry, CacheHit, Staged
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
        self.layout = CacheLayout(settings, journal)
        self.proofs = Proofs(journal.proofs, clock)
        self._lock = self.layout.lock
        self._context = CacheContext(
            journal,
            self.layout,
            clock,
            max_bytes=int(settings.cache_max_size_mb * MEBIBYTE),
            ttl_seconds=settings.cache_ttl_days * DAY_SECONDS,
            lease_seconds=settings.cache_lease_seconds,
        )
        self._evictor = Evictor(self._context)
        self._quarantine = Quarantine(self._context)
        self._recovery = Recovery(self._context, self._evictor, self._quarantine, self.proofs)
        self.copies = Copies(
            settings, journal, self.layout, self.proofs,
            make_room=self._evictor.make_room, clock=clock,
        )  # fmt: skip
        self._evictor.let_copies_go = self.copies.evict
        self._manifests = Manifests(self.layout.scripts)
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
            known = self._manifests.find(key)
        except IntegrityError as error:
            self._set_aside(key, error.detail)
            return None
        # marked before it is proven, so that it is not evicted meanwhile
        if known is None or not self._context.mark_used(known.folder):
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
                done = self._put_in_place(items, connection)
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

    def quarantine_staged(self, staged: Path, key: ScriptKey, reason: str) -> None:
        """Put a download aside whose bytes are wrong."""
        self.layout.prepare()
        with self._journal.database.write() as connection:
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
                    found = self._flaw(place)  # once more: it may have been replaced since
                    if found is not None:
                        self._quarantine.put_entry(key, found, connection)
                if found is not None:
                    self._evictor.trim(connection)
        except StorageError as error:  # a read-only home: it is not served all the same
            log.warning("%s is not what it should be (%s) and stays: %s", key, wrong, error)

    def _put_in_place(
        self, items: Sequence[Staged], connection: Connection
    ) -> list[tuple[Place, Manifest]]:
        """Put staged folders in their places: first all that takes space, then all renames.

        Of a version that has nothing in the cache yet, the staged folder becomes the version's,
        with the manifest in it: half as many changes of folders as making one and moving into it.
        """
        now = self._clock()
        done: list[tuple[Place, Manifest]] = []
        moves: list[tuple[Path, Path]] = []
        places = [self.layout.place(item.listing.key) for item in items]
        formats = Counter(place.root for place in places)
        try:
            for item, place in zip(items, places, strict=True):
                manifest = Manifest(item.listing, item.source, now)
                done.append((place, manifest))
                folder = place.folder
                if formats[place.root] == 1 and _becomes(item.folder, place):
                    os.utime(item.folder / place.key.format, (now, now))
                    write_manifest(Place(place.key, item.folder), manifest)
                    moves.append((item.folder, place.root))
                    continue
                if not self._stands(place, manifest, connection):
                    folder = item.folder / place.key.format
                    moves.append((folder, place.folder))
                    place.root.mkdir(mode=0o700, exist_ok=True)
                os.utime(folder, (now, now))  # used now: its caller is about to run it
                write_manifest(place, manifest)
            for staged, folder in moves:
                staged.rename(folder)
        except OSError as error:
            raise storage_error(error, "Taking a download into the cache") from error
        self._rows.put([manifest.row(place, now) for place, manifest in done], connection)
        return done

    def _flaw(self, place: Place) -> str | None:
        """What is wrong with an entry; None of a sound one, and of one that is not there."""
        if place.root.is_symlink():
            return "its folder is a link"
        try:
            manifest = read_manifest(place)
        except IntegrityError as error:
            return error.detail
        if manifest is None or not os.path.lexists(place.folder):
            return None
        # a proof that is written would wait for the transaction that this runs in
        return prove(
            place.root, place.key.format, manifest.listing.files, self.proofs.without_writes()
        )

    def _stands(self, place: Place, manifest: Manifest, connection: Connection) -> bool:
        """Whether the very entry stands there already; another one is moved out of the way."""
        if not is_folder(place.root):
            reason = "a version's folder belongs here"
            self._quarantine.put(place.root, NOBODYS, reason, connection)
            return False
        if not os.path.lexists(place.folder):
            self.layout.remove_manifest(place)
            return False
        wrong = self._flaw(place)
        try:
            old = read_manifest(place)
        except IntegrityError:
            old = None
        if wrong is not None or old is None:
            reason = wrong or "its manifest is missing"
            self._quarantine.put_entry(place.key, reason, connection)
            return False
        if old.listing.digest == manifest.listing.digest:
            return True
        self.layout.remove_entry(place)
        return False


def _becomes(staged: Path, place: Place) -> bool:
    """Whether a staged folder may be renamed to the version's: that is not there, nothing is over.

    A manifest may be in it, of a promotion that was killed.
    """
    if os.path.lexists(place.root):
        return False
    return set(os.listdir(staged)) <= {place.key.format, place.manifest.name}  # noqa: PTH208
