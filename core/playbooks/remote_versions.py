"""What publishing needs of its neighbours; ``core.service.playbook_service`` hands it in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from core.errors import (
    EscherError,
    IntegrityError,
    LeaseHeld,
    Refused,
    UnsafePath,
)
from core.files import json_bytes, read_bytes, sha256_bytes, write_tree
from core.handed_out import HandedOut
from core.journal import Intent, VersionRecord
from core.journal.conflicts import KeptCopy
from core.journal.versions import DiskFile, executables
from core.models import (
    METADATA_FILE,
    RESERVED_PREFIX,
    SERVER_OWNED_FIELDS,
    Area,
    FileEntry,
    Move,
    Ref,
    Strategy,
    check_id,
    parse_json_object,
    parse_version,
)
from core.playbooks.conflict_copies import ConflictCopies, draft_digest, keep_as
from core.playbooks.extras import carry, has_others
from core.playbooks.reader import content_paths, is_unfetched
from core.playbooks.store import BATCH, STAGING_THREADS, PlaybookStore
from core.playbooks.trash import Trash
from core.playbooks.validation import check_paths
from core.playbooks.versioning import refuse_taken
from core.playbooks.writer import FolderWriter, disk_files
from core.settings import Settings


class Source(Protocol):
    """The local store: what is sent, and where it stands once it was."""

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """Exactly the bytes that go to the server, checked against the journal's checksums."""

    def check_leaving(self, ref: Ref) -> None:
        """Look once more whether it is sensitive, in the journal and on disk; raises when it is."""

    def move(self, changes: Sequence[Move]) -> None:
        """Rewrite each ``metadata.json`` and rename the folder; again is harmless."""

    def delete(self, refs: Sequence[Ref]) -> None:
        """Remove folders and rows; what is gone already is fine."""


class Vectors(Protocol):
    """The embeddings of metadata, by ref; one that is left out is not there yet."""

    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]: ...


Copying = Literal["trash", "always", "edits", "never"]
"""What has a folder set aside before it goes: any content, something that is not the row's, nothing.
``trash``: any content, and the copy goes into the trash.

What is no part of a playbook (a README beside it) is nobody's row, so it counts as an edit here.
"""


class PulledVersions(Protocol):
    """The store's side of what comes from the server; each call takes the store's lock."""

    def check(self, record: VersionRecord, entries: Sequence[FileEntry]) -> None:
        """`InvalidPlaybook` or `Refused` for names, paths and sizes that may not stand here."""

    def take_in(
        self, pulled: Sequence[tuple[VersionRecord, Sequence[FileEntry]]]
    ) -> dict[Ref, EscherError]:
        """Put metadata alone into ``synced/``, with the rows; the errors of those that did not go.

        Each is checked first. A version that is here already is `AlreadyExists`.
        """

    def move(self, changes: Sequence[Move]) -> None:
        """As `Source.move`."""

    def is_edited(self, ref: Ref) -> bool:
        """Whether the content on disk is not the row's; a missing or unfetched one is not edited."""

    def drop(
        self,
        ref: Ref,
        *,
        copy: Copying,
        kept_as: Ref | None = None,
        on_kept: Callable[[KeptCopy], object] = ...,
    ) -> KeptCopy | None:
        """Remove folder and row; the copy that was kept, where there was anything to keep.

        ``kept_as``: the version that holds the edit already; what was edited since is none of it.
        ``on_kept`` writes the copy down, after it is made and before anything goes: one that
        nobody lists might as well be lost.
        """

    def keep_as(
        self,
        ref: Ref,
        *,
        playbook_id: str | None = None,
        version: str | None = None,
        strategy: Strategy | None = None,
    ) -> Ref:
        """Store what the folder of ``ref`` holds now as another version, durably, and return it.

        Neither ``playbook_id`` nor ``version``: the next free patch. `AlreadyExists` when that
        name is taken by other content; taken by this very content, it is done.
        """


