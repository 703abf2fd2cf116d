"""Bring folders back: to what was published, to where they belong, and out of the trash.

::

    edited or broken, published       what is still right in it, the rest from the server; where that
                                      can't be had now, ``metadata.json`` stands alone until it can
    tampered with, sealed             what was sealed, from its second copy
    by an AI, undecided, in local/    to ai-generated/, where it waits
    renamed and tampered with         back to the name that its row has
    local/ ◄──► ai-generated/         the row follows a folder of one's own
    synced/, moved away               back
    trash/…                           a private version under the next free number

What is no part of a playbook (a README, an editor's swap file) is carried along.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    Refused,
    storage_error,
)
from core.files import fsync_dir, make_private_dir, read_bytes
from core.journal import Intent, VersionRecord
from core.models import (
    METADATA_FILE,
    PARAMETERS_FILE,
    Area,
    FileEntry,
    Ref,
    Strategy,
    executables,
)
from core.playbooks.compare import FolderStat, published_digest, stat_folder
from core.playbooks.decisions import COUNTS
from core.playbooks.drafts import draft_from_folder
from core.playbooks.folder_copies import Trash, carry_extras
from core.playbooks.intake import Edit, Intake
from core.playbooks.paths import FoundFolder
from core.playbooks.reader import is_unfetched
from core.playbooks.sealing import to_clear, with_defaults_of
from core.playbooks.store import PlaybookStore
from core.playbooks.unix_times import kept_time
from core.playbooks.verify import generation_on_disk
from core.playbooks.versioning import check_unchanged, free_patch, successor_metadata

Fetch = Callable[[Ref], Mapping[str, bytes]]
"""The published bytes of a version by path; `TransientError` when the server is out of reach."""

log = logging.getLogger(__name__)


class Restorer:
    """Writes published folders anew; safe to do twice, and to be killed in."""

    def __init__(self, store: PlaybookStore) -> None:
        self._store = store
        self._layout = store.layout
        self._versions = store.journal.versions
        self._writer = store.writer

    def restore(self, ref: Ref, fetch: Fetch, seen: FolderStat, *, beside: bool = False) -> bool:
        """Bring the folder back to what was published; False when it had to stay without content.

        ``beside``: what stands beside the content stays there; else it is part of an edit.
        ``seen``: the folder as its edit was taken; another one holds an edit that was not, and is
        left (`LeaseHeld`). Raises `LeaseHeld` while a worker is at the version, `Refused` for one that is not published.
        """
        record = self._published(ref)
        rows = self._versions.files(ref)
        clear = self._still_right(record, rows)
        if len(clear) < len(rows):
            try:
                clear = self._complete(record, rows, clear, fetch(ref))
            except EscherError as error:
                log.warning("%s stands without its content for now: %s", ref, error.detail)
                self._replace(record, {}, rows, seen, beside=beside)
                return False
        self._replace(record, clear, rows, seen, beside=beside)
        return True

    def bring_back(self, ref: Ref, fetch: Fetch) -> None:
        """Write a published folder that vanished; raises what kept its content from coming."""
        record = self._published(ref)
        rows = self._versions.files(ref)
        self._replace(record, self._complete(record, rows, {}, fetch(ref)), rows, None)

    def put_back(self, record: VersionRecord, seen: FolderStat) -> None:
        """Bring the folder ``seen`` of a sensitive version back to what was sealed in it.

        Raises `NotFound` where its sealed content is nowhere any more.
        """
        rows = self._versions.files(record.ref)
        clear = self._still_right(record, rows)
        for row in rows:
            path = row.path
            if path not in clear:
                kept = self._store.sealed_copy(record, path)
                if kept is None or published_digest(path, kept) != row.checksum:
                    raise NotFound(f"{record.ref} {path} is kept nowhere else.")
                clear[path] = kept
        self._replace(record, clear, rows, seen)

    # -- parts ------------------------------------------------------------------------------
    def _published(self, ref: Ref) -> VersionRecord:
        record = self._store.get(ref)
        if not record.is_published:
            raise Refused(
                f"{ref} is not published: there is nothing to restore it from.",
                "Restore it from a backup.",
            )
        return record

    def _still_right(self, record: VersionRecord, rows: tuple[FileEntry, ...]) -> dict[str, bytes]:
        """In clear, the files of the folder that are what was published."""
        folder = self._layout.folder(record.area, record.ref)
        right = {}
        for row in rows:
            try:
                clear = self._in_clear(record, row.path, folder)
                if published_digest(row.path, clear) == row.checksum:
                    right[row.path] = clear
            except EscherError:
                continue  # gone, a link, broken or sealed elsewhere: it is fetched
        return right

    def _in_clear(self, record: VersionRecord, path: str, folder: Path) -> bytes:
        disk = {path: read_bytes(folder / path)}
        return self._store.in_clear(record, disk, edited=True)[path]

    def _complete(
        self,
        record: VersionRecord,
        rows: tuple[FileEntry, ...],
        clear: Mapping[str, bytes],
        fetched: Mapping[str, bytes],
    ) -> dict[str, bytes]:
        """``clear`` with what it lacks from ``fetched``, each byte checked."""
        complete = {}
        for row in rows:
            path = row.path
            content = clear.get(path, fetched.get(path))
            if content is None:
                raise NotFound(f"{record.ref} {path} could not be had.", "Sync again.")
            if published_digest(path, content) != row.checksum:
                raise IntegrityError(
                    f"{record.ref} {path} came with other bytes than were published.",
                    "Sync again; if it stays, tell the server's operator.",
                )
            complete[path] = content
        if PARAMETERS_FILE in complete and PARAMETERS_FILE not in clear:
            complete[PARAMETERS_FILE] = self._with_own_defaults(record, complete[PARAMETERS_FILE])
        return complete

    def _with_own_defaults(self, record: VersionRecord, published: bytes) -> bytes:
        """The defaults of sensitive parameters never left this machine: keep them where they are."""
        folder = self._layout.folder(record.area, record.ref)
        try:
            return with_defaults_of(published, self._in_clear(record, PARAMETERS_FILE, folder))
        except EscherError:
            return published  # there is no own file, or it can't be read

    def _replace(
        self,
        record: VersionRecord,
        clear: Mapping[str, bytes],
        rows: tuple[FileEntry, ...],
        seen: FolderStat | None,
        *,
        beside: bool = False,
    ) -> None:
        """Let the content take the place of the folder ``seen``; None: of nothing."""
        ref = record.ref
        place = self._layout.place(record.area, ref, itself=False)
        self._writer.prepare()
        with self._store.leased([ref]):
            generation = record.generation + 1
            marked = executables(rows)
            name = self._store.stager.write(ref, record.metadata, clear, generation, marked)
            with self._writer.discarding(name), self._writer.locked():
                current = check_unchanged(self._versions, record)
                if not _is(stat_folder(place, 0, with_parent=False), seen):
                    raise LeaseHeld(f"{ref} was changed meanwhile.", "Try again.")
                content = {row.path for row in rows}
                staged = self._layout.staged(name)
                carry_extras(place, staged, content, leftovers=bool(clear), beside=beside)
                there = current.area if seen is not None else None
                fetched = bool(clear) or not rows
                renewed = replace(current, generation=generation, fetched=fetched)
                self._writer.apply_one(
                    Intent(ref, "write", name, there, current.area, renewed, rows)
                )


def _is(stands: FolderStat | None, seen: FolderStat | None) -> bool:
    if stands is None or seen is None:
        return stands is seen
    return stands.own_fingerprint == seen.own_fingerprint


class FolderMover:
    """Moves folders under the store's lock, and only while they stand as they were seen."""

    def __init__(self, store: PlaybookStore, intake: Intake) -> None:
        self._layout = store.layout
        self._versions = store.journal.versions
        self._writer = store.writer
        self._intake = intake

    def to_undecided(self, edit: Edit) -> FoundFolder:
        """Bring a folder that no row names to where what an AI made waits; where it is then.

        Raises `LeaseHeld` while it is edited, `InvalidPlaybook` where another one waits there.
        """
        place = self._layout.folder(Area.AI_GENERATED, edit.ref)
        with self._writer.locked():
            if not self._intake.is_still(edit.found, edit.seen):
                raise LeaseHeld(f"{edit.found.path} is being edited.", "It is read again.")
            if place.exists():
                raise InvalidPlaybook(
                    f"{edit.found.path} is of an AI, and {place} waits for a decision already.",
                    "Compare the two and move one away.",
                )
            _rename(edit.found.path, place)
        return FoundFolder(Area.AI_GENERATED, place, edit.ref)

    def rename_back(self, folder: FoundFolder, record: VersionRecord) -> None:
        """Bring a renamed folder back to the name that its row has; `LeaseHeld` if one is there."""
        place = self._layout.folder(record.area, record.ref)
        with self._writer.locked():
            if place.exists():
                raise LeaseHeld(f"{record.ref} is there again.", "It is looked at again.")
            _rename(folder.path, place)

    def settle(self, record: VersionRecord, found: Area, *, follow: bool) -> None:
        """Bring the row to where the folder is (``follow``), or the folder back to where the row says.

        Raises `LeaseHeld` while the folder is moved, else what kept it from being done.
        """
        ref = record.ref
        source, target = (record.area, found) if follow else (found, record.area)
        if follow and target is Area.AI_GENERATED:
            self._versions.withdraw([ref])  # it waits for a decision again
        with self._writer.locked():
            if self._layout.areas_with(ref) != [found]:
                raise LeaseHeld(f"{ref} is being moved.", "It is looked at again.")
            moved = replace(record, area=target)
            files = self._versions.files(ref)
            self._writer.apply_one(Intent(ref, "move", None, source, target, moved, files))


