"""The changes feed, read item by item: what the network says is checked before it is believed.

A malformed item is a failed item and never blocks its page. A cursor that the server does not take
any more is given up for the beginning, where nothing is missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from core.errors import EscherError, InvalidPlaybook, NotEscherServer, ServerRejected
from core.journal.pull_backlog import Name
from core.journal.records import VersionRecord
from core.models import (
    Area,
    FileEntry,
    Ref,
    SyncState,
    check_id,
    content_digest,
    parse_metadata,
)
from core.publishing.conflict_rules import There
from core.server.answers import Change
from core.server.client import EscherServer
from core.server.problems import CHECK_URL
from core.versions import parse_version

PAGE_ITEMS = 500
# The server's counts; they go to the row's columns of the same names, not into the metadata.
STATISTICS = ("execution_count", "success_count", "last_executed")
_REMEDY = "It is tried again; a newer version of escher-playbook-service may know more."


@dataclass(frozen=True, slots=True)
class Theirs:
    """One version on the server, checked; ``record`` is the row it makes here (None: deleted)."""

    ref: Ref
    there: There
    raw: dict[str, Any]
    record: VersionRecord | None = None
    entries: tuple[FileEntry, ...] = ()

    @property
    def name(self) -> Name:
        return (self.ref.playbook_id, self.ref.version)

    @property
    def live(self) -> VersionRecord:
        """The record of one that is not deleted."""
        assert self.record is not None
        return self.record


@dataclass(frozen=True, slots=True)
class Page:
    """A page of raw items; ``cursor`` is kept once they are applied."""

    items: list[dict[str, Any]]
    cursor: str


def pages(server: EscherServer, cursor: str | None) -> Iterator[Page]:
    """Pages after ``cursor`` until the server has no more; errors are those of the call."""
    limit = PAGE_ITEMS
    begun = cursor is None
    while True:
        try:
            page = server.change_page(cursor, limit)
        except NotEscherServer:
            if limit == 1:
                raise
            limit = max(1, limit // 8)  # versions may be large, and an answer has its bound
            continue
        except ServerRejected:
            if begun or cursor is None:
                raise
            # not a cursor of this server any more, or not allowed at all: the beginning tells
            cursor = None
            begun = True
            continue
        yield Page(page.changes, page.cursor)
        if not page.more:
            return
        if page.cursor == cursor:
            raise NotEscherServer("The changes feed does not move on.", CHECK_URL)
        cursor, begun = page.cursor, True


def name_of(raw: Mapping[str, Any]) -> Name:
    """What an item calls itself, read or not, cut to what the journal keeps."""
    return (str(raw.get("playbook_id", "?"))[:100], str(raw.get("version", "?"))[:64])


def read_item(raw: dict[str, Any]) -> Theirs:
    """Check one item; `InvalidPlaybook` says what is wrong with it."""
    try:
        change = Change.model_validate_json(json.dumps(raw))
        ref = Ref(check_id(change.playbook_id), change.version)
        parse_version(change.version)
    except (ValidationError, ValueError) as error:
        raise InvalidPlaybook(f"The changes feed holds {_what(error)}.", _REMEDY) from None
    there = There(change.content_digest, change.revision, change.updated_at, change.deleted)
    if change.deleted:
        return Theirs(ref, there, raw)
    entries = tuple(FileEntry(file.path, file.size_bytes, file.checksum) for file in change.files)
    metadata = _metadata(change, entries)
    if parse_metadata(metadata, f"{ref} in the changes feed").ref != ref:
        raise InvalidPlaybook(f"The metadata of {ref} names another version.", _REMEDY)
    if metadata.get("sensitive") or not change.storage_strategy.is_uploaded:
        raise InvalidPlaybook(f"{ref} can't have been published: it is private.", _REMEDY)
    counts = _statistics(raw)
    record = VersionRecord(
        ref,
        Area.SYNCED,
        change.content_digest,
        metadata,
        sync_state=SyncState.PUBLISHED,
        uploaded_digest=change.content_digest,
        s3_paths={file.path: file.s3_path for file in change.files},
        published_digest=change.content_digest,
        revision=change.revision,
        published_at=change.updated_at,
        execution_count=counts.get("execution_count", 0),
        success_count=counts.get("success_count", 0),
        last_executed=counts.get("last_executed"),
    )
    return Theirs(ref, there, raw, record, entries)


def find_theirs(server: EscherServer, ref: Ref) -> Theirs | None:
    """What the server holds of ``ref``, by reading the feed from its beginning; None: nothing."""
    found: Theirs | None = None
    for page in pages(server, None):
        for raw in page.items:
            if name_of(raw) == (ref.playbook_id, ref.version):
                found = read_item(raw)
    return None if found is None or found.there.deleted else found


def _metadata(change: Change, entries: tuple[FileEntry, ...]) -> dict[str, Any]:
    """The published metadata with the server's word on what it owns."""
    raw = dict(change.metadata or {})
    if content_digest(raw, entries) != change.content_digest:
        raise InvalidPlaybook(
            f"What the changes feed tells of {change.playbook_id}@{change.version} does not make"
            " its content digest.",
            _REMEDY,
        )
    for name in STATISTICS:
        raw.pop(name, None)
    for name in ("deprecated_by", "deprecation_reason"):
        if raw.get(name) is None:
            raw.pop(name, None)
    raw["status"] = change.status.value
    raw["storage_strategy"] = change.storage_strategy.value
    raw["updated_at"] = change.updated_at
    if not isinstance(raw.get("created_at"), int):
        raw["created_at"] = change.updated_at
    return raw


def _statistics(raw: Mapping[str, Any]) -> dict[str, int]:
    metadata = raw.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    return {
        name: told[name]
        for name in STATISTICS
        if isinstance(told.get(name), int) and not isinstance(told[name], bool) and told[name] >= 0
    }


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        parts = sorted({".".join(str(part) for part in item["loc"]) for item in wrong})
        return f"an item with a wrong {', '.join(parts[:5])}"
    return "an item that is no JSON"


def failure(error: Exception) -> str:
    """Words for a report; a mistake of ours is told by its kind, its text may hold content."""
    return str(error) if isinstance(error, EscherError) else f"Unexpected {type(error).__name__}."