# Versions that come from the server: metadata first, content when it is wanted.
#
# ::
#
#     take_in ──► synced/<id>/v<version>/metadata.json alone, rows of its files ──► fetch_contents
#                 (`is_unfetched`; their stat columns are 0: they are not on disk)
#
# Whatever is already here decides by the conflict rules (``core.publishing``); this module carries
# out, under the store's lock and through intents like every other change to the folders.

Pulled = tuple[VersionRecord, Sequence[FileEntry]]


class PulledFolders:
    """The folder side of a pull."""

    def __init__(self, store: PlaybookStore, settings: Settings) -> None:
        self._store = store
        self._journal = store.journal
        self._layout = store.layout
        self._writer = FolderWriter(store.layout, store.journal, settings.run_path)
        self._handed_out = HandedOut(settings)
        self._copies = ConflictCopies(settings.conflicts_path)
        self._trash = Trash(settings.trash_path)

    # -- coming -----------------------------------------------------------------------------
    def take_in(self, pulled: Sequence[Pulled]) -> dict[Ref, EscherError]:
        """Put metadata alone into ``synced/``, with the rows; the errors of those that did not go."""
        errors: dict[Ref, EscherError] = {}
        self._writer.prepare()
        with ThreadPoolExecutor(STAGING_THREADS, thread_name_prefix="pulling") as pool:
            for start in range(0, len(pulled), BATCH):
                part = pulled[start : start + BATCH]
                staged = list(pool.map(self._stage_metadata, part))
                intents = [item for item in staged if isinstance(item, Intent)]
                errors |= {
                    record.ref: item
                    for (record, _), item in zip(part, staged, strict=True)
                    if isinstance(item, EscherError)
                }
                errors |= self._write(intents)
        return errors

    def _stage_metadata(self, taken: Pulled) -> Intent | EscherError:
        record, entries = taken
        try:
            self.check(record, entries)
            name = uuid.uuid4().hex
            write_tree(self._layout.staged(name), {METADATA_FILE: json_bytes(record.metadata)})
        except EscherError as error:
            return error
        files = tuple(DiskFile(entry, 0, 0, 0, 0) for entry in entries)
        pulled = replace(record, made_here=False, intake="pull")
        return Intent(record.ref, "write", name, None, Area.SYNCED, pulled, files)

    def check(self, record: VersionRecord, entries: Sequence[FileEntry]) -> None:
        """Names from the network: they must be able to stand in a folder, and stay in theirs."""
        check_id(record.ref.playbook_id)
        parse_version(record.ref.version)
        if record.ref.playbook_id.startswith(RESERVED_PREFIX):
            raise Refused(
                f"{record.ref}: ids beginning with {RESERVED_PREFIX} are the Escher Library's."
            )
        paths = [entry.path for entry in entries]
        if len(set(paths)) != len(paths):
            raise UnsafePath(f"{record.ref} names a file twice.")
        check_paths(paths)
        sizes = [(entry.path, entry.size_bytes) for entry in entries]
        self._store.limits.check(
            [*sizes, (METADATA_FILE, len(json_bytes(record.metadata)))], str(record.ref)
        )

    def _write(self, intents: Sequence[Intent]) -> dict[Ref, EscherError]:
        """Carry out staged ``write`` intents that no row or folder stands in the way of."""
        errors: dict[str, EscherError] = {}
        try:
            with self._writer.locked():
                ready = [self._over_stray(intent) for intent in intents]
                fresh = [intent for intent in ready if intent.from_area is None]
                errors = refuse_taken(self._journal.versions, self._layout, fresh)
                free = [intent for intent in ready if intent.staged not in errors]
                failed = self._writer.apply(free)
                errors |= {str(i.staged): failed[i.ref] for i in free if i.ref in failed}
        except BaseException:
            for intent in intents:
                self._writer.discard(str(intent.staged))
            raise
        for name in errors:
            self._writer.discard(name)
        return {i.ref: errors[str(i.staged)] for i in intents if i.staged in errors}

    def _over_stray(self, intent: Intent) -> Intent:
        """Metadata that stands alone and without a row is what an earlier pull left: replace it."""
        if self._layout.standing(intent.ref) != [Area.SYNCED]:
            return intent
        stray = is_unfetched(self._layout.folder(Area.SYNCED, intent.ref))
        if not stray or self._journal.versions.get(intent.ref) is not None:
            return intent
        return replace(intent, from_area=Area.SYNCED)

    def unfetched(self) -> list[Ref]:
        """The versions whose metadata stands alone, by name."""
        return self._journal.versions.unfetched()

    def fetch_contents(self, ref: Ref, files: Mapping[str, bytes]) -> bool:
        """Put the content of a published version in, all of it at once; False when it is there.

        ``files`` is ``{path: bytes}`` in the published form, for exactly the paths of the journal's
        rows. `IntegrityError` when they are not those bytes, `LeaseHeld` while a worker is at it.
        Also brings back a folder that vanished. An edit of ``metadata.json`` stays as it is.
        """
        self._writer.prepare()
        with self._store.leased([ref]):
            record = self._store.get(ref)
            if not record.is_published or record.area is not Area.SYNCED:
                raise Refused(f"{ref} is not published: its content is here or nowhere.")
            rows = self._journal.versions.files(ref)
            _verify(ref, rows, files)
            folder = self._layout.place(Area.SYNCED, ref)
            if self._has_content(record):
                return False
            name = uuid.uuid4().hex
            staged = self._layout.staged(name)
            metadata = _metadata_bytes(folder, record)
            write_tree(staged, {METADATA_FILE: metadata, **files})
            try:
                carry(folder, staged, set(files))
                placed = disk_files(staged, files, executables(rows))
                with self._writer.locked():
                    current = self._journal.versions.get(ref)
                    if (
                        current is None
                        or current.content_digest != record.content_digest
                        or _metadata_bytes(folder, current) != metadata
                    ):
                        raise LeaseHeld(f"{ref} was changed meanwhile.", "Try again.")
                    if self._has_content(current):
                        self._writer.discard(name)
                        return False
                    there = Area.SYNCED if folder.is_dir() else None
                    fetched = replace(current, indexed_digest=None)  # its point lacks the scripts
                    intent = Intent(ref, "write", name, there, Area.SYNCED, fetched, placed)
                    failed = self._writer.apply([intent])
            except BaseException:
                self._writer.discard(name)
                raise
        if ref in failed:
            raise failed[ref]
        return True

    # -- changing and going -----------------------------------------------------------------
    def move(self, changes: Sequence[Move]) -> None:
        """As `PlaybookStore.move`; where somebody may run a version, it stays in its place for now."""
        rows = self._journal.versions.get_many([change.ref for change in changes])
        self._store.move(
            [
                change
                for change in changes
                if (row := rows.get(change.ref)) is None
                or row.area is change.to_area
                or not self._handed_out.must_wait(change.ref)
            ]
        )

    def is_edited(self, ref: Ref) -> bool:
        """Whether the content on disk is not the row's; a missing or unfetched one is not edited.

        What does not parse or open is somebody's edit that is not finished.
        """
        record = self._journal.versions.get(ref)
        if record is None or not self._has_content(record):
            return False
        return self._differs(record, record, listed=True)

    def drop(
        self,
        ref: Ref,
        *,
        copy: Literal["trash", "always", "edits", "never"],
        kept_as: Ref | None = None,
        on_kept: Callable[[KeptCopy], object] = lambda _copy: None,
    ) -> KeptCopy | None:
        """Remove folder and row; the copy that was kept, where there was anything to keep."""
        with self._writer.locked():
            record = self._journal.versions.get(ref)
            if record is None:
                return None
            folder = self._layout.folder(record.area, ref)
            kept = None
            if copy != "never":
                self._store.seal_stray(record)  # a copy of what is sensitive is sealed, too
            if (
                copy == "trash"
                and folder.is_dir()
                and (
                    self._has_content(record) or has_others(folder) or self._differs(record, record)
                )
            ):
                kept = KeptCopy(str(self._trash.keep(ref, folder)), record.generation)
                on_kept(kept)
            all_of_it = copy == "always" and self._has_content(record)
            known = record if kept_as is None else self._journal.versions.get(kept_as)
            if all_of_it or (
                copy in {"always", "edits"}
                and folder.is_dir()
                and (self._differs(record, known) or has_others(folder))
            ):
                kept = KeptCopy(str(self._copies.keep(ref, folder)), record.generation)
                on_kept(kept)
            intent = Intent(ref, "delete", uuid.uuid4().hex, from_area=record.area)
            failed = self._writer.apply([intent])
        if ref in failed:
            raise failed[ref]
        return kept

    def _has_content(self, record: VersionRecord) -> bool:
        """Whether the folder is there, with any of the files that a version may have."""
        folder = self._layout.folder(record.area, record.ref)
        if not folder.is_dir():
            return False
        try:
            known = {row.entry.path for row in self._journal.versions.files(record.ref)}
            return not known or bool(content_paths(folder, known))
        except EscherError:
            return True  # a link: somebody put it there

    def _differs(
        self, record: VersionRecord, known: VersionRecord | None, *, listed: bool = False
    ) -> bool:
        """Whether the folder of ``record``, which is there, holds what ``known`` does not say.

        ``listed``: files that only appeared beside published content do not count.
        """
        if known is None:
            return True
        folder = self._layout.folder(record.area, record.ref)
        try:
            if not self._has_content(record):
                return _content_of(_disk_metadata(folder)) != _content_of(record.metadata)
            draft = self._store.edited_draft(record.ref)
            rows = self._journal.versions.files(record.ref)
            paths = {row.entry.path for row in rows}
            if listed and record.is_published and paths < set(draft.files):
                draft = replace(draft, files={path: draft.files[path] for path in paths})
            metadata = dict(draft.metadata)
            if known.ref != record.ref:
                metadata |= {"playbook_id": known.ref.playbook_id, "version": known.ref.version}
            # what was kept under another name was made here, where no file is marked
            marked = executables(rows) if known.ref == record.ref else ()
            return draft_digest(draft, metadata, marked) != known.content_digest
        except EscherError:
            return True

    def keep_as(
        self,
        ref: Ref,
        *,
        playbook_id: str | None = None,
        version: str | None = None,
        strategy: Strategy | None = None,
    ) -> Ref:
        """Store what the folder of ``ref`` holds now as another version; see `PulledVersions`."""
        return keep_as(self._store, ref, playbook_id, version, strategy)


def _verify(ref: Ref, rows: Sequence[DiskFile], files: Mapping[str, bytes]) -> None:
    wanted = {row.entry.path: row.entry for row in rows}
    if set(wanted) != set(files):
        names = ", ".join(sorted(set(wanted) ^ set(files))[:5])
        raise IntegrityError(f"The files of {ref} are not those that were published: {names}.")
    for path, content in files.items():
        if sha256_bytes(content) != wanted[path].checksum:
            raise IntegrityError(f"{path} of {ref} is not what was published.", "Fetch it again.")


def _metadata_bytes(folder: Path, record: VersionRecord) -> bytes:
    """What stands on disk, else the row's: a hand's edit of it is for the next scan to find."""
    path = folder / METADATA_FILE
    return read_bytes(path) if path.is_file() else json_bytes(record.metadata)


def _disk_metadata(folder: Path) -> dict[str, object]:
    return parse_json_object(read_bytes(folder / METADATA_FILE), METADATA_FILE, stored=True)


def _content_of(metadata: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in metadata.items() if name not in SERVER_OWNED_FIELDS}
