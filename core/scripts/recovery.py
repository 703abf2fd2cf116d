"""Bytes that were not what they claimed, kept for a while so that somebody can look at them.

They count towards the cache's size, are the first to go when room is needed, never take more than a
share of it, and are gone after the TTL.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from core.errors import IntegrityError, Refused, StorageError, storage_error
from core.journal import Journal
from core.journal.scripts import CacheRow, EntryKey, QuarantineRow
from core.scripts.eviction import CacheLock, CacheRoom, EvictReport
from core.scripts.integrity import Proofs, prove
from core.scripts.manifest import Manifest, read_manifest, write_manifest
from core.scripts.models import ScriptKey
from core.scripts.paths import (
    CacheLayout,
    Place,
    folder_name,
    is_folder,
    listed,
    ref_of,
    remove,
    size_on_disk,
)

SHARE = 0.1  # of the cache's size
UNKNOWN = "unknown"  # the folder of what belonged to no entry
STRAY = "it was in the quarantine already, and nobody knows since when or why"

log = logging.getLogger(__name__)


class Quarantine:
    """Puts things aside. Its methods run under the exclusive lock, in a write transaction."""

    def __init__(
        self, journal: Journal, layout: CacheLayout, clock: Callable[[], float], max_bytes: int
    ) -> None:
        self._rows = journal.script_cache
        self._layout = layout
        self._clock = clock
        self._max_bytes = int(max_bytes * SHARE)

    def put(self, path: Path, key: ScriptKey | None, reason: str, connection: Connection) -> None:
        """Move what stands at ``path`` aside; nothing there is fine."""
        if not os.path.lexists(path):
            return
        hex_ = uuid.uuid4().hex
        name = f"{UNKNOWN}/{hex_}"
        if key is not None:
            name = f"{folder_name(key.ref)}/{key.format}-{hex_}"
        log.warning("%s goes into quarantine: %s", key or path, reason)
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
        self._rows.delete([(key.ref, key.format)], connection)

    def reconcile(self, connection: Connection) -> None:
        """Make the rows say what is there."""
        there = set(self._layout.quarantined())
        known = {row.name for row in self._rows.quarantined(connection)}
        self._rows.delete_quarantined(sorted(known - there), connection)
        for name in sorted(there - known):
            folder, _, rest = name.partition("/")
            ref = ref_of(folder)
            format_ = rest.rpartition("-")[0]
            key = ScriptKey(ref, format_) if ref is not None and format_ else None
            self._enter(name, key, STRAY, connection)
        self._bound(connection)

    def _enter(self, name: str, key: ScriptKey | None, reason: str, connection: Connection) -> None:
        row = QuarantineRow(
            name=name,
            playbook_id=key.ref.playbook_id if key else "",
            version=key.ref.version if key else "",
            format=key.format[:32] if key else "",
            size_bytes=size_on_disk(self._layout.quarantine / name),
            at=self._clock(),
            reason=reason,
        )
        self._rows.put_quarantined(row, connection)

    def _bound(self, connection: Connection) -> None:
        rows = self._rows.quarantined(connection)
        excess = sum(row.size_bytes for row in rows) - self._max_bytes
        gone: list[str] = []
        for row in rows:
            if excess <= 0:
                break
            self._layout.drop_quarantined(row.name)
            gone.append(row.name)
            excess -= row.size_bytes
        self._rows.delete_quarantined(gone, connection)
        self._layout.sweep()


# The index against the disk: put right, or only told.
#
# The disk decides. What proves to be what its manifest says (or, where that is lost, what the index
# says) is an entry; a folder that proves to be nothing goes into quarantine; a row without a folder
# goes. So a lost journal, a lost folder and a process killed between the two all end well.


# A staging folder that no download has named may belong to a caller that has just made it.
UNNAMED_STAGING_SECONDS = 600.0
BATCH = 16  # entries that are put right in one transaction
_RECOVER = "`escher-playbooks cache evict` puts it right."
# an eviction reads no entry's bytes; a resolve does
_NOT_SERVED = (
    "It is not served: the next resolve sets it aside and fetches it anew;"
    " `escher-playbooks cache clear` lets it go."
)


class CacheProblem(NamedTuple):
    """One thing of the cache that is not as it should be; ``key`` is None where no entry is."""

    key: ScriptKey | None
    path: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return {
            "ref": str(self.key.ref) if self.key else None,
            "format": self.key.format if self.key else None,
            "path": self.path,
            "what": self.what,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class _Finding:
    """One entry: what is wrong with it, if anything, and the manifest that its folder proves."""

    wrong: str | None
    proven: Manifest | None = None
    present: bool = True


class Reconciler:
    """Looks at the whole cache, and at each entry that is not as it should be once more, locked."""

    def __init__(
        self,
        journal: Journal,
        layout: CacheLayout,
        lock: CacheLock,
        room: CacheRoom,
        quarantine: Quarantine,
        proofs: Proofs,
        clock: Callable[[], float],
    ) -> None:
        self._database = journal.database
        self._rows = journal.script_cache
        self._layout = layout
        self._lock = lock
        self._room = room
        self._quarantine = quarantine
        self._proofs = proofs
        self._clock = clock

    # -- putting right ----------------------------------------------------------------------
    def run(self) -> EvictReport:
        """Bring index and disk together; what had to go for the cache to be within its limit."""
        self._layout.prepare()
        rows = {row.key: row for row in self._rows.all()}
        places, strays = self._layout.found()
        suspects = [
            place
            for place in self._places(places.values(), rows)
            if not self._agree(place, rows.get((place.key.ref, place.key.format)))
        ]
        for start in range(0, len(suspects), BATCH):
            self._mend(suspects[start : start + BATCH])
        self._remove_unnamed_staging()
        with self._rows.changing() as connection:
            with self._lock.exclusive():
                for path in strays:
                    self._put_away(path, connection)
                self._quarantine.reconcile(connection)
                self._rows.seen(self._last_uses(rows), connection)
            return self._room.trim(connection)

    def _agree(self, place: Place, row: CacheRow | None) -> bool:
        """Whether folder, manifest and row are all there and say the same; no byte is read."""
        if row is None or not is_folder(place.folder) or place.root.is_symlink():
            return False
        try:
            manifest = read_manifest(place)
        except IntegrityError:
            return False
        return manifest == Manifest.of_row(row)

    def _mend(self, suspects: list[Place]) -> None:
        for place in suspects:  # large files are hashed here, so that their proof serves below
            self._examine(place, None, self._proofs)
        with self._rows.changing() as connection, self._lock.exclusive():
            for place in suspects:
                key = place.key
                row = self._rows.get((key.ref, key.format), connection)
                found = self._examine(place, row, self._proofs.without_writes())
                if found.proven is not None:
                    self._adopt(place, found.proven, row, connection)
                elif found.present:
                    self._quarantine.put_entry(key, found.wrong or "", connection)
                else:
                    self._layout.remove_entry(place)
                    self._rows.delete([(key.ref, key.format)], connection)

    def _adopt(self, place: Place, proven: Manifest, row: CacheRow | None, connection: Any) -> None:
        try:
            same = read_manifest(place) == proven
        except IntegrityError:
            same = False
        if not same:
            self._layout.remove_manifest(place)
            write_manifest(place, proven)
        if row is None or Manifest.of_row(row) != proven:
            used = self._room.last_use(place.folder)
            self._rows.put([proven.row(used or self._clock())], connection)

    def _put_away(self, path: Path, connection: Any) -> None:
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            remove(path)  # a manifest whose writer was killed; it is written under our lock
        else:
            self._quarantine.put(path, None, "it is no part of the cache", connection)

    def _last_uses(self, rows: dict[EntryKey, CacheRow]) -> dict[EntryKey, float]:
        seen: dict[EntryKey, float] = {}
        for key, row in rows.items():
            used = self._room.last_use(self._layout.place(ScriptKey(*key)).folder)
            if used is not None and used != row.last_used:
                seen[key] = used
        return seen

    def _remove_unnamed_staging(self) -> None:
        for path in self._unnamed_staging():
            remove(path)

    # -- telling ----------------------------------------------------------------------------
    def problems(self) -> list[CacheProblem]:
        """Everything that is wrong, every byte read; nothing is changed."""
        rows = {row.key: row for row in self._rows.all()}
        places, _ = self._layout.found()
        suspects = [
            place
            for place in self._places(places.values(), rows)
            if self._examine(place, rows.get((place.key.ref, place.key.format)), None).wrong
        ]
        try:
            with self._database.write(), self._lock.exclusive():
                return self._told(suspects)
        except (
            StorageError,
            Refused,
        ):  # can't be written, or is not ours: nobody changes it meanwhile
            return self._told(suspects)

    def _told(self, suspects: list[Place]) -> list[CacheProblem]:
        rows = {row.key: row for row in self._rows.all()}
        problems = []
        for place in suspects:
            key = place.key
            row = rows.get((key.ref, key.format))
            found = self._examine(place, row, None)
            if found.wrong is not None:
                remedy = _NOT_SERVED if self._agree(place, row) else _RECOVER
                problems.append(CacheProblem(key, str(place.folder), found.wrong, remedy))
        _, strays = self._layout.found()
        left = [(path, "It is no part of the cache.") for path in strays]
        left += [
            (path, "Left in staging by a process that was killed.")
            for path in self._unnamed_staging()
        ]
        left += [(path, "It waits to be removed.") for path in listed(self._layout.trash)]
        problems += [CacheProblem(None, str(path), what, _RECOVER) for path, what in left]
        return problems + self._wrong_sums()

    def _wrong_sums(self) -> list[CacheProblem]:
        rows = {row.name: row for row in self._rows.quarantined()}
        there = {name: self._layout.quarantine / name for name in self._layout.quarantined()}
        wrong = [name for name in {*rows, *there} if name not in rows or name not in there]
        problems = [
            CacheProblem(None, str(self._layout.quarantine / name), what, _RECOVER)
            for name in sorted(wrong)
            for what in ["The index and the quarantine do not agree on it."]
        ]
        folders = (self._layout.scripts, self._layout.staging, self._layout.quarantine)
        size = sum(map(size_on_disk, folders))
        if size > self._room.max_bytes:
            what = f"It takes {size} bytes, and {self._room.max_bytes} are allowed."
            problems.append(CacheProblem(None, str(self._layout.root), what, _RECOVER))
        return problems

    # -- looking ----------------------------------------------------------------------------
    def _places(self, found: Iterable[Place], rows: dict[EntryKey, CacheRow]) -> list[Place]:
        places = {place.key: place for place in found}
        for ref, format_ in rows:
            key = ScriptKey(ref, format_)
            places.setdefault(key, self._layout.place(key))
        return [places[key] for key in sorted(places)]

    def _examine(self, place: Place, row: CacheRow | None, proofs: Proofs | None) -> _Finding:
        """What an entry is. Without a lock it may be told wrong while it is being replaced."""
        if not os.path.lexists(place.folder):
            return _Finding("Its folder is missing.", present=False)
        if place.root.is_symlink():
            return _Finding("Its folder is a link.")
        wrong = "Its manifest is missing."
        manifest = None
        try:
            manifest = read_manifest(place)
        except IntegrityError as error:
            wrong = error.detail
        known = Manifest.of_row(row) if row is not None else None
        for candidate in (manifest, known):
            if candidate is None:
                continue
            files = candidate.listing.files
            flaw = prove(place.root, place.key.format, files, proofs)
            if flaw is not None:
                wrong = f"{flaw}."
            elif candidate != manifest:
                return _Finding(wrong, candidate)
            elif candidate != known:
                return _Finding("The index does not know it so.", candidate)
            else:
                return _Finding(None, candidate)
        return _Finding(wrong)

    def _unnamed_staging(self) -> list[Path]:
        there = listed(self._layout.staging)  # first: a download names its folder before it is made
        named = self._rows.staged_names() if there else set()
        return [path for path in there if path.name not in named and _is_old(path)]


def _is_old(path: Path) -> bool:
    try:
        # of the system's clock, whatever the cache's is: mkdir has marked it
        return time.time() - path.lstat().st_mtime > UNNAMED_STAGING_SECONDS
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, f"Looking at {path}") from error
