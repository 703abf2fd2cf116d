"""Reads the server's changes feed item by item, and checks what it says.

A malformed item is a failed item and never blocks its page. A cursor that the server does not take
any more is given up for the beginning, where nothing is missed. A pull has its bounds: pages of at
most 1,000 items and 16 MiB, 10,000 of them and ten minutes; a cursor that comes twice ends it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from core.bounded_json import BadJson
from core.entry_scripts import by_rule
from core.errors import EscherError, InvalidPlaybook, NotEscherServer, ServerRejected
from core.journal.pulls import Name
from core.journal.versions import VersionRecord
from core.models import (
    Area,
    FileEntry,
    Move,
    Ref,
    SyncState,
    check_id,
    content_digest,
    parse_metadata,
    parse_version,
)
from core.publishing.batch import NO_ERROR
from core.publishing.conflict_rules import There
from core.server.answers import CHECK_URL, MAX_NUMBER, Change, ChangePage, clean_words
from core.server.client import EscherServer

PAGE_ITEMS = 500
MAX_PAGE_ITEMS = 1000
MAX_PAGES = 10_000
MAX_SECONDS = 600.0
MAX_CURSOR_CHARS = 4096
# What the server owns of the metadata; none of it is in the content digest.
OWNED = (
    "status", "storage_strategy", "deprecated_by", "deprecation_reason", "created_at", "updated_at",
)  # fmt: skip
# The server's counts; they go to the row's columns of the same names, not into the metadata.
STATISTICS = ("execution_count", "success_count", "last_executed")
_MAX_MEMBER_CHARS = 200
_REMEDY = "It is tried again; a newer version of escher-playbook-service may know more."


Item = dict[str, Any] | BadJson
"""A raw item of the feed; one that can't be read is its `BadJson`."""


class FeedEnded(Exception):
    """A pull is given up in the middle of the feed; what was applied until then stays."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """One version on the server, checked; ``record`` is the row it makes here (None: deleted)."""

    ref: Ref
    there: There
    record: VersionRecord | None = None
    entries: tuple[FileEntry, ...] = ()

    @property
    def live(self) -> VersionRecord:
        """Return the row that it makes; only of a version that is not deleted."""
        assert self.record is not None
        return self.record


@dataclass(frozen=True, slots=True)
class Page:
    """A page of raw items.

    ``cursor`` is kept once they are applied; ``anew``: the server began at the beginning, as the
    cursor that it was asked for is none of its own any more.
    """

    items: list[Item]
    cursor: str
    anew: bool = False


class Feed:
    """The server's feed within the bounds of one pull, however often it is begun anew."""

    def __init__(self, server: EscherServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._ends_at = clock() + MAX_SECONDS
        self._pages = 0

    def pages(self, cursor: str | None) -> Iterator[Page]:
        """Yield the pages after ``cursor`` until the server has no more.

        Errors are those of the call; `FeedEnded` at a pull's bounds, or when a cursor comes twice.
        """
        begun = cursor is None
        limit = PAGE_ITEMS
        seen: set[bytes] = set()
        while True:
            if self._pages >= MAX_PAGES:
                raise FeedEnded(f"The changes feed has more than {MAX_PAGES} pages.")
            if self._clock() > self._ends_at:
                raise FeedEnded(f"The changes feed took more than {MAX_SECONDS:.0f} s.")
            try:
                page = self._page(cursor, limit)
            except NotEscherServer:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)  # versions may be large, and an answer has its bound
                continue
            except ServerRejected:
                if begun:
                    raise
                # not a cursor of this server any more, or not allowed at all: the beginning tells
                cursor, begun = None, True
                continue
            self._pages += 1
            yield Page(page.changes, page.cursor, anew=cursor is None)
            if not page.more:
                return
            key = hashlib.sha256(page.cursor.encode("utf-8", "replace")).digest()
            if page.cursor == cursor or key in seen:
                raise FeedEnded("The changes feed came back to a cursor that it had given before.")
            seen.add(key)
            cursor, begun = page.cursor, True
            limit = min(PAGE_ITEMS, limit * 2)

    def _page(self, cursor: str | None, limit: int) -> ChangePage:
        page = self._server.change_page(cursor, limit)
        if len(page.changes) > MAX_PAGE_ITEMS or len(page.cursor) > MAX_CURSOR_CHARS:
            raise NotEscherServer("A page of the changes feed is larger than it may be.", CHECK_URL)
        return page


def _members(item: Item) -> Mapping[str, Any]:
    return item.members if isinstance(item, BadJson) else item


def name_of(item: Item) -> Name:
    """Return the name in a raw item, fit to be shown and cut to what the journal keeps."""
    playbook_id, version = (
        clean_words(str(_members(item).get(key, "?"))[:_MAX_MEMBER_CHARS]) or "?"
        for key in ("playbook_id", "version")
    )
    return (playbook_id[:100], version[:64])


def revision_of(item: Item) -> int | None:
    """Return the revision in a raw item."""
    revision = _members(item).get("revision")
    return revision if type(revision) is int and 0 <= revision < 1 << 62 else None


