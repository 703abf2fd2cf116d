"""How staged bytes become an entry, and how an entry that turned out wrong stops being one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection

from core.errors import IntegrityError, storage_error
from core.journal import Journal
from core.scripts.integrity import Proofs, prove
from core.scripts.manifest import Manifest, read_manifest, write_manifest
from core.scripts.models import Staged
from core.scripts.paths import CacheLayout, Place, is_folder
from core.scripts.recovery import Quarantine


class Promotion:
    """Changes of single entries; under the exclusive lock, in a write transaction."""

    def __init__(
        self,
        journal: Journal,
        layout: CacheLayout,
        quarantine: Quarantine,
        proofs: Proofs,
        clock: Callable[[], float],
    ) -> None:
        self._rows = journal.script_cache
        self._layout = layout
        self._quarantine = quarantine
        self._proofs = proofs.without_writes()  # it would wait for the transaction it runs in
        self._clock = clock

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
        self._rows.put([manifest.row(now) for _, manifest in done], connection)
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
            self._quarantine.put(place.root, None, "a version's folder belongs here", connection)
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
