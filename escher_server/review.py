"""A version's life after publishing: review status, deletion, execution statistics."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictBool

from escher_server.playbook_rules import CANDIDATES, Checksum, precedence
from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep
from escher_server.tenants import Caller
from escher_server.versions import conflict, find, find_live, next_seq

router = APIRouter()
# deprecating what is hidden would show it again, with a warning
_DEPRECATED_BY_A_HIGHER = frozenset({"approved", "active", "pending_review", "needs_update"})
_IF_MATCH = re.compile(r'^"?(\d{1,18})"?$', re.ASCII)
_MAX_EXECUTIONS = 1000
_DAY_SECONDS = 86400
_MAX_INTEGER = 2**53  # what JSON carries exactly


class StatusChange(BaseModel):
    """The body of a status call; ``draft`` and ``ready`` are local states."""

    status: Literal[
        "active", "approved", "archived", "broken",
        "deprecated", "needs_update", "pending_review", "rejected",
    ]  # fmt: skip
    reason: Annotated[str, Field(max_length=4000)] | None = None
    content_digest: Checksum | None = None


class Execution(BaseModel):
    """One run as an execution engine saw it; ``at`` in Unix seconds."""

    execution_id: Annotated[str, Field(min_length=1, max_length=200)]
    success: StrictBool
    duration_ms: Annotated[int, Field(ge=0, le=_MAX_INTEGER)] = 0
    at: Annotated[int, Field(ge=0, le=_MAX_INTEGER)]


class Executions(BaseModel):
    """The body of a stats call."""

    executions: Annotated[list[Execution], Field(max_length=_MAX_EXECUTIONS)]


@router.post("/api/playbook/metadata/{tenant_id}/{playbook_id}/{version}/status")
def set_status(
    tenant_id: str,
    playbook_id: str,
    version: str,
    body: StatusChange,
    caller: CallerDep,
    services: ServicesDep,
) -> JSONResponse:
    """A reviewer's decision. Approving also trusts the version and deprecates the lower ones."""
    caller.require_tenant(tenant_id)
    caller.require_reviewer()
    with services.database.write() as connection:
        row = find_live(connection, tenant_id, playbook_id, version)
        if body.content_digest not in {None, row["content_digest"]}:
            raise conflict(409, "This version holds other content than was reviewed.", row)
        approved = body.status == "approved"
        now = int(time.time())
        strategy = "uploaded_trusted" if approved else row["storage_strategy"]
        reason = None if approved else body.reason
        wanted = (body.status, strategy, reason)
        if wanted != (row["status"], row["storage_strategy"], row["deprecation_reason"]):
            connection.execute(
                "UPDATE versions SET status = ?, storage_strategy = ?, deprecation_reason = ?, "
                "deprecated_by = NULL, revision = revision + 1, seq = ?, updated_at = ?, "
                "approved_at = coalesce(approved_at, ?) "
                "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
                (
                    *wanted,
                    next_seq(connection, tenant_id),
                    now,
                    now if body.status in CANDIDATES else None,
                    tenant_id,
                    playbook_id,
                    version,
                ),
            )
        if approved:
            deprecate_lower(connection, tenant_id, playbook_id, version, now)
        row = find_live(connection, tenant_id, playbook_id, version)
    services.links.notify(tenant_id)
    return JSONResponse(
        {key: row[key] for key in ("revision", "status", "storage_strategy", "updated_at")}
    )


def deprecate_lower(
    connection: sqlite3.Connection, tenant_id: str, playbook_id: str, version: str, now: int
) -> None:
    """Deprecate the shown versions below ``version`` by SemVer precedence."""
    rows = connection.execute(
        "SELECT version, status FROM versions "
        "WHERE tenant_id = ? AND playbook_id = ? AND NOT deleted",
        (tenant_id, playbook_id),
    ).fetchall()
    for row in rows:
        lower = precedence(row["version"]) < precedence(version)
        if not lower or row["status"] not in _DEPRECATED_BY_A_HIGHER:
            continue
        connection.execute(
            "UPDATE versions SET status = 'deprecated', deprecated_by = ?, "
            "deprecation_reason = ?, revision = revision + 1, seq = ?, updated_at = ? "
            "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
            (
                version,
                f"version {version} was approved",
                next_seq(connection, tenant_id),
                now,
                tenant_id,
                playbook_id,
                row["version"],
            ),
        )