def is_in_step(raw: Mapping[str, Any], row: VersionRecord) -> bool:
    """Tell whether an item says only what the row says already: it needs no reading then."""
    metadata = raw.get("metadata")
    if (
        row.sync_state is not SyncState.PUBLISHED
        or row.area is not Area.SYNCED
        or row.deleting
        or row.absent_since is not None
        or raw.get("deleted") is not False
        or not isinstance(metadata, dict)
        or row.content_digest != row.published_digest
    ):
        return False
    told = {
        "revision": row.revision,
        "content_digest": row.content_digest,
        "status": row.metadata.get("status"),
        "storage_strategy": row.metadata.get("storage_strategy"),
        "updated_at": row.metadata.get("updated_at"),
    }
    if any(raw.get(name) != value for name, value in told.items()):
        return False
    if "published_by" in raw and raw["published_by"] != row.published_by:
        return False
    if any(
        (metadata.get(name) or 0) > (getattr(row, name) or 0)
        for name in STATISTICS
        if isinstance(metadata.get(name), int)
    ):
        return False
    return all(
        metadata.get(name) == row.metadata.get(name)
        for name in ("deprecated_by", "deprecation_reason")
    )


def server_owned_changes(
    row: VersionRecord, theirs: VersionRecord
) -> tuple[Move | None, dict[str, Any]]:
    """Return the move and the values that a row takes over from the server's same content.

    None and nothing when both are in step.
    """
    owned = {name: theirs.metadata.get(name) for name in OWNED}
    follows = row.area is Area.SYNCED and all(
        row.metadata.get(name) == value for name, value in owned.items()
    )
    wanted: dict[str, Any] = {
        "sync_state": SyncState.PUBLISHED,
        "publish_as": None,
        "revision": theirs.revision,
        "published_digest": theirs.published_digest,
        "uploaded_digest": theirs.uploaded_digest,
        "s3_paths": theirs.s3_paths,
        "published_at": row.published_at or theirs.published_at,
        # what was run here and is not told yet is in ours alone
        "execution_count": max(row.execution_count, theirs.execution_count),
        "success_count": max(row.success_count, theirs.success_count),
        "last_executed": max(row.last_executed or 0, theirs.last_executed or 0) or None,
        "published_by": theirs.published_by or row.published_by,
        "absent_since": None,
    }
    if row.sync_state is not SyncState.PUBLISHED:  # else the words are of something else
        wanted |= NO_ERROR
    lacking = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    if lacking or not follows:
        lacking["status_at"] = theirs.status_at
    return (None if follows else Move(row.ref, Area.SYNCED, owned)), lacking


def is_known_deletion(raw: Mapping[str, Any], pinned: str | None) -> bool:
    """Tell whether an item is the tombstone of what is not here, and was told before.

    Servers keep tombstones for ever, so a full pass brings all of them.
    """
    return raw.get("deleted") is True and raw.get("content_digest") == pinned


def read_item(raw: Item) -> Theirs:
    """Check one item; raises `InvalidPlaybook`, which says what is wrong with it."""
    if isinstance(raw, BadJson):
        raise InvalidPlaybook(f"The changes feed holds an item that {raw.why}.")
    try:
        change = Change.model_validate_json(json.dumps(raw))
        ref = Ref(check_id(change.playbook_id), change.version)
        parse_version(change.version)
    except (ValidationError, ValueError) as error:
        raise InvalidPlaybook(f"The changes feed holds {_what(error)}.", _REMEDY) from None
    there = There(change.content_digest, change.revision, change.updated_at, change.deleted)
    if change.deleted:
        return Theirs(ref, there)
    entries = tuple(
        FileEntry(file.path, file.size_bytes, file.checksum, file.executable)
        for file in change.files
    )
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
        intake="pull",
        modes_known=True,
        filled=by_rule(metadata, {entry.path for entry in entries}),
        published_by=_publisher(raw),
        status_at=int(time.time()),
    )
    return Theirs(ref, there, record, entries)


def find_theirs(server: EscherServer, ref: Ref) -> Theirs | None:
    """Return what the server holds of a version, or None; reads the feed from its beginning."""
    found: Theirs | None = None
    for page in Feed(server).pages(None):
        for raw in page.items:
            if isinstance(raw, dict) and name_of(raw) == ref:
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
    if type(raw.get("created_at")) is not int:
        raw["created_at"] = change.updated_at
    return raw


def is_long_known(raw: Mapping[str, Any], row: VersionRecord, pulled_at: int) -> bool:
    """Tell whether an item was in step before the last pull, so that the feed should not tell it.

    What this home has published since comes back from there, and so do its counted executions.
    """
    if (row.status_at or 0) >= pulled_at:
        return False
    return not any(raw["metadata"].get(name) for name in STATISTICS)


def _publisher(raw: Mapping[str, Any]) -> str | None:
    """The member that the server names."""
    name = raw.get("published_by")
    return clean_words(name)[:_MAX_MEMBER_CHARS] or None if isinstance(name, str) else None


def _statistics(raw: Mapping[str, Any]) -> dict[str, int]:
    metadata = raw.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    return {
        name: told[name]
        for name in STATISTICS
        if type(told.get(name)) is int and 0 <= told[name] <= MAX_NUMBER
    }


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        parts = sorted({".".join(str(part) for part in item["loc"]) for item in wrong})
        return f"an item with a wrong {', '.join(parts[:5])}"
    return "an item that is no JSON"


def failure(error: Exception) -> str:
    """Return an error's words for a report; a mistake of ours only by kind, as it may hold content."""
    return str(error) if isinstance(error, EscherError) else f"Unexpected {type(error).__name__}."
