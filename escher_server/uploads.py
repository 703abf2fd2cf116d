"""``POST /api/playbook/upload``: announce files, get upload targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictBool, StrictInt

from escher_server.places import tenant_base
from escher_server.playbook_rules import (
    Checksum,
    PlaybookId,
    PlaybookVersion,
    RelativePath,
    StoredFile,
    check_own_id,
)
from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep, expiry

router = APIRouter()
# Of one version: several clients may be about to publish different content, each in a few pieces.
_ANNOUNCEMENTS_KEPT = 16


class AnnouncedFile(BaseModel):
    """A file that is to be uploaded; ``path`` as on disk."""

    path: RelativePath
    size_bytes: Annotated[StrictInt, Field(ge=0)]
    checksum: Checksum
    executable: StrictBool = False


class Announcement(BaseModel):
    """The body of an upload call."""

    tenant_id: str
    playbook_id: PlaybookId
    version: PlaybookVersion
    files: list[AnnouncedFile]


@router.post("/api/playbook/upload")
def announce(
    body: Announcement, request: Request, caller: CallerDep, services: ServicesDep
) -> JSONResponse:
    """Answer with a target for each file; ``url`` is null where the bytes are already here."""
    caller.require_tenant(body.tenant_id)
    check_own_id(body.playbook_id)
    _check_files(body.files, services)
    held = held_objects(services, body.tenant_id, {file.checksum for file in body.files})
    for file in body.files:
        if held.get(file.checksum, file.size_bytes) != file.size_bytes:
            raise Problem(400, f"{file.path}: the object with this checksum has another size.")
    _remember_announcement(services, body)
    remember_objects(services, body.tenant_id, held)
    base = tenant_base(body.tenant_id, body.playbook_id, body.version)
    expires_at = expiry(request, services.config.upload_url_ttl_seconds)
    uploads = [
        {
            "path": file.path,
            "checksum": file.checksum,
            "s3_path": f"{base}/{file.path}",
            **_target(services, body.tenant_id, file, expires_at, held=file.checksum in held),
        }
        for file in body.files
    ]
    return JSONResponse({"s3_base_path": base, "uploads": uploads})


def _target(
    services: Services, tenant_id: str, file: AnnouncedFile, expires_at: int, *, held: bool
) -> dict[str, Any]:
    if held:
        return {"url": None, "headers": {}, "expires_at": None}
    if file.size_bytes > services.config.multipart_over_bytes:
        parts = services.parts.targets(tenant_id, file.checksum, file.size_bytes, expires_at)
        return {**parts, "headers": {}, "expires_at": expires_at}
    target = services.store.put_target(tenant_id, file.checksum, file.size_bytes, expires_at)
    return {"url": target.url, "headers": target.headers, "expires_at": expires_at}


def _check_files(files: Sequence[AnnouncedFile], services: Services) -> None:
    if len(files) > services.config.max_files_per_upload:
        raise Problem(
            413,
            f"More than {services.config.max_files_per_upload} files in one call: announce them in"
            " pieces.",
        )
    if len({file.path for file in files}) != len(files):
        raise Problem(400, "A path is named twice.")
    for file in files:
        if file.size_bytes > services.config.max_file_bytes:
            raise Problem(
                413, f"{file.path} is over the {services.config.max_file_bytes} bytes taken here."
            )


def held_objects(services: Services, tenant_id: str, checksums: set[str]) -> dict[str, int]:
    """Of these checksums, those the object store holds, with their sizes in bytes."""
    sizes = ((checksum, services.store.size(tenant_id, checksum)) for checksum in checksums)
    return {checksum: size for checksum, size in sizes if size is not None}


def remember_objects(
    services: Services, tenant_id: str, sizes: Mapping[str, int], *, through_server: bool = False
) -> None:
    """Note objects that are in the store. The bytes of a PUT straight to S3, which nobody counted
    on their way (``through_server`` says that someone did), are counted when first seen here.
    """
    known = services.database.read()
    new = {
        checksum: size
        for checksum, size in sizes.items()
        if known.execute(
            "SELECT 1 FROM objects WHERE tenant_id = ? AND checksum = ?", (tenant_id, checksum)
        ).fetchone()
        is None
    }
    if not new:
        return
    with services.database.write(durable=False) as connection:
        for checksum, size in new.items():
            inserted = connection.execute(
                "INSERT OR IGNORE INTO objects VALUES (?, ?, ?)", (tenant_id, checksum, size)
            ).rowcount
            if inserted and not (services.store.sees_bytes or through_server):
                services.counters.add(tenant_id, received=size)


def _remember_announcement(services: Services, body: Announcement) -> None:
    files = json.dumps(
        {
            file.path: [file.checksum, file.size_bytes, *(["x"] if file.executable else [])]
            for file in body.files
        }
    )
    version = (body.tenant_id, body.playbook_id, body.version)
    with services.database.write(durable=False) as connection:
        serial = connection.execute(
            "SELECT coalesce(max(serial), 0) + 1 FROM announcements "
            "WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
            version,
        ).fetchone()[0]
        connection.execute(
            "INSERT OR REPLACE INTO announcements VALUES (?, ?, ?, ?, ?, ?)",
            (*version, hashlib.sha256(files.encode()).hexdigest(), files, serial),
        )
        connection.execute(
            "DELETE FROM announcements "
            "WHERE tenant_id = ? AND playbook_id = ? AND version = ? AND serial <= ?",
            (*version, serial - _ANNOUNCEMENTS_KEPT),
        )


def announced_files(
    services: Services, tenant_id: str, playbook_id: str, version: str
) -> list[dict[str, StoredFile]]:
    """What was announced for a version, newest first, by path."""
    rows = services.database.read().execute(
        "SELECT files FROM announcements "
        "WHERE tenant_id = ? AND playbook_id = ? AND version = ? ORDER BY serial DESC",
        (tenant_id, playbook_id, version),
    )
    return [
        {
            path: StoredFile(path, checksum, size, marks == ["x"])
            for path, (checksum, size, *marks) in json.loads(row["files"]).items()
        }
        for row in rows
    ]
