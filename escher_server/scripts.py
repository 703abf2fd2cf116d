"""``GET /api/script/download``: pre-signed GETs for the files of a version.

Asked by id and version, ``format`` narrows to that folder. Asked by ``s3_path``, it may name a
file, a folder of the version, or the whole version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from escher_server.objects import hex_of
from escher_server.places import LIBRARY_BUCKET, TENANT_BUCKET
from escher_server.playbook_rules import FORMATS, LIBRARY_PREFIX, entry_point, precedence
from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep, expiry
from escher_server.tenants import Caller
from escher_server.versions import find_live

router = APIRouter()
_TENANT_PATH = re.compile(
    re.escape(TENANT_BUCKET)
    + r"/tenants/(?P<tenant>[^/]+)/playbooks/(?P<id>[^/]+)/v(?P<version>[^/]+)(?:/(?P<path>.*))?"
)
_LIBRARY_PATH = re.compile(
    re.escape(LIBRARY_BUCKET) + r"/playbooks/(?P<id>[^/]+)/v(?P<version>[^/]+)(?:/(?P<path>.*))?"
)
_HIDDEN = ("draft", "archived", "rejected", "broken")


@dataclass(frozen=True, slots=True)
class _Asked:
    playbook_id: str
    version: str | None  # None: the latest
    path: str  # a file or folder below the version; "" is all of it


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size_bytes: int
    checksum: str
    url: str


@router.get("/api/script/download")
def download(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    s3_path: str | None = None,
    playbook_id: str | None = None,
    version: str | None = None,
    format: Literal["shell", "cloudformation", "arm", "terraform", "python"] | None = None,  # noqa: A002 — the contract's name
) -> JSONResponse:
    """List the files asked for, each with a URL, and the entry script when it is one format."""
    if s3_path is not None:
        asked = _asked_path(caller, s3_path)
    elif playbook_id is not None:
        wanted = None if version in {None, "latest"} else version
        asked = _Asked(playbook_id, wanted, format or "")
    else:
        raise Problem(400, "Name an s3_path, or a playbook_id.")
    expires_at = expiry(request, services.config.download_url_ttl_seconds)
    source = _library_files if asked.playbook_id.startswith(LIBRARY_PREFIX) else _tenant_files
    found_version, metadata, files = source(services, caller, asked, expires_at)
    if not files:
        raise Problem(
            404, f"{asked.playbook_id}@{found_version} has no {asked.path or 'files'} here."
        )
    folder = files[0].path.split("/")[0] if asked.path else ""
    found_format = folder if folder in FORMATS else None
    return JSONResponse(
        {
            "playbook_id": asked.playbook_id,
            "version": found_version,
            "format": found_format,
            "files": [
                {
                    "path": file.path,
                    "url": file.url,
                    "checksum": file.checksum,
                    "size_bytes": file.size_bytes,
                    "expires_at": expires_at,
                }
                for file in files
            ],
            "entry_point": entry_point(
                found_format, [file.path for file in files], metadata.get("entry_points")
            )
            if found_format
            else None,
        }
    )


def _asked_path(caller: Caller, s3_path: str) -> _Asked:
    own = _TENANT_PATH.fullmatch(s3_path)
    if own:
        caller.require_tenant(own["tenant"])
    match = own or _LIBRARY_PATH.fullmatch(s3_path)
    if match is None or (own is None) != match["id"].startswith(LIBRARY_PREFIX):
        raise Problem(400, "s3_path is neither in the tenant space nor in the Escher Library.")
    return _Asked(match["id"], match["version"], (match["path"] or "").rstrip("/"))


def _tenant_files(
    services: Services, caller: Caller, asked: _Asked, expires_at: int
) -> tuple[str, Mapping[str, Any], list[_File]]:
    version = asked.version or _latest(services, caller.tenant_id, asked.playbook_id)
    row = find_live(services.database.read(), caller.tenant_id, asked.playbook_id, version)
    files = [
        _File(path, size, checksum, services.store.get_url(caller.tenant_id, checksum, expires_at))
        for path, checksum, size in json.loads(row["files"])
        if _inside(path, asked.path)
    ]
    return version, json.loads(row["metadata"]), files


def _library_files(
    services: Services, caller: Caller, asked: _Asked, expires_at: int
) -> tuple[str, Mapping[str, Any], list[_File]]:
    found = services.library.find(asked.playbook_id, asked.version)
    if found is None:
        raise Problem(404, f"The Escher Library has no {asked.playbook_id} of this version.")
    files = [
        _File(
            file.path,
            file.size_bytes,
            file.checksum,
            services.signer.url(
                "get",
                f"/objects/library/{found.playbook_id}/{found.version}/{file.path}",
                expires_at=expires_at,
                tenant=caller.tenant_id,
                sha256=hex_of(file.checksum),
            ),
        )
        for file in found.files
        if _inside(file.path, asked.path)
    ]
    return found.version, found.metadata, files


def _inside(path: str, asked: str) -> bool:
    return not asked or path == asked or path.startswith(f"{asked}/")


def _latest(services: Services, tenant_id: str, playbook_id: str) -> str:
    """The highest version that search would not hide."""
    rows = services.database.read().execute(
        "SELECT version, status FROM versions "
        "WHERE tenant_id = ? AND playbook_id = ? AND NOT deleted",
        (tenant_id, playbook_id),
    )
    shown = [row["version"] for row in rows if row["status"] not in _HIDDEN]
    if not shown:
        raise Problem(404, f"There is no {playbook_id} here.")
    latest: str = max(shown, key=precedence)
    return latest
