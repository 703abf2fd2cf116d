"""Look versions up and read them: rows, folders, and bytes that are what the journal says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.content import KNOWN_FILES, leftovers_but, programs
from core.encryption import MAGIC, Envelope, Place, is_sealed
from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    Refused,
    StorageError,
    UsageError,
    faults_of,
)
from core.files import atomic_write, file_mode, is_executable, read_bytes, walk_files
from core.journal import Journal, VersionRecord
from core.models import (
    FORMATS,
    METADATA_FILE,
    Area,
    FileEntry,
    PlaybookDraft,
    Ref,
    check_id,
    executables,
    latest,
)
from core.playbooks.compare import (
    Comparer,
    published_digest,
    read_metadata,
    stat_folder,
    without_owned,
)
from core.playbooks.drafts import draft_from_folder
from core.playbooks.paths import Layout
from core.playbooks.sealing import SealedCopies, published_form, to_clear
from core.playbooks.validation import Limits
from core.playbooks.writer import FolderWriter
from core.settings import Settings

_MEND = "Restore it from a backup, or `escher-playbooks update` it with the right content."


log = logging.getLogger(__name__)


class PlaybookReader:
    """Looks versions up and reads them; every byte handed out was verified."""

    def __init__(self, settings: Settings, journal: Journal, envelope: Envelope) -> None:
        self.journal = journal
        self.layout = Layout(settings)
        self.limits = Limits.of(settings)
        self.envelope = envelope
        self.writer = FolderWriter(self.layout, journal, settings.run_path)
        self.compare = Comparer(self.layout, self.limits, envelope)
        self._copies = SealedCopies(self.layout.sealed)

    def locked(self) -> AbstractContextManager[int]:
        """The store's exclusive lock, with what a dead process left open finished first."""
        return self.writer.locked()

    def get(self, ref: Ref) -> VersionRecord:
        """The row of ``ref``; `NotFound` when there is none."""
        record = self.journal.versions.get(ref)
        if record is None:
            raise NotFound(f"There is no {ref}.", "`escher-playbooks list` shows what there is.")
        return record

    def resolve(self, text: str) -> Ref:
        """``id@version``, or ``id`` for its latest version, of a playbook that is there."""
        if "@" in text:
            return self.get(Ref.parse(text)).ref
        try:
            check_id(text)
        except InvalidPlaybook as error:  # of a request, not of a playbook
            raise UsageError(error.detail, error.remedy) from error
        return self.latest(text).ref

    def latest(self, playbook_id: str) -> VersionRecord:
        """The row of the highest version, whatever its area; `NotFound` when there is none."""
        records = self.journal.versions.of_playbook(check_id(playbook_id))
        by_version = {record.ref.version: record for record in records}
        highest = latest(by_version)
        if highest is None:
            raise NotFound(
                f"There is no playbook {playbook_id!r}.",
                "`escher-playbooks list` shows what there is.",
            )
        return by_version[highest]

    def folder(self, ref: Ref) -> Path:
        """Where the version's folder stands (or should stand)."""
        return self.layout.place(self.get(ref).area, ref)

    def read(self, ref: Ref) -> dict[str, bytes]:
        """Clear content of every file but ``metadata.json``, verified against the journal.

        Raises `NotFound` (no such version, or its content was never fetched), `IntegrityError`
        (bytes differ from the journal's checksums), `WrongKey`.
        """
        try:
            return self._read(ref)
        except (IntegrityError, StorageError) as first:
            # a writer may just have replaced the folder: look again when none is at work
            try:
                with self.writer.locked():
                    return self._read(ref)
            except StorageError:  # a home that can't be written has no writer
                raise first from None

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """The bytes that go to the server: `read` without defaults of sensitive parameters."""
        return published_form(self.read(ref))

    def edited_draft(self, ref: Ref) -> PlaybookDraft:
        """The folder as it is on disk now, in clear, with whatever the user changed in it."""
        record = self.get(ref)
        rows = self.journal.versions.files(ref)
        known = {row.path for row in rows}
        draft = draft_from_folder(self.layout.place(record.area, ref), self.limits, known)
        files = self.in_clear(record, draft.files, edited=True)
        kept = {"sensitive": True} if record.sensitive else {}  # the journal's flag counts
        marked = programs(files, (draft.executable or frozenset()) | untold_modes(record, rows))
        return replace(draft, metadata=draft.metadata | kept, files=files, executable=marked)

    def _read(self, ref: Ref) -> dict[str, bytes]:
        record = self.get(ref)
        rows = self.journal.versions.files(ref)
        folder = self.layout.place(record.area, ref)
        if rows and is_unfetched(folder):
            raise NotFound(
                f"The content of {ref} is not on this machine, only its metadata.",
                "It is fetched when the server can be reached (`escher-playbooks resolve`).",
            )
        if record.sensitive and not record.is_published:
            clear = {row.path: self._read_sealed(record, row, folder) for row in rows}
        else:
            disk = {row.path: _read_file(folder, row, ref) for row in rows}
            clear = self.in_clear(record, disk)
        for row in rows:
            if published_digest(row.path, clear[row.path]) != row.checksum:
                raise IntegrityError(
                    f"{ref} {row.path} was changed on disk: {folder / row.path}.", _MEND
                )
        return clear

    def _read_sealed(self, record: VersionRecord, row: FileEntry, folder: Path) -> bytes:
        """A sealed file in clear; where somebody laid something else over it, what was sealed."""
        path = row.path
        try:
            return self.in_clear(record, {path: _read_file(folder, row, record.ref)})[path]
        except (IntegrityError, StorageError) as error:
            sealed = self._copies.read(record, path)
            if sealed is None:
                raise
            log.warning("%s %s: its kept sealed copy answers (%s)", record.ref, path, error.detail)
            return self.in_clear(record, {path: sealed})[path]

    def in_clear(
        self, record: VersionRecord, disk: Mapping[str, bytes], *, edited: bool = False
    ) -> dict[str, bytes]:
        """Files of a version in clear; raises `IntegrityError` or `WrongKey` for what does not open.

        ``edited``: what lies there in clear was put there by the user and is taken as it is.
        """
        sensitive, generation = record.sensitive, record.generation
        return to_clear(
            disk, record.ref, generation, self.envelope, sensitive=sensitive, edited=edited
        )

    def sealed_copy(self, record: VersionRecord, path: str) -> bytes | None:
        """The last sealed content of a file in clear, whatever lies in the folder; None: not kept."""
        sealed = self._copies.read(record, path)
        return None if sealed is None else self.in_clear(record, {path: sealed})[path]

    def keep_sealed_copies(self) -> None:
        """Keep a second copy of sealed content that has none yet (of a home from before)."""
        for record in self.journal.versions.sensitive():
            if self._copies.has(record):
                continue
            rows = self.journal.versions.files(record.ref)
            if not self.check_version(record, rows):
                folder = self.layout.folder(record.area, record.ref)
                with self.writer.locked():
                    self._copies.keep(record, folder, [row.path for row in rows])

    def seal_clear_files(self, record: VersionRecord) -> None:
        """Seal, in its place, what lies in clear among a sensitive version's files.

        For a folder that is about to be copied and to go; the caller holds the store's lock.
        """
        folder = self.layout.folder(record.area, record.ref)
        if not record.sensitive or not folder.is_dir():
            return
        # a link, such as an editor's lock, goes along as a link: it holds nothing to seal
        for path, found in walk_files(
            folder, lambda path: (folder / path.rstrip("/")).is_symlink()
        ):
            if path == METADATA_FILE or not (
                path in KNOWN_FILES or path.partition("/")[0] in FORMATS
            ):
                continue
            content = read_bytes(folder / path)
            if not is_sealed(content):
                place = Place(*record.ref, path, record.generation)
                sealed = self.envelope.seal(content, place)
                atomic_write(folder / path, sealed, file_mode(is_executable(found)))

    def check_uploadable(self, ref: Ref) -> None:
        """Right before an upload: refuse what is sensitive, or was marked so since the last scan.

        Raises `Refused` for a sensitive version or an envelope, `LeaseHeld` where the edit that
        marks it waits to be taken in.
        """
        record = self.get(ref)
        if record.sensitive:
            raise Refused(f"{ref} is sensitive: it never leaves this machine.")
        folder = self.layout.folder(record.area, ref)
        if read_metadata(folder).get("sensitive", False) is not False:
            raise LeaseHeld(f"{ref} was just marked sensitive.", "The next sync takes that in.")
        for row in self.journal.versions.files(ref):
            with (folder / row.path).open("rb") as file:
                if is_sealed(file.read(len(MAGIC))):
                    raise Refused(f"{ref} {row.path} is sealed: it is not uploaded.")

    def check_version(
        self, record: VersionRecord, rows: tuple[FileEntry, ...]
    ) -> list[EscherError]:
        """Compare one row with its folder, byte by byte; every difference is an error."""
        try:
            with faults_of(str(record.ref)):
                return self._differences(record, rows)
        except EscherError as error:
            return [error]

    def _differences(self, record: VersionRecord, rows: tuple[FileEntry, ...]) -> list[EscherError]:
        folder = self.layout.place(record.area, record.ref)
        if not folder.is_dir():
            return [NotFound(f"The folder {folder} is not there.", _MEND)]
        try:
            metadata = read_metadata(folder)
            found = set(content_paths(folder, {row.path for row in rows}))
        except EscherError as error:
            return [error]
        problems: list[EscherError] = []
        if _comparable(metadata, record) != _comparable(record.metadata, record):
            problems.append(IntegrityError(f"{METADATA_FILE} differs from the journal.", _MEND))
        if rows and not found and is_unfetched(folder):
            return problems  # pulled and not yet fetched
        expected = {row.path for row in rows}
        problems.extend(
            IntegrityError(f"{path} is not in the journal: it was added.", _MEND)
            for path in sorted(found - expected)
        )
        problems.extend(
            NotFound(f"{path} is not there.", _MEND) for path in sorted(expected - found)
        )
        for row in rows:
            if row.path in found:
                try:
                    with faults_of(row.path):
                        content = _read_file(folder, row, record.ref)
                        clear = self.in_clear(record, {row.path: content})[row.path]
                        if published_digest(row.path, clear) != row.checksum:
                            raise IntegrityError(f"{row.path} was changed on disk.", _MEND)
                except EscherError as error:
                    problems.append(error)
        return problems


