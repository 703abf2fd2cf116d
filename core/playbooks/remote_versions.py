"""Take in versions that come from the server: metadata first, content when it is wanted.

::

    take_in ──► synced/<id>/v<version>/metadata.json alone, rows of its files ──► fetch_contents
                (`is_unfetched`; their row says that it is not ``fetched``)

Whatever is already here decides by the conflict rules (``core.publishing``); this module carries
out, under the store's lock and through intents like every other change to the folders.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

from core.content import as_content
from core.errors import (
    EscherError,
    IntegrityError,
    LeaseHeld,
    NotFound,
    Refused,
    Unchanged,
    UnsafePath,
)
from core.files import json_bytes, read_bytes, sha256_bytes, write_tree
from core.journal import Intent, VersionRecord
from core.journal.conflicts import KeptCopy
from core.models import (
    METADATA_FILE,
    RESERVED_PREFIX,
    Area,
    FileEntry,
    Move,
    PlaybookDraft,
    Ref,
    Strategy,
    check_id,
    executables,
    is_higher,
    parse_version,
)
from core.playbooks.compare import read_metadata, without_owned
from core.playbooks.decisions import new_requests
from core.playbooks.entry_points import only_given, plain_digest
from core.playbooks.folder_copies import ConflictCopies, Trash, carry_extras, has_extras
from core.playbooks.reader import content_paths, is_unfetched
from core.playbooks.store import BATCH, STAGING_THREADS, PlaybookStore
from core.playbooks.validation import check_paths
from core.playbooks.versioning import (
    check_unchanged,
    first_made,
    free_patch,
    intake_of,
    refuse_taken,
    successor_metadata,
)
from core.playbooks.writer import draft_digest
from core.settings import Settings

Copying = Literal["trash", "always", "edits", "never"]
"""What has a folder set aside before it goes: any content, something that is not the row's, nothing.
``trash``: any content, and the copy goes into the trash.

