"""Carry out one intent on the folders, take it back, or finish that of a dead process.

Every step looks at what is there before it acts, so that each may be interrupted anywhere and done
again. ``write`` with ``from_area``: the old folder steps aside to ``<staged>.old``, the new one
takes its place. ``write`` without: a new version. ``move``: rename between areas and rewrite of
``metadata.json``. ``take``: the folder stays, its content is what the row comes to say.
``delete``: the folder steps aside to ``<staged>.old``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core.errors import (
    AlreadyExists,
    EscherError,
    InvalidPlaybook,
    NotFound,
    StorageError,
    storage_error,
)
from core.files import (
    atomic_write,
    json_bytes,
    make_private_dir,
    remove_tree,
    temporary_pattern,
)
from core.journal import Intent, VersionRecord
from core.models import METADATA_FILE, SERVER_OWNED_FIELDS, Area
from core.playbooks.compare import read_metadata
from core.playbooks.entry_points import FIELD
from core.playbooks.paths import GONE_SUFFIX, Layout


class FolderChanges:
    """Carries intents out on the folders; the journal is the caller's, and so is the lock."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def carry_out(self, intent: Intent, *, replayed: bool = False) -> None:
        """Bring the folder to where the intent wants it; done twice, the second finds it done.

        ``replayed``: it was begun a while ago, and somebody may have edited the folder since.
        """
        try:
            match intent.kind:
                case "write":
                    self._write(intent)
                case "move":
                    self._move(intent)
                case "take":
                    self._take(intent, settle=not replayed)
                case "delete":
                    place = self._source(intent)
                    if os.path.lexists(place):
                        place.rename(self._old(intent))
                case _:
                    raise StorageError(
                        f"The journal holds an intent of unknown kind {intent.kind!r}.",
                        "Use the version of escher-playbook-service that wrote it.",
                    )
        except OSError as error:
            raise storage_error(error, f"Storing {intent.ref}") from error

    def _write(self, intent: Intent) -> None:
        place = self._target(intent)
        staged = self._staged(intent)
        old = self._old(intent)
        if os.path.lexists(place):
            if old.exists():  # the former content waits there: it must not be thrown away
                raise StorageError(
                    f"{place} appeared while {intent.ref} was being replaced.", "Move it away."
                )
            if intent.from_area is None:
                raise AlreadyExists(
                    f"{place} appeared while {intent.ref} was being stored.",
                    "Move it away, or give another version.",
                )
            place.rename(old)
        make_private_dir(place.parent)
        staged.rename(place)

    def _move(self, intent: Intent) -> None:
        source = self._layout.place(area_of(intent.from_area), intent.ref)
        place = self._layout.place(area_of(intent.to_area), intent.ref)
        if source != place and os.path.lexists(source):
            if os.path.lexists(place):
                raise AlreadyExists(
                    f"{intent.ref} stands both in {source} and in {place}.",
                    "Compare the two and move one away.",
                )
            make_private_dir(place.parent)
            source.rename(place)
        if not place.is_dir():
            if source == place and intent.to_area is Area.SYNCED:
                return  # a missing copy: it comes back as the row says
            raise NotFound(f"The folder {source} is not there.", "Restore it from a backup.")
        if intent.record is not None:
            rewrite_metadata(place, intent.record)

    def _take(self, intent: Intent, *, settle: bool) -> None:
        place = self._layout.place(area_of(intent.to_area), intent.ref)
        if not place.is_dir():
            raise NotFound(f"The folder {place} is not there.", "Look where it went.")
        if intent.record is not None:
            rewrite_metadata(place, intent.record, fill_in=True, settle=settle)

    def take_back(self, intent: Intent) -> None:
        """Undo as far as possible; what can't be undone is carried through by the next replay."""
        with contextlib.suppress(OSError):
            if intent.kind == "write":
                place = self._target(intent)
                staged = self._staged(intent)
                old = self._old(intent)
                if not staged.exists() and self._is_written(intent):
                    place.rename(staged)
                if intent.from_area is not None and old.exists() and not place.exists():
                    old.rename(place)
                discard(staged)
            elif intent.kind == "move" and intent.from_area != intent.to_area:
                source = self._source(intent)
                place = self._target(intent)
                if place.exists() and not source.exists():
                    make_private_dir(source.parent)
                    place.rename(source)
            elif intent.kind == "delete":
                place = self._source(intent)
                old = self._old(intent)
                if old.exists() and not place.exists():
                    old.rename(place)

    def carry_through(self, intent: Intent) -> bool:
        """Finish one intent; False when it had been taken back before its process died."""
        if intent.kind == "write" and not self._staged(intent).exists():
            if self._is_written(intent):
                return True
            old = self._old(intent)
            place = self._target(intent)
            if old.exists() and not place.exists():
                old.rename(place)
            return False
        self.carry_out(intent, replayed=True)
        return True

    def _source(self, intent: Intent) -> Path:
        return self._layout.place(area_of(intent.from_area), intent.ref, itself=False)

    def _target(self, intent: Intent) -> Path:
        return self._layout.place(area_of(intent.to_area), intent.ref, itself=False)

    def _staged(self, intent: Intent) -> Path:
        return self._layout.staged(staged_of(intent))

    def _old(self, intent: Intent) -> Path:
        return self._layout.old(staged_of(intent))

    def _is_written(self, intent: Intent) -> bool:
        """Whether the folder in place is the one that the intent staged."""
        place = self._target(intent)
        if intent.record is None or not place.is_dir():
            return False
        try:
            disk = read_metadata(place)
        except EscherError:
            return False
        # no inode: begun by a version before format 4, whose metadata alone has to tell
        known = intent.inode in {None, place.lstat().st_ino}
        return known and disk == intent.record.metadata


def rewrite_metadata(
    folder: Path, record: VersionRecord, *, fill_in: bool = False, settle: bool = False
) -> None:
    """Bring the server-owned fields into ``metadata.json``; what the user edited beside them stays.

    ``fill_in``: bring fields that are absent there, too. ``settle``: bring the entry points as the
    row has them, and leave out nulls that it has not. The caller holds the store's lock.
    """
    path = folder / METADATA_FILE
    for stray in folder.glob(temporary_pattern(path)):
        stray.unlink()  # of a writer that was killed in the middle
    try:
        disk = read_metadata(folder)
    except (InvalidPlaybook, StorageError):
        return  # an edit that does not parse (yet): `verify` and the edit watch tell of it
    wanted = {key: value for key, value in disk.items() if key not in SERVER_OWNED_FIELDS}
    owned = {key: value for key, value in record.metadata.items() if key in SERVER_OWNED_FIELDS}
    if settle:
        unsettled = {FIELD, *(key for key, value in wanted.items() if value is None)}
        wanted = {key: v for key, v in wanted.items() if key not in unsettled}
    if fill_in:
        absent = {k: v for k, v in record.metadata.items() if wanted.get(k) is None}
        owned = absent | owned
    merged = {key: (wanted | owned)[key] for key in [*disk, *owned] if key in wanted | owned}
    if merged != disk:
        atomic_write(path, json_bytes(merged))


def discard(folder: Path) -> None:
    """Remove a staging folder; whenever it is interrupted, it is there whole or not at all."""
    gone = folder.with_name(folder.name + GONE_SUFFIX)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    remove_tree(gone)


def area_of(area: Area | None) -> Area:
    """An area of an intent, of a kind that names it."""
    assert area is not None  # every kind names the areas it uses
    return Area(area)


def staged_of(intent: Intent) -> str:
    """The name of an intent's staging folder, of a kind that has one."""
    assert intent.staged is not None  # write and delete name a staging folder
    return intent.staged
