"""Folders that a hand has moved: brought to where they belong, or their rows to where they are.

::

    by an AI, undecided, in local/     to ai-generated/, where it waits
    renamed and tampered with          back to the name that its row has
    local/ ◄──► ai-generated/          the row follows a folder of one's own
    synced/, moved away                back
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from core.errors import InvalidPlaybook, LeaseHeld, storage_error
from core.files import fsync_dir, make_private_dir
from core.journal import Intent, VersionRecord
from core.models import Area
from core.playbooks.intake import Edit, Intake
from core.playbooks.paths import FoundFolder
from core.playbooks.reader import PlaybookReader
from core.playbooks.writer import FolderWriter


class Places:
    """Moves folders under the store's lock, and only while they stand as they were seen."""

    def __init__(self, reader: PlaybookReader, writer: FolderWriter, intake: Intake) -> None:
        self._layout = reader.layout
        self._versions = reader.journal.versions
        self._writer = writer
        self._intake = intake

    def wait_for_decision(self, edit: Edit) -> FoundFolder:
        """Bring a folder that no row names to where what an AI made waits."""
        place = self._layout.folder(Area.AI_GENERATED, edit.ref)
        with self._writer.locked():
            if not self._intake.is_still(edit.found, edit.seen):
                raise LeaseHeld(f"{edit.found.path} is being edited.", "It is read again.")
            if place.exists():
                raise InvalidPlaybook(
                    f"{edit.found.path} is of an AI, and {place} waits for a decision already.",
                    "Compare the two and move one away.",
                )
            try:
                edit.found.path.rename(place)
                fsync_dir(place.parent)
            except OSError as error:
                raise storage_error(error, f"Moving {edit.found.path}") from error
            with contextlib.suppress(OSError):  # other versions stand there: it stays
                edit.found.path.parent.rmdir()
        return FoundFolder(Area.AI_GENERATED, place, edit.ref)

    def name_back(self, folder: FoundFolder, record: VersionRecord) -> None:
        """Bring a renamed folder back to the name that its row has."""
        place = self._layout.folder(record.area, record.ref)
        with self._writer.locked():
            if place.exists():
                raise LeaseHeld(f"{record.ref} is there again.", "It is looked at again.")
            try:
                make_private_dir(place.parent)
                folder.path.rename(place)
                fsync_dir(place.parent)
            except OSError as error:
                raise storage_error(error, f"Moving {folder.path}") from error
            with contextlib.suppress(OSError):  # other versions stand there: it stays
                folder.path.parent.rmdir()

    def settle(self, record: VersionRecord, found: Area, *, follow: bool) -> None:
        """Bring the row to where the folder is, or the folder back to where the row says."""
        ref = record.ref
        source, target = (record.area, found) if follow else (found, record.area)
        if follow and target is Area.AI_GENERATED:
            self._versions.withdraw([ref])  # it waits for a decision again
        with self._writer.locked():
            if self._layout.standing(ref) != [found]:
                raise LeaseHeld(f"{ref} is being moved.", "It is looked at again.")
            failed = self._writer.apply([
                Intent(
                    ref, "move", None, source, target,
                    replace(record, area=target), self._versions.files(ref),
                )
            ])  # fmt: skip
        if ref in failed:
            raise failed[ref]
