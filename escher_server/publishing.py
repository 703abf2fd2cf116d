"""``POST /api/playbook/metadata/publish``: the commit point."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from array import array
from collections import ChainMap
from collections.abc import Iterator
from itertools import islice, product
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictInt

from core.limits import FILES, VERSION_BYTES
from escher_server.places import tenant_base
from escher_server.playbook_rules import (
    Checksum,
    PlaybookId,
    PlaybookVersion,
    RelativePath,
    StoredFile,
    check_metadata,
    check_own_id,
    content_digest,
)
from escher_server.problems import Problem
from escher_server.review import deprecate_lower
from escher_server.services import CallerDep, Services, ServicesDep
from escher_server.tenants import Caller
from escher_server.uploads import announced_files, held_objects, remember_objects
from escher_server.versions import conflict, find, holds_other_content, immutable, next_seq

router = APIRouter()
_ANSWERS_KEPT_SECONDS = 30 * 86400
_MAX_DIMENSIONS = 4096
_MAX_CANDIDATES = 64  # of what several clients announced, put together
_MAX_KEY_CHARS = 200
_PROMOTABLE = frozenset({"pending_review", "rejected", "needs_update"})
_INSERT = """
INSERT OR REPLACE INTO versions (
    tenant_id, playbook_id, version, revision, seq, content_digest, metadata, files,
    status, storage_strategy, published_at, updated_at, vector, embedding_model,
    published_by, approved_at
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
Files = dict[str, StoredFile]


class Publication(BaseModel):
    """The body of a publish call."""

    tenant_id: str
    playbook_id: PlaybookId
    version: PlaybookVersion
    metadata: dict[str, Any]
    vector: Annotated[list[float], Field(max_length=_MAX_DIMENSIONS)] | None = None
    embedding_model: Annotated[str, Field(max_length=200)] | None = None
    content_digest: Checksum
    s3_paths: dict[RelativePath, str]
    base_revision: StrictInt | None = None


@router.post("/api/playbook/metadata/publish")
def publish(
    body: Publication,
    caller: CallerDep,
    services: ServicesDep,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> JSONResponse:
    """Publish a version, or answer as before when nothing is new.

    The slow checks (are the files there, do they make the digest) run before the transaction;
    what another client may change meanwhile is decided again inside it.
    """
    caller.require_tenant(body.tenant_id)
    if not idempotency_key or len(idempotency_key) > _MAX_KEY_CHARS:
        raise Problem(400, "Send an Idempotency-Key of 1 to 200 characters.")
    body_digest = _body_digest(body)
    reader = services.database.read()
    earlier = _earlier_answer(reader, body.tenant_id, idempotency_key, body_digest)
    if earlier is not None:
        return JSONResponse(earlier)

    check_own_id(body.playbook_id)
    check_metadata(body.metadata, body.playbook_id, body.version)
    _check_vector(body.vector)
    _check_conflict(_existing(reader, body), body)
    files = _verified_files(services, body)

    with services.database.write() as connection:
        earlier = _earlier_answer(connection, body.tenant_id, idempotency_key, body_digest)
        if earlier is not None:
            return JSONResponse(earlier)
        existing = _existing(connection, body)
        _check_conflict(existing, body)
        now = int(time.time())
        if existing is None or existing["deleted"]:
            _insert(connection, body, files, caller, existing, now)
        else:
            _refresh(connection, body, caller, existing, now)
        row = _existing(connection, body)
        assert row is not None
        answer = {
            key: row[key] for key in ("revision", "status", "storage_strategy", "published_at")
        }
        connection.execute(
            "DELETE FROM answers WHERE created_at < ?", (now - _ANSWERS_KEPT_SECONDS,)
        )
        connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                body.tenant_id,
                idempotency_key,
                body_digest,
                json.dumps(answer),
                body.playbook_id,
                body.version,
                now,
            ),
        )
    services.links.notify(body.tenant_id)
    return JSONResponse(answer)


def _existing(connection: sqlite3.Connection, body: Publication) -> sqlite3.Row | None:
    return find(connection, body.tenant_id, body.playbook_id, body.version)


