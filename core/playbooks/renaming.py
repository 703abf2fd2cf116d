"""What a folder holds, stored under another version or id: an edit that could not stay in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from core.errors import NotFound, Unchanged
from core.files import sha256_bytes
from core.journal import VersionRecord
from core.models import (
    Area,
    FileEntry,
    PlaybookDraft,
    Ref,
    Strategy,
    content_digest,
)
from core.playbooks.file_requests import COUNTS, new_wishes
from core.playbooks.reading import is_unfetched
from core.playbooks.sealing import published_form
from core.playbooks.store import PlaybookStore
from core.playbooks.successors import came_in, free_patch, successor_metadata
from core.versions import is_higher


def keep_as(
    store: PlaybookStore,
    ref: Ref,
    playbook_id: str | None,
    version: str | None,
    strategy: Strategy | None,
) -> Ref:
    """Store what the folder of ``ref`` holds now as another version, durably, and return it.

    Neither ``playbook_id`` nor ``version``: the next free patch. A version with this very content
    is taken for it (the step is done again after a crash); other content is `AlreadyExists`.
    What is sensitive stays private, whatever ``strategy`` says.
    """
    record = store.get(ref)
    folder = store.layout.folder(record.area, ref)
    if store.journal.versions.files(ref) and is_unfetched(folder):
        raise NotFound(f"The content of {ref} is not on this machine.")
    draft = store.edited_draft(ref)
    named = {"playbook_id": playbook_id or ref.playbook_id}
    base = new_wishes(draft.metadata, record) | named
    if version is None:
        version = (
            ref.version if playbook_id else _free_patch(store, ref, replace(draft, metadata=base))
        )
    area = Area.AI_GENERATED if record.area is Area.AI_GENERATED else Area.LOCAL
    kept = replace(draft, metadata=successor_metadata(base, version, area))
    wanted = Strategy.LOCAL_ONLY if kept.metadata.get("sensitive") else strategy
    result = store.create_many(
        [kept], area=area, strategy=wanted, intake=came_in("edit", [record])
    )[0]
    if result.error is not None and not isinstance(result.error, Unchanged):
        raise result.error
    return result.ref


def without_statistics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata but for the counts, which are of the version that they were counted for."""
    return {name: value for name, value in metadata.items() if name not in COUNTS}


def draft_digest(
    draft: PlaybookDraft, metadata: Mapping[str, Any], executable: Collection[str] = ()
) -> str:
    """The content digest of a draft's files under ``metadata``; ``executable``: which are."""
    entries = [
        FileEntry(path, len(content), sha256_bytes(content), path in executable)
        for path, content in published_form(draft.files).items()
    ]
    return content_digest(metadata, entries)


def _free_patch(store: PlaybookStore, ref: Ref, draft: PlaybookDraft) -> str:
    """The next free patch, or the version that an interrupted attempt has made already."""
    others = store.journal.versions.of_playbook(ref.playbook_id)
    for other in others:
        if _is_this(other, ref, draft):
            return other.ref.version
    return free_patch(store.journal.versions, ref)


def _is_this(other: VersionRecord, ref: Ref, draft: PlaybookDraft) -> bool:
    if other.is_published or not is_higher(other.ref.version, ref.version):
        return False
    metadata = draft.metadata | {"version": other.ref.version}
    return draft_digest(draft, metadata) == other.content_digest
