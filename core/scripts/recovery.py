"""Bring index and disk together after a crash or a lost journal, or only tell what is wrong.

The disk decides. What proves to be what its manifest says (or, where that is lost, what the index
says) is an entry; a folder that proves to be nothing goes into quarantine; a row without a folder
goes. Of downloads the lease decides: what a dead process or nobody will come back to goes, with
every folder in staging that no row names. So a lost journal, a lost folder and a process killed
between the two all end well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from core.errors import IntegrityError, Refused, StorageError
from core.journal.scripts import NOBODYS, CacheFolder, FolderState
from core.models import ScriptKey
from core.scripts.entries import (
    Manifest,
    Place,
    is_folder,
    listed,
    read_manifest,
    remove,
    size_on_disk,
    write_manifest,
)
from core.scripts.eviction import Evictor, EvictReport, Quarantine
from core.scripts.integrity import Proofs, prove
from core.scripts.layout import CacheContext

STAGED_SECONDS = 3600.0  # what waits longer to be verified has lost its job
FAILED_SECONDS = 86_400.0  # for so long a failure is told, and its attempts are counted
BATCH = 16  # entries that are put right in one transaction
_RECOVER = "`escher-playbooks cache evict` puts it right."
# an eviction reads no entry's bytes; a resolve does
_NOT_SERVED = (
    "It is not served: the next resolve sets it aside and fetches it anew;"
    " `escher-playbooks cache clear` lets it go."
)


class CacheProblem(NamedTuple):
    """Names one thing of the cache that is wrong; ``key`` is None where no entry is."""

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


class Recovery:
    """Puts the whole cache right; what looks wrong is looked at once more, locked."""

    def __init__(
        self, context: CacheContext, evictor: Evictor, quarantine: Quarantine, proofs: Proofs
    ) -> None:
        self._context = context
        self._database = context.journal.database
        self._rows = context.journal.cache_folders
        self._downloads = context.journal.downloads
        self._layout = context.layout
        self._evictor = evictor
        self._quarantine = quarantine
        self._proofs = proofs

    # -- putting right ----------------------------------------------------------------------
    def is_needed(self) -> bool:
        """Tell whether a download died, a folder in staging is nobody's, or the index was lost."""
        staged = {path.name for path in listed(self._layout.staging)}  # before the rows are read
        rows = self._downloads.all()
        if staged - {Path(row.name).name for row in rows}:
            return True
        running = (row for row in rows if row.state is FolderState.DOWNLOADING)
        if any(self._downloads.is_free(row.key) for row in running):
            return True
        return bool(listed(self._layout.scripts)) and not self._rows.of(FolderState.COMPLETE)

    def run(self) -> EvictReport:
        """Put everything right; returns what had to go for the cache to be within its limit."""
        self._layout.prepare()
        rows = self._complete()
        places, strays = self._layout.found()
        suspects = [
            place
            for place in self._places(places.values(), rows)
            if not self._agree(place, rows.get(place.name))
        ]
        for start in range(0, len(suspects), BATCH):
            self._mend(suspects[start : start + BATCH])
        with self._database.write() as connection:
            with self._layout.lock.exclusive():
                for path in strays:
                    self._put_away(path, connection)
                self._quarantine.reconcile(connection)
                self._clear_staging(connection)
                self._rows.seen(self._last_uses(rows.values()), connection)
            return self._evictor.trim(connection)

    def _agree(self, place: Place, row: CacheFolder | None) -> bool:
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
        with self._database.write() as connection, self._layout.lock.exclusive():
            for place in suspects:
                row = self._rows.get(place.name, connection)
                found = self._examine(place, row, self._proofs.without_writes())
                if found.proven is not None:
                    self._adopt(place, found.proven, row, connection)
                elif found.present:
                    self._quarantine.put_entry(place.key, found.wrong or "", connection)
                else:
                    self._layout.remove_entry(place)
                    self._rows.delete([place.name], connection)

    def _adopt(
        self, place: Place, proven: Manifest, row: CacheFolder | None, connection: Connection
    ) -> None:
        try:
            same = read_manifest(place) == proven
        except IntegrityError:
            same = False
        if not same:
            self._layout.remove_manifest(place)
            write_manifest(place, proven)
        if row is None or Manifest.of_row(row) != proven:
            used = self._context.last_use(place.folder) or self._context.clock()
            self._rows.put([proven.row(place, used)], connection)

    def _put_away(self, path: Path, connection: Connection) -> None:
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            remove(path)  # a manifest whose writer was killed; it is written under our lock
        else:
            self._quarantine.put(path, NOBODYS, "it is no part of the cache", connection)

    def _clear_staging(self, connection: Connection) -> None:
        now = self._context.clock()
        gone = self._downloads.forget_abandoned(
            connection, staged_before=now - STAGED_SECONDS, failed_before=now - FAILED_SECONDS
        )
        for path in {self._layout.root / row.name for row in gone} | set(self._unnamed_staging()):
            remove(path)

    def _last_uses(self, rows: Iterable[CacheFolder]) -> dict[str, float]:
        seen: dict[str, float] = {}
        for row in rows:
            used = self._context.last_use(self._layout.root / row.name)
            if used is not None and used != row.last_used:
                seen[row.name] = used
        return seen

    # -- telling ----------------------------------------------------------------------------
    def problems(self) -> list[CacheProblem]:
        """List everything that is wrong, every byte read; nothing is changed."""
        rows = self._complete()
        places, _ = self._layout.found()
        suspects = [
            place
            for place in self._places(places.values(), rows)
            if self._examine(place, rows.get(place.name), None).wrong
        ]
        try:
            with self._database.write(), self._layout.lock.exclusive():
                return self._told(suspects)
        except (
            StorageError,
            Refused,
        ):  # it can't be changed, or is not ours: nobody does meanwhile
            return self._told(suspects)

    def _told(self, suspects: list[Place]) -> list[CacheProblem]:
        rows = self._complete()
        problems = []
        for place in suspects:
            row = rows.get(place.name)
            found = self._examine(place, row, None)
            if found.wrong is not None:
                remedy = _NOT_SERVED if self._agree(place, row) else _RECOVER
                problems.append(CacheProblem(place.key, str(place.folder), found.wrong, remedy))
        layout, max_bytes = self._layout, self._context.max_bytes
        _, strays = layout.found()
        left = [(path, "It is no part of the cache.") for path in strays]
        staging = self._unnamed_staging()
        left += [(path, "Left in staging by a process that was killed.") for path in staging]
        left += [(path, "It waits to be removed.") for path in listed(layout.trash)]
        known = {row.name for row in self._rows.of(FolderState.QUARANTINED)}
        left += [
            (layout.root / name, "The index and the quarantine do not agree on it.")
            for name in sorted(known ^ set(layout.quarantined()))
        ]
        size = sum(map(size_on_disk, (layout.scripts, layout.staging, layout.quarantine)))
        if size > max_bytes:
            left.append((layout.root, f"It takes {size} bytes, and {max_bytes} are allowed."))
        return problems + [CacheProblem(None, str(path), what, _RECOVER) for path, what in left]

    # -- looking ----------------------------------------------------------------------------
    def _complete(self) -> dict[str, CacheFolder]:
        return {row.name: row for row in self._rows.of(FolderState.COMPLETE)}

    def _places(self, found: Iterable[Place], rows: dict[str, CacheFolder]) -> list[Place]:
        places = {place.key: place for place in found}
        for row in rows.values():
            places.setdefault(row.key, self._layout.place(row.key))
        return [places[key] for key in sorted(places)]

    def _examine(self, place: Place, row: CacheFolder | None, proofs: Proofs | None) -> _Finding:
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
        """Folders in staging that no download names: a row is written before its folder is made."""
        there = listed(self._layout.staging)  # first: its row may be written meanwhile
        named = {row.name for row in self._downloads.all()} if there else set()
        return [path for path in there if f"{self._layout.staging.name}/{path.name}" not in named]
