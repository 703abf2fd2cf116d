"""The rows of published versions, and how they are shown to clients.

``files`` is stored as ``[[path, checksum, size_bytes, "x"?], …]`` sorted by path; ``"x"`` marks an
executable one. A deleted version keeps its row, its revision and its digest for ever. ``metadata`` is what
was published; what the server owns stands in columns and is laid over it when shown, so an
approval never touches what the content digest covers.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from escher_server.places import tenant_base
from escher_server.playbook_rules import StoredFile
from escher_server.problems import PROBLEM_TYPE, Problem


def find(
    connection: sqlite3.Connection, tenant_id: str, playbook_id: str, version: str
) -> sqlite3.Row | None:
    """The row of a version, which may be a tombstone; None when it never was."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM versions WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
        (tenant_id, playbook_id, version),
    ).fetchone()
    return row


def find_live(
    connection: sqlite3.Connection, tenant_id: str, playbook_id: str, version: str
) -> sqlite3.Row:
    """The row of a version that is there, else 404."""
    row = find(connection, tenant_id, playbook_id, version)
    if row is None or row["deleted"]:
        raise Problem(404, f"There is no {playbook_id}@{version} here.")
    return row


def holds_other_content(row: sqlite3.Row, content_digest: str) -> bool:
    """Whether the name is taken by other content; that of a deleted version counts for ever."""
    return bool(row["content_digest"] != content_digest)


def immutable(row: sqlite3.Row) -> Problem:
    """The 409 for other content under a name that holds, or held, some."""
    was = "was deleted; its name" if row["deleted"] else "is published and"
    return conflict(
        409,
        f"{row['playbook_id']}@{row['version']} {was} never takes other content: "
        "publish it as another version.",
        row,
        type=f"{PROBLEM_TYPE}immutable",
    )


def next_seq(connection: sqlite3.Connection, tenant_id: str) -> int:
    """Take the tenant's next change number; only inside a write transaction."""
    seq: int = connection.execute(
        "UPDATE tenants SET last_seq = last_seq + 1 WHERE tenant_id = ? RETURNING last_seq",
        (tenant_id,),
    ).fetchone()[0]
    return seq


def shown_metadata(row: sqlite3.Row) -> dict[str, Any]:
    """The published metadata with the server's own fields over it."""
    metadata: dict[str, Any] = json.loads(row["metadata"])
    for key in ("deprecated_by", "deprecation_reason"):
        metadata.pop(key, None)
        if row[key] is not None:
            metadata[key] = row[key]
    metadata.update(
        {
            key: row[key]
            for key in (
                "status",
                "storage_strategy",
                "updated_at",
                "execution_count",
                "success_count",
                "last_executed",
            )
        }
    )
    return metadata


def stored_files(row: sqlite3.Row) -> list[StoredFile]:
    """The files of a version; none of a deleted one."""
    return [
        StoredFile(path, checksum, size, marks == ["x"])
        for path, checksum, size, *marks in json.loads(row["files"])
    ]


def shown_files(row: sqlite3.Row) -> list[dict[str, Any]]:
    """The files of a version as the changes feed lists them."""
    base = tenant_base(row["tenant_id"], row["playbook_id"], row["version"])
    return [
        {
            "path": file.path,
            "size_bytes": file.size_bytes,
            "checksum": file.checksum,
            "executable": file.executable,
            "s3_path": f"{base}/{file.path}",
        }
        for file in stored_files(row)
    ]


def conflict(status: int, detail: str, row: sqlite3.Row, **members: Any) -> Problem:
    """A 409 or 412 that says what the server holds."""
    return Problem(
        status,
        detail,
        **members,
        server={
            "revision": row["revision"],
            "content_digest": row["content_digest"],
            "metadata": None if row["deleted"] else shown_metadata(row),
            "updated_at": row["updated_at"],
            "deleted": bool(row["deleted"]),
        },
    )