def _rename(source: Path, place: Path) -> None:
    """Move a folder, durably, and remove what it stood in when nothing else does."""
    try:
        make_private_dir(place.parent)
        source.rename(place)
        fsync_dir(place.parent)
    except OSError as error:
        raise storage_error(error, f"Moving {source}") from error
    with contextlib.suppress(OSError):  # other versions stand there: it stays
        source.parent.rmdir()


def restore_from_trash(store: PlaybookStore, trash: Trash, ref: Ref) -> Ref:
    """Bring a version back from the trash as a private one, under the next free version; which.

    What stood beside the content comes along. What was never published from here is imported, to
    the secrets gate and where an AI wrote it: nobody here has decided on it yet.

    Raises `NotFound` when it is not there, or its content never came to this machine.
    """
    entry = trash.find(ref)
    if is_unfetched(entry.path):
        raise NotFound(
            f"Of {ref} only the metadata is in the trash: its content never came here.",
            "Ask a machine that had it.",
        )
    draft = draft_from_folder(entry.path, store.limits)
    clear = to_clear(
        draft.files,
        ref,
        generation_on_disk(draft.files),
        store.envelope,
        sensitive=bool(draft.metadata.get("sensitive")),
        edited=True,
    )
    # the counts are of the version that they were counted for
    base = {name: value for name, value in draft.metadata.items() if name not in COUNTS}
    base["playbook_id"] = ref.playbook_id
    base["created_at"] = kept_time(base.get("created_at"), int(time.time()))
    version = free_patch(store.journal.versions, ref)
    restored = replace(draft, metadata=successor_metadata(base, version), files=clear)
    is_own = store.journal.pins.is_published_here(ref)
    result = store.create_many(
        [restored],
        area=Area.LOCAL if is_own else None,
        strategy=Strategy.LOCAL_ONLY,
        intake="create" if is_own else "import",
    )[0]
    if result.error is not None:
        raise result.error
    carry_extras(entry.path, store.folder(result.ref), {METADATA_FILE, *draft.files})
    trash.remove(entry)
    return result.ref
