"""``GET /api/script/download``: pre-signed GETs for the files of a version.

Asked by id and version, ``format`` narrows to that folder. Asked by ``s3_path``, it may name a
file, a folder of the version, or the whole version. Each answer also tells what the version is:
its status, its publisher, its metadata and the manifest that its digest covers, so that a client
can check the digest before it takes a byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from core.entry_scripts import begins_as_script, stored_entry
from escher_server.objects import hex_of
from escher_server.places import LIBRARY_BUCKET, TENANT_BUCKET
from escher_server.playbook_rules import (
    CANDIDATES,
    FORMATS,
    LIBRARY_PREFIX,
    StoredFile,
    has_format,
    latest,
)
from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep, expiry
from escher_server.tenants import Caller
from escher_server.versions import find_live, shown_metadata, stored_files

router = APIRouter()
LIBRARY_MEMBER = "escher-library"
_HEAD_BYTES = 8
_TENANT_PATH = re.compile(
    re.escape(TENANT_BUCKET)
    + r"/tenants/(?P<tenant>[^/]+)/playbooks/(?P<id>[^/]+)/v(?P<version>[^/]+)(?:/(?P<path>.*))?"
)
_LIBRARY_PATH = re.compile(
    re.escape(LIBRARY_BUCKET) + r"/playbooks/(?P<id>[^/]+)/v(?P<version>[^/]+)(?:/(?P<path>.*))?"
)


@dataclass(frozen=True, slots=True)
class _Asked:
    playbook_id: str
    version: str | None  # None: the latest
    path: str  # a file or folder below the version; "" is all of it


@dataclass(frozen=True, slots=True)
class _Found:
    """A version, of the tenant or of the library.

    ``url`` signs a GET of one of its files, ``head`` gives so many of the file's first bytes.
    """

    playbook_id: str
    version: str
    status: str
    published_by: str | None
    content_digest: str | None
    metadata: Mapping[str, Any]
    files: Sequence[StoredFile]
    manifest: Sequence[StoredFile]
    url: Callable[[StoredFile], str]
    head: Callable[[StoredFile, int], bytes]

    def entry_point(self, format_: str) -> str | None:
        """The entry script: as the metadata says, else by the rule; None where there is none."""
        by_path = {file.path: file for file in self.manifest}
        found = stored_entry(
            format_,
            by_path,
            self.metadata.get("entry_points"),
            lambda path: begins_as_script(self.head(by_path[path], _HEAD_BYTES)),
        )
        return found.path


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
    source = _in_library if asked.playbook_id.startswith(LIBRARY_PREFIX) else _in_tenant
    found = source(services, caller, asked, expires_at)
    files = [file for file in found.files if _inside(file.path, asked.path)]
    if not files:
        raise Problem(
            404, f"{found.playbook_id}@{found.version} has no {asked.path or 'files'} here."
        )
    folder = files[0].path.split("/")[0] if asked.path else ""
    found_format = folder if folder in FORMATS else None
    return JSONResponse(
        {
            "playbook_id": found.playbook_id,
            "version": found.version,
            "format": found_format,
            "status": found.status,
            "published_by": found.published_by,
            "content_digest": found.content_digest,
            "metadata": found.metadata,
            "manifest": [file.entry for file in found.manifest],
            "files": [
                {
                    "path": file.path,
                    "url": found.url(file),
                    "checksum": file.checksum,
                    "size_bytes": file.size_bytes,
                    "executable": file.executable,
                    "expires_at": expires_at,
                }
                for file in files
            ],
            "entry_point": _entry_point(found, found_format, files),
        }
    )


def _entry_point(found: _Found, format_: str | None, files: Sequence[StoredFile]) -> str | None:
    """The entry script of the format where it is among the files that are told."""
    entry = found.entry_point(format_) if format_ is not None else None
    return entry if entry in {file.path for file in files} else None


def _asked_path(caller: Caller, s3_path: str) -> _Asked:
    own = _TENANT_PATH.fullmatch(s3_path)
    if own:
        caller.require_tenant(own["tenant"])
    match = own or _LIBRARY_PATH.fullmatch(s3_path)
    if match is None or (own is None) != match["id"].startswith(LIBRARY_PREFIX):
        raise Problem(400, "s3_path is neither in the tenant space nor in the Escher Library.")
    return _Asked(match["id"], match["version"], (match["path"] or "").rstrip("/"))


def _in_tenant(services: Services, caller: Caller, asked: _Asked, expires_at: int) -> _Found:
    tenant_id = caller.tenant_id
    version = asked.version or _latest(services, tenant_id, asked.playbook_id, asked.path)
    row = find_live(services.database.read(), tenant_id, asked.playbook_id, version)
    files = stored_files(row)
    of = (row["playbook_id"], row["version"])
    return _Found(
        *of,
        status=row["status"],
        published_by=row["published_by"],
        content_digest=row["content_digest"],
        metadata=shown_metadata(row),
        files=files,
        manifest=files,
        url=lambda file: services.store.get_url(tenant_id, file.checksum, expires_at, of),
        head=lambda file, size: services.store.head(tenant_id, file.checksum, size),
    )


def _in_library(services: Services, caller: Caller, asked: _Asked, expires_at: int) -> _Found:
    library = services.library
    if asked.version is None:
        found = library.latest(asked.playbook_id, asked.path)
    else:
        found = library.find(asked.playbook_id, asked.version)
    if found is None:
        raise Problem(404, f"The Escher Library has no such version of {asked.playbook_id}.")
    return _Found(
        found.playbook_id,
        found.version,
        status=found.status,
        published_by=LIBRARY_MEMBER,
        content_digest=found.content_digest,
        metadata=found.metadata,
        files=found.files,
        manifest=found.manifest,
        url=lambda file: services.signer.url(
            "get",
            f"/objects/library/{found.playbook_id}/{found.version}/{file.path}",
            expires_at=expires_at,
            tenant=caller.tenant_id,
            sha256=hex_of(file.checksum),
        ),
        head=found.head,
    )


def _inside(path: str, asked: str) -> bool:
    return not asked or path == asked or path.startswith(f"{asked}/")


def _latest(services: Services, tenant_id: str, playbook_id: str, format_: str) -> str:
    """The highest approved or active version that has the format (``""``: any)."""
    rows = services.database.read().execute(
        "SELECT version, status, files FROM versions "
        "WHERE tenant_id = ? AND playbook_id = ? AND NOT deleted",
        (tenant_id, playbook_id),
    )
    found = latest(
        row["version"]
        for row in rows
        if row["status"] in CANDIDATES
        and has_format((file.path for file in stored_files(row)), format_)
    )
    if found is None:
        what = f"{format_} script of {playbook_id}" if format_ else playbook_id
        raise Problem(404, f"There is no approved or active {what} here.")
    return found
