"""Take staged bytes into the cache, and put aside what turned out wrong.

Everything here runs under the exclusive lock, in a write transaction of the journal.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from core.errors import IntegrityError, storage_error
from core.journal.scripts import NOBODYS, CacheFolder, FolderState
from core.models import ScriptKey
from core.scripts.eviction import CacheContext
from core.scripts.integrity import Proofs, prove
from core.scripts.manifest import Manifest, read_manifest, write_manifest
from core.scripts.models import Staged
from core.scripts.paths import Place, folder_name, is_folder, ref_of, size_on_disk

SHARE = 0.1  # of the cache's size
UNKNOWN = "unknown"  # the folder of what belonged to no entry
STRAY = "it was in the quarantine already, and nobody knows since when or why"

log = logging.getLogger(__name__)


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


class Promotion:
    """Makes entries of staged folders."""

    def __init__(self, context: CacheContext, quarantine: Quarantine, proofs: Proofs) -> None:
        self._rows = context.journal.cache_folders
        self._layout = context.layout
        self._quarantine = quarantine
        self._proofs = proofs.without_writes()  # it would wait for the transaction it runs in
        self._clock = context.clock

    def promote(
        self, items: Sequence[Staged], connection: Connection
    ) -> list[tuple[Place, Manifest]]:
        """Put staged folders in their places: first all that takes space, then all renames.

        Of a version that has nothing in the cache yet, the staged folder becomes the version's,
        with the manifest in it: half as many changes of folders as making one and moving into it.
        """
        now = self._clock()
        done: list[tuple[Place, Manifest]] = []
        moves: list[tuple[Path, Path]] = []
        places = [self._layout.place(item.listing.key) for item in items]
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

    def set_aside_if_wrong(self, place: Place, connection: Connection) -> bool:
        """Look again, nobody else changing it: quarantine what is wrong indeed."""
        wrong = self.flaw(place)
        if wrong is not None:
            self._quarantine.put_entry(place.key, wrong, connection)
        return wrong is not None

    def flaw(self, place: Place) -> str | None:
        """What is wrong with an entry; None of a sound one, and of one that is not there."""
        if place.root.is_symlink():
            return "its folder is a link"
        try:
            manifest = read_manifest(place)
        except IntegrityError as error:
            return error.detail
        if manifest is None or not os.path.lexists(place.folder):
            return None
        return prove(place.root, place.key.format, manifest.listing.files, self._proofs)

    def _stands(self, place: Place, manifest: Manifest, connection: Connection) -> bool:
        """Whether the very entry stands there already; another one is moved out of the way."""
        if not is_folder(place.root):
            reason = "a version's folder belongs here"
            self._quarantine.put(place.root, NOBODYS, reason, connection)
            return False
        if not os.path.lexists(place.folder):
            self._layout.remove_manifest(place)
            return False
        wrong = self.flaw(place)
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
        self._layout.remove_entry(place)
        return False


def _becomes(staged: Path, place: Place) -> bool:
    """Whether a staged folder may be renamed to the version's: that is not there, nothing is over.

    A manifest may be in it, of a promotion that was killed.
    """
    if os.path.lexists(place.root):
        return False
    return set(os.listdir(staged)) <= {place.key.format, place.manifest.name}  # noqa: PTH208