def _comparable(metadata: dict[str, Any], record: VersionRecord) -> dict[str, Any]:
    """Between publishing and settling the row has the server's fields before the disk does."""
    is_ahead = record.is_published and record.area is not Area.SYNCED
    return without_owned(metadata) if is_ahead else metadata


def content_paths(folder: Path, known: Collection[str] = ()) -> list[str]:
    """Relative paths of a version's files but ``metadata.json``; a link raises `UnsafePath`.

    Leftovers are none of them, unless they are ``known``.
    """
    is_left_out = leftovers_but(known)

    def skip(path: str) -> bool:
        head = path.partition("/")[0]  # what stands beside the formats is nobody's business
        return (head not in KNOWN_FILES and head not in FORMATS) or is_left_out(path)

    return [path for path, _ in walk_files(folder, skip) if path != METADATA_FILE]


def untold_modes(record: VersionRecord, rows: Iterable[FileEntry]) -> set[str]:
    """The executable files that a version lists and its folder does not show, from before it did."""
    return set() if record.modes_known else executables(rows)


def is_unfetched(folder: Path) -> bool:
    """Whether ``metadata.json`` stands without content: pulled from the server, not yet fetched."""
    try:
        seen = stat_folder(folder, 0, with_parent=False)
    except StorageError:  # unreadable: the reading that follows says so
        return False
    return seen is not None and METADATA_FILE in seen.files and seen.is_bare


def _read_file(folder: Path, row: FileEntry, ref: Ref) -> bytes:
    path = folder / row.path
    if not path.exists():
        raise IntegrityError(f"{ref} {row.path} is missing: {path}.", _MEND)
    return read_bytes(path)
