"""Items of the server's changes feed, and conflicts that they make."""

from __future__ import annotations

from typing import Any

import pytest

from core.files import sha256_bytes
from core.journal import Journal
from core.models import FileEntry, Ref, SyncState, content_digest
from core.publishing.feed import read_item


def change_item(ref: Ref, script: bytes = b"echo theirs\n", **fields: Any) -> dict[str, Any]:
    """A published version as the feed tells it."""
    metadata = {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "name": "Stop idle databases",
        "description": "Theirs.",
        "cloud_provider": ["aws"],
        "storage_strategy": "uploaded_for_review",
        "status": "pending_review",
        "created_at": 1,
        "updated_at": 2,
    }
    entry = FileEntry("shell/main.sh", len(script), sha256_bytes(script))
    base = f"s3://escher-tenant-data/tenants/t/playbooks/{ref.playbook_id}/v{ref.version}"
    return {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "revision": 1,
        "content_digest": content_digest(metadata, [entry]),
        "status": "pending_review",
        "storage_strategy": "uploaded_for_review",
        "deleted": False,
        "updated_at": 2,
        "metadata": metadata,
        "files": [{**entry.as_json(), "s3_path": f"{base}/{entry.path}"}],
        **fields,
    }


def tell_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server, wherever it is, hold what `at_odds` says that it holds."""
    monkeypatch.setattr(
        "core.publishing.conflicts.find_theirs",
        lambda _server, ref: read_item(change_item(ref)),
    )


def at_odds(journal: Journal, ref: Ref) -> None:
    """Put a stored, unpublished version into an open conflict, as a pull does."""
    item = change_item(ref)
    journal.conflicts.open(
        ref,
        "open_conflict",
        f"The server already holds {ref} with other content (revision 1).",
        server_revision=1,
        server_digest=item["content_digest"],
    )
    journal.versions.set(ref, sync_state=SyncState.CONFLICT, error_type="Conflict", error="…")
