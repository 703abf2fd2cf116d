"""What a version that is on both sides with the same content takes over from the server."""

from __future__ import annotations

from typing import Any

from core.journal.records import VersionRecord
from core.models import Area, Move, SyncState

# What the server owns of the metadata; none of it is in the content digest.
OWNED = (
    "status", "storage_strategy", "deprecated_by", "deprecation_reason", "created_at", "updated_at",
)  # fmt: skip
NO_ERROR: dict[str, Any] = {
    "error_type": None, "error": None, "attempts": 0, "next_attempt_at": None,
}  # fmt: skip


def following(row: VersionRecord, theirs: VersionRecord) -> tuple[Move | None, dict[str, Any]]:
    """The move and the row's values that are wanting; None and nothing when both are in step."""
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