@router.delete("/api/playbook/metadata/{tenant_id}/{playbook_id}/{version}")
def delete_version(
    tenant_id: str,
    playbook_id: str,
    version: str,
    caller: CallerDep,
    services: ServicesDep,
    if_match: Annotated[str | None, Header()] = None,
) -> JSONResponse:
    """Leave a tombstone; deleting what is already deleted is answered the same."""
    caller.require_tenant(tenant_id)
    if if_match is None:
        raise Problem(428, "Send If-Match: <revision>.")
    match = _IF_MATCH.match(if_match.strip())
    if match is None:
        raise Problem(400, "If-Match must be one revision number.")
    with services.database.write() as connection:
        row = find(connection, tenant_id, playbook_id, version)
        if row is None:
            raise Problem(404, f"There is no {playbook_id}@{version} here.")
        revision = row["revision"]
        if not row["deleted"]:
            if int(match[1]) != revision:
                raise conflict(412, "The server holds another revision than If-Match.", row)
            _check_may_delete(caller, row)
            revision += 1
            connection.execute(
                "UPDATE versions SET deleted = 1, revision = ?, seq = ?, updated_at = ?, "
                "files = '[]', vector = NULL "
                "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
                (
                    revision,
                    next_seq(connection, tenant_id),
                    int(time.time()),
                    tenant_id,
                    playbook_id,
                    version,
                ),
            )
            # publishing anew must not be answered, or counted, with what was before the deletion
            for table in ("answers", "executions"):
                connection.execute(
                    f"DELETE FROM {table} WHERE tenant_id = ? AND playbook_id = ? AND version = ?",  # noqa: S608  one of two names above
                    (tenant_id, playbook_id, version),
                )
    services.links.notify(tenant_id)
    return JSONResponse(
        {"playbook_id": playbook_id, "version": version, "revision": revision, "deleted": True}
    )


@router.post("/api/playbook/stats/{tenant_id}/{playbook_id}/{version}")
def report_executions(
    tenant_id: str,
    playbook_id: str,
    version: str,
    body: Executions,
    caller: CallerDep,
    services: ServicesDep,
) -> JSONResponse:
    """Count executions once by their id; no revision, but a change that the feed shows.

    A member may report so many a day as `ServerConfig` says; a time in the future counts as now.
    """
    caller.require_tenant(tenant_id)
    key = (tenant_id, playbook_id, version)
    now = int(time.time())
    with services.database.write() as connection:
        if not _is_library(services, playbook_id, version):
            find_live(connection, *key)
        accepted = sum(
            connection.execute(
                "INSERT OR IGNORE INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (tenant_id, run.execution_id, playbook_id, version,
                 run.success, run.duration_ms, min(run.at, now), caller.member, now),
            ).rowcount
            for run in body.executions
        )  # fmt: skip
        _check_reported(connection, caller, now, services.config.max_executions_per_member_day)
        count, successes, last = connection.execute(
            "SELECT count(*), coalesce(sum(success), 0), max(at) FROM executions "
            "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
            key,
        ).fetchone()
        if accepted:
            connection.execute(
                "UPDATE versions SET execution_count = ?, success_count = ?, last_executed = ?, "
                "seq = ? WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
                (count, successes, last, next_seq(connection, tenant_id), *key),
            )
    return JSONResponse(
        {
            "accepted": accepted,
            "execution_count": count,
            "success_count": successes,
            "last_executed": last,
        }
    )


def _check_may_delete(caller: Caller, row: sqlite3.Row) -> None:
    """403 for a member, unless that member published the version and nobody ever approved it."""
    if caller.role == "reviewer":
        return
    if row["approved_at"] is not None:
        raise Problem(403, "An approved version is deleted with a reviewer's token.")
    if row["published_by"] != caller.member:
        whose = "another member" if row["published_by"] else "somebody before members were kept"
        raise Problem(
            403, f"{whose.capitalize()} published this version; a reviewer's token deletes it."
        )


def _check_reported(connection: sqlite3.Connection, caller: Caller, now: int, most: int) -> None:
    """429 (and nothing of this call is counted) when the member has reported too many today."""
    reported, oldest = connection.execute(
        "SELECT count(*), min(received_at) FROM executions "
        "WHERE tenant_id = ? AND member = ? AND received_at > ?",
        (caller.tenant_id, caller.member, now - _DAY_SECONDS),
    ).fetchone()
    if reported > most:
        raise Problem(
            429,
            f"{caller.member} has reported more than {most} executions within a day.",
            retry_after=max(1, oldest + _DAY_SECONDS - now),
        )


def _is_library(services: Services, playbook_id: str, version: str) -> bool:
    return services.library.find(playbook_id, version) is not None