What is no part of a playbook (a README beside it) is nobody's row, so it counts as an edit here.
"""

Pulled = tuple[VersionRecord, Sequence[FileEntry]]


class RemoteVersions:
    """Takes in, changes, fetches and drops versions for a pull; each call takes the store's lock."""

    def __init__(self, store: PlaybookStore, settings: Settings) -> None:
        self._store = store
        self._journal = store.journal
        self._layout = store.layout
        self._writer = store.writer
        self._copies = ConflictCopies(settings.conflicts_path)
        self._trash = Trash(settings.trash_path)

    # -- coming -----------------------------------------------------------------------------
    def take_in(self, pulled: Sequence[Pulled]) -> dict[Ref, EscherError]:
        """Put metadata alone into ``synced/``, with the rows; the errors of those that did not go.

        Each is checked first. A version that is here already is `AlreadyExists`.
        """
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
        files = tuple(entries)
        pulled = replace(record, made_here=False, intake="pull", fetched=not files)
        return Intent(record.ref, "write", name, None, Area.SYNCED, pulled, files)

    def check(self, record: VersionRecord, entries: Sequence[FileEntry]) -> None:
        """`InvalidPlaybook` or `Refused` for names, paths and sizes that may not stand here.

        Names from the network must be able to stand in a folder, and stay in theirs.
        """
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
        # without what the server adds: the limit is the publisher's
        metadata = len(json_bytes(without_owned(record.metadata)))
        self._store.limits.check([*sizes, (METADATA_FILE, metadata)], str(record.ref))

    def _write(self, intents: Sequence[Intent]) -> dict[Ref, EscherError]:
        """Carry out staged ``write`` intents that no row or folder stands in the way of."""
        errors: dict[str, EscherError] = {}
        with (
            self._writer.discarding(*(intent.staged for intent in intents)),
            self._writer.locked(),
        ):
            ready = [self._over_stray(intent) for intent in intents]
            fresh = [intent for intent in ready if intent.from_area is None]
            errors = refuse_taken(self._journal.versions, self._layout, fresh)
            free = [intent for intent in ready if intent.staged not in errors]
            failed = self._writer.apply(free)
            errors |= {str(i.staged): failed[i.ref] for i in free if i.ref in failed}
        for name in errors:
            self._writer.discard(name)
        return {i.ref: errors[str(i.staged)] for i in intents if i.staged in errors}

    def _over_stray(self, intent: Intent) -> Intent:
        """Metadata that stands alone and without a row is what an earlier pull left: replace it."""
        if self._layout.areas_with(intent.ref) != [Area.SYNCED]:
            return intent
        stray = is_unfetched(self._layout.folder(Area.SYNCED, intent.ref))
        if not stray or self._journal.versions.get(intent.ref) is not None:
            return intent
        return replace(intent, from_area=Area.SYNCED)

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
                if not record.fetched:  # put there by hand, whole or not: the scan tells
                    self._journal.versions.set(ref, fetched=True)
                return False
            name = uuid.uuid4().hex
            staged = self._layout.staged(name)
            metadata = _metadata_bytes(folder, record)
            write_tree(staged, {METADATA_FILE: metadata, **files}, executables(rows))
            with self._writer.discarding(name):
                carry_extras(folder, staged, set(files))
                with self._writer.locked():
                    current = check_unchanged(self._journal.versions, record)
                    if _metadata_bytes(folder, current) != metadata:
                        raise LeaseHeld(f"{ref} was changed meanwhile.", "Try again.")
                    if self._has_content(current):
                        self._writer.discard(name)
                        return False
                    there = Area.SYNCED if folder.is_dir() else None
                    # its point lacks the scripts
                    fetched = replace(current, fetched=True, modes_known=True, indexed_digest=None)
                    self._writer.apply_one(
                        Intent(ref, "write", name, there, Area.SYNCED, fetched, rows)
                    )
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
                or not self._store.handed_out.must_wait(change.ref)
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
        copy: Copying,
        kept_as: Ref | None = None,
        on_kept: Callable[[KeptCopy], object] = lambda _copy: None,
    ) -> KeptCopy | None:
        """Remove folder and row; the copy that was kept, where there was anything to keep.

        ``kept_as``: the version that holds the edit already; what was edited since is none of it.
        ``on_kept`` writes the copy down, after it is made and before anything goes: one that
        nobody lists might as well be lost.
        """
        with self._writer.locked():
            record = self._journal.versions.get(ref)
            if record is None:
                return None
            folder = self._layout.folder(record.area, ref)
            kept = None
            if copy != "never":
                self._store.seal_clear_files(record)  # a copy of what is sensitive is sealed, too
            if self._is_worth_keeping(record, folder, copy, kept_as):
                keeper = self._trash if copy == "trash" else self._copies
                kept = KeptCopy(str(keeper.keep(ref, folder)), record.generation)
                on_kept(kept)
            intent = Intent(ref, "delete", uuid.uuid4().hex, from_area=record.area)
            self._writer.apply_one(intent)
        return kept

    def _is_worth_keeping(
        self, record: VersionRecord, folder: Path, copy: Copying, kept_as: Ref | None
    ) -> bool:
        """Whether a copy of a folder that is to go is wanted."""
        if copy == "never" or not folder.is_dir():
            return False
        if copy != "edits" and self._has_content(record):
            return True
        is_kept = copy != "trash" and kept_as is not None
        known = self._journal.versions.get(kept_as) if is_kept and kept_as else record
        return self._differs(record, known) or has_extras(folder)

    def _has_content(self, record: VersionRecord) -> bool:
        """Whether the folder is there, with any of the files that a version may have."""
        folder = self._layout.folder(record.area, record.ref)
        if not folder.is_dir():
            return False
        try:
            known = {row.path for row in self._journal.versions.files(record.ref)}
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
                return without_owned(read_metadata(folder)) != without_owned(record.metadata)
            draft = self._store.edited_draft(record.ref)
            rows = self._journal.versions.files(record.ref)
            paths = {row.path for row in rows}
            if listed and record.is_published and paths < set(draft.files):
                draft = replace(draft, files={path: draft.files[path] for path in paths})
            # a mode alone is no edit
            kept = self._journal.versions.files(known.ref)
            metadata, digest = dict(draft.metadata), known.content_digest
            if known.ref != record.ref:
                metadata = only_given(metadata, record)
                metadata |= {"playbook_id": known.ref.playbook_id, "version": known.ref.version}
                digest = plain_digest(known, kept)
            return draft_digest(draft, metadata, executables(kept)) != digest
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
        """Store what the folder of ``ref`` holds now as another version, durably, and return it.

        Neither ``playbook_id`` nor ``version``: the next free patch. A version with this very
        content is taken for it (the step is done again after a crash); other content is
        `AlreadyExists`. What is sensitive stays private, whatever ``strategy`` says.
        """
        record = self._store.get(ref)
        folder = self._layout.folder(record.area, ref)
        if self._journal.versions.files(ref) and is_unfetched(folder):
            raise NotFound(f"The content of {ref} is not on this machine.")
        draft = as_content(self._store.edited_draft(ref))
        named = {"playbook_id": playbook_id or ref.playbook_id}
        base = only_given(new_requests(draft.metadata, record), record) | named
        base["created_at"] = first_made(record)
        if version is None and playbook_id:
            version = ref.version
        elif version is None:
            version = self._free_patch(ref, replace(draft, metadata=base))
        area = Area.AI_GENERATED if record.area is Area.AI_GENERATED else Area.LOCAL
        kept = replace(draft, metadata=successor_metadata(base, version, area))
        wanted = Strategy.LOCAL_ONLY if kept.metadata.get("sensitive") else strategy
        result = self._store.create_many(
            [kept], area=area, strategy=wanted, intake=intake_of("edit", [record])
        )[0]
        if result.error is not None and not isinstance(result.error, Unchanged):
            raise result.error
        return result.ref

    def _free_patch(self, ref: Ref, draft: PlaybookDraft) -> str:
        """The next free patch, or the version that an interrupted attempt has made already."""
        versions = self._journal.versions
        for row in versions.of_playbook(ref.playbook_id):
            if not row.is_published and is_higher(row.ref.version, ref.version):
                metadata = draft.metadata | {"version": row.ref.version}
                if draft_digest(draft, metadata) == plain_digest(row, versions.files(row.ref)):
                    return row.ref.version
        return free_patch(versions, ref)


def _verify(ref: Ref, rows: Sequence[FileEntry], files: Mapping[str, bytes]) -> None:
    wanted = {row.path: row for row in rows}
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
