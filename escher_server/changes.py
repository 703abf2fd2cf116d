"""``GET /api/playbook/metadata/changes``: what changed, in order, for as long as one asks.

A version stands in the feed once, at its last change; a deleted one as a tombstone. Whoever
reads until ``more`` is false has seen every change made before the first page was asked for.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep
from escher_server.versions import shown_files, shown_metadata

router = APIRouter()
_MAX_PAGE = 1000
_PAGE_BYTES = 12 << 20  # clients take 16 MiB; a file's place is written out, so the half is reserve
_ITEM_BYTES = 1024


@router.get("/api/playbook/metadata/changes")
def changes(
    tenant_id: str,
    caller: CallerDep,
    services: ServicesDep,
    since: str | None = None,
    limit: Annotated[int, Query(ge=1)] = 200,
) -> JSONResponse:
    """One page of changes after the cursor ``since``; without one, from the beginning."""
    caller.require_tenant(tenant_id)
    limit = min(limit, _MAX_PAGE)
    start = _position(services, tenant_id, since)
    rows = (
        services.database.read()
        .execute(
            "SELECT * FROM versions WHERE tenant_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (tenant_id, start, limit + 1),
        )
        .fetchall()
    )
    page = _within_bytes(rows[:limit])
    end = page[-1]["seq"] if page else start
    return JSONResponse(
        {
            "changes": [_shown(row) for row in page],
            "cursor": _cursor(services, end),
            "more": len(rows) > len(page),
        }
    )


def _within_bytes(rows: list[sqlite3.Row]) -> list[sqlite3.Row]:
    """The first of ``rows`` that make an answer of a size clients take; one at least."""
    size = 0
    for count, row in enumerate(rows):
        size += 2 * (len(row["metadata"]) + len(row["files"])) + _ITEM_BYTES
        if size > _PAGE_BYTES:
            return rows[: max(count, 1)]
    return rows


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    deleted = bool(row["deleted"])
    return {
        "playbook_id": row["playbook_id"],
        "version": row["version"],
        "revision": row["revision"],
        "content_digest": row["content_digest"],
        "status": row["status"],
        "storage_strategy": row["storage_strategy"],
        "deleted": deleted,
        "published_by": row["published_by"],
        "updated_at": row["updated_at"],
        "metadata": None if deleted else shown_metadata(row),
        "files": [] if deleted else shown_files(row),
    }


def _cursor(services: Services, seq: int) -> str:
    raw = f"{services.database.epoch}:{services.database.life}:{seq}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _position(services: Services, tenant_id: str, cursor: str | None) -> int:
    """Where a cursor stands. One from another life of this server (its data directory was made
    anew, or restored from an older copy) starts from the beginning, so that nothing is missed.
    """
    if not cursor:
        return 0
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        epoch, *life, number = raw.split(":")  # before schema 2 a cursor named no life
        seq = int(number)
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "since is not a cursor of this server.") from error
    end = services.database.life_end(":".join(life), tenant_id)
    known = epoch == services.database.epoch and end is not None and 0 <= seq <= end
    return seq if known else 0