def _body_digest(body: Publication) -> str:
    canonical = json.dumps(body.model_dump(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _earlier_answer(
    connection: sqlite3.Connection, tenant_id: str, key: str, body_digest: str
) -> dict[str, Any] | None:
    row = connection.execute(
        "SELECT body_digest, answer FROM answers WHERE tenant_id = ? AND key = ?", (tenant_id, key)
    ).fetchone()
    if row is None:
        return None
    if row["body_digest"] != body_digest:
        raise Problem(422, "This Idempotency-Key was used with another body.")
    answer: dict[str, Any] = json.loads(row["answer"])
    return answer


def _check_vector(vector: list[float] | None) -> None:
    if vector is not None and not all(math.isfinite(value) for value in vector):
        raise Problem(400, "vector holds a value that is not a finite number.")


def _check_conflict(existing: sqlite3.Row | None, body: Publication) -> None:
    """409 when the name holds, or held, other content, or has moved past ``base_revision``."""
    if existing is None:
        return
    if holds_other_content(existing, body.content_digest):
        raise immutable(existing)
    if existing["deleted"]:
        if body.base_revision is not None and existing["revision"] > body.base_revision:
            raise conflict(409, "This version was deleted on the server.", existing)
        return
    if existing["revision"] > (body.base_revision or 0):
        raise conflict(409, "The server has moved past base_revision.", existing)


def _verified_files(services: Services, body: Publication) -> Files:
    """The announced files that make the digest; 424 when some are missing, 400 when none do."""
    base = tenant_base(body.tenant_id, body.playbook_id, body.version)
    for path, s3_path in body.s3_paths.items():
        if s3_path != f"{base}/{path}":
            raise Problem(400, f"s3_paths: {path} is not at the place the upload call named.")
    files = _announced(services, body)
    missing = sorted(_not_arrived(services, body.tenant_id, files))
    if missing:
        raise Problem(424, "Announced files have not arrived.", missing=missing)
    remember_objects(
        services, body.tenant_id, {file.checksum: file.size_bytes for file in files.values()}
    )
    return files


def _not_arrived(services: Services, tenant_id: str, files: Files) -> list[str]:
    held = held_objects(services, tenant_id, {file.checksum for file in files.values()})
    return [path for path, file in files.items() if file.checksum not in held]


def _announced(services: Services, body: Publication) -> Files:
    """The files of ``s3_paths`` as announced.

    Announcements add up: a version of many files comes in pieces. Two clients may have announced
    different content for the same version: the newest of each path counts, unless an earlier
    announcement, or earlier pieces together, make the digest.
    """
    if len(body.s3_paths) > FILES:
        raise Problem(413, f"A version may have {FILES} files, and this one has more.")
    announced = announced_files(services, body.tenant_id, body.playbook_id, body.version)
    newest = dict(ChainMap(*announced))
    unknown = sorted(path for path in body.s3_paths if path not in newest)
    if unknown:
        known = {path: newest[path] for path in body.s3_paths if path in newest}
        missing = sorted([*unknown, *_not_arrived(services, body.tenant_id, known)])
        raise Problem(424, "Files were never announced.", missing=missing)
    for candidate in (newest, *islice(_together(announced), _MAX_CANDIDATES)):
        if not body.s3_paths.keys() <= candidate.keys():
            continue
        files = {path: candidate[path] for path in sorted(body.s3_paths)}
        if content_digest(body.metadata, files.values()) == body.content_digest:
            if sum(file.size_bytes for file in files.values()) > VERSION_BYTES:
                raise Problem(413, f"A version may have {VERSION_BYTES >> 20} MiB of files.")
            return files
    raise Problem(400, "content_digest is not that of the metadata and the announced files.")


def _together(announced: list[Files]) -> Iterator[Files]:
    """Each announcement, with one of each other set of paths: what one client may have sent."""
    alternatives: dict[frozenset[str], list[Files]] = {}
    for files in announced:
        alternatives.setdefault(frozenset(files), []).append(files)
    for chosen in product(*alternatives.values()):
        yield dict(ChainMap(*chosen))
    yield from announced


def _insert(
    connection: sqlite3.Connection,
    body: Publication,
    files: Files,
    caller: Caller,
    tombstone: sqlite3.Row | None,
    now: int,
) -> None:
    """Make the version; revisions go on counting after a deletion."""
    trusted = _trusted(body, caller)
    connection.execute(
        _INSERT,
        (
            body.tenant_id,
            body.playbook_id,
            body.version,
            tombstone["revision"] + 1 if tombstone else 1,
            next_seq(connection, body.tenant_id),
            body.content_digest,
            json.dumps(body.metadata),
            json.dumps(
                [[*file[:3], *(["x"] if file.executable else [])] for file in files.values()]
            ),
            "approved" if trusted else "pending_review",
            "uploaded_trusted" if trusted else "uploaded_for_review",
            now,
            now,
            _pack(body.vector),
            body.embedding_model,
            caller.member,
            now if trusted else None,
        ),
    )
    if trusted:
        deprecate_lower(connection, body.tenant_id, body.playbook_id, body.version, now)


def _refresh(
    connection: sqlite3.Connection,
    body: Publication,
    caller: Caller,
    existing: sqlite3.Row,
    now: int,
) -> None:
    """The same content again: a revision only when a reviewer's trust approves it.

    A new vector is no revision either, but search must see it, so it takes a change number.
    """
    key = (body.tenant_id, body.playbook_id, body.version)
    vector = _pack(body.vector)
    if vector is not None and (vector, body.embedding_model) != (
        existing["vector"],
        existing["embedding_model"],
    ):
        connection.execute(
            "UPDATE versions SET vector = ?, embedding_model = ?, seq = ? "
            "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
            (vector, body.embedding_model, next_seq(connection, body.tenant_id), *key),
        )
    if _trusted(body, caller) and existing["status"] in _PROMOTABLE:
        connection.execute(
            "UPDATE versions SET status = 'approved', storage_strategy = 'uploaded_trusted', "
            "deprecation_reason = NULL, revision = revision + 1, seq = ?, updated_at = ?, "
            "approved_at = ? WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
            (next_seq(connection, body.tenant_id), now, now, *key),
        )
        deprecate_lower(connection, *key, now)


def _trusted(body: Publication, caller: Caller) -> bool:
    return caller.role == "reviewer" and body.metadata["storage_strategy"] == "uploaded_trusted"


def _pack(vector: list[float] | None) -> bytes | None:
    return None if vector is None else array("f", vector).tobytes()
