"""A checked draft becomes a whole, synced folder in staging and the row that goes with it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.encryption import Envelope
from core.errors import storage_error
from core.files import json_bytes, sha256_bytes, write_tree
from core.journal import Intent, VersionRecord
from core.journal.records import DiskFile
from core.models import (
    METADATA_FILE,
    Area,
    FileEntry,
    PlaybookDraft,
    PlaybookMetadata,
    Ref,
    Strategy,
    SyncState,
    content_digest,
)
from core.playbooks.checks import check_scripts
from core.playbooks.file_requests import told
from core.playbooks.layout import Layout
from core.playbooks.sealing import published_form, to_disk
from core.playbooks.validation import draft_warnings

MAX_WARNINGS = 50


class Stager:
    """Puts new folders together, several at a time and outside of any lock."""

    def __init__(self, layout: Layout, envelope: Envelope) -> None:
        self._layout = layout
        self._envelope = envelope

    def stage(
        self,
        draft: PlaybookDraft,
        area: Area,
        *,
        intake: str,
        check: bool,
        old: VersionRecord | None = None,
        choice: Strategy | None = None,
        extra: Sequence[str] = (),
    ) -> Intent:
        """Write a normalised draft's folder into staging, synced, with the row that goes with it.

        ``intake``: how it came in, see `core.journal.records.VersionRecord`.
        """
        ref = PlaybookMetadata.model_validate(draft.metadata).ref
        generation = old.generation + 1 if old else 1
        name = self.write(ref, draft.metadata, draft.files, generation)
        files = disk_files(self._layout.staged(name), published_form(draft.files))
        record = new_record(
            draft,
            area,
            files,
            generation,
            intake=intake,
            check=check,
            old=old,
            choice=choice,
            extra=extra,
        )
        return Intent(ref, "write", name, old.area if old else None, area, record, files)

    def write(
        self, ref: Ref, metadata: Mapping[str, Any], clear: Mapping[str, bytes], generation: int
    ) -> str:
        """Write a folder into staging, synced, sealed where it has to be; its name there."""
        sensitive = bool(metadata.get("sensitive"))
        disk = to_disk(clear, ref, generation, self._envelope, sensitive=sensitive)
        name = uuid.uuid4().hex
        write_tree(self._layout.staged(name), {METADATA_FILE: json_bytes(metadata), **disk})
        return name


def new_record(
    draft: PlaybookDraft,
    area: Area,
    files: Sequence[DiskFile],
    generation: int,
    *,
    intake: str,
    check: bool,
    old: VersionRecord | None = None,
    choice: Strategy | None = None,
    extra: Sequence[str] = (),
) -> VersionRecord:
    """The row of a normalised draft's content, made here, with what is odd about it.

    ``choice``: where the user lets it go. Without it, new content under an old name goes where that
    was to go.
    """
    metadata = PlaybookMetadata.model_validate(draft.metadata)
    wanted = wish(choice, area, old, sensitive=metadata.sensitive)
    is_chosen = choice is not None or wanted.get("publish_as") is not None
    requests = [] if is_chosen else told(metadata.ref, draft.asked)
    warnings = [*extra, *requests, *draft_warnings(draft)]
    if check:
        warnings.extend(warning.as_text() for warning in check_scripts(draft.files))
    return VersionRecord(
        metadata.ref,
        area,
        content_digest(draft.metadata, [file.entry for file in files]),
        draft.metadata,
        generation=generation,
        warnings=tuple(warnings[:MAX_WARNINGS]),
        made_here=True,
        intake=intake,
        asked=draft.asked,
        **wanted,
    )


def disk_files(
    folder: Path, published: Mapping[str, bytes], executable: Collection[str] = ()
) -> tuple[DiskFile, ...]:
    """The journal's rows of a folder's files: digests of the published form, stats of the disk.

    ``executable``: the files of which the version's digest says so.
    """
    files = []
    try:
        for path, content in published.items():
            stat = (folder / path).lstat()
            entry = FileEntry(path, len(content), sha256_bytes(content), path in executable)
            files.append(
                DiskFile(entry, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            )
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error
    return tuple(files)


def wish(
    choice: Strategy | None, area: Area, old: VersionRecord | None, *, sensitive: bool = False
) -> dict[str, Any]:
    """``sync_state`` and ``publish_as`` of new content; what is sensitive never leaves."""
    if old is not None and old.sync_state is SyncState.CONFLICT:  # new content decides nothing
        return {
            "sync_state": old.sync_state,
            "publish_as": None if sensitive else old.publish_as,
            "error_type": old.error_type,
            "error": old.error,
        }
    if choice is not None:
        publish_as = choice if choice.is_uploaded else None
    else:
        publish_as = old.publish_as if old else None
    if area is Area.AI_GENERATED or publish_as is None or sensitive:
        return {"sync_state": SyncState.LOCAL}
    return {"sync_state": SyncState.PENDING, "publish_as": publish_as}
