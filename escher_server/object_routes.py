"""The object storage's HTTP side: pre-signed PUT and GET, parts, and library files.

No bearer token here: the signature is the permission. Bodies are streamed to disk; blocking
work runs in the thread pool, for a small file in one go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from escher_server.objects import CHUNK_BYTES, header_checksum
from escher_server.objects_local import IncomingFile, LocalObjectStore
from escher_server.problems import Problem
from escher_server.services import Services, ServicesDep, urls_expired
from escher_server.signing import Action
from escher_server.uploads import remember_objects
from escher_server.versions import find, stored_files

router = APIRouter(prefix="/objects", include_in_schema=False)
_CHECKSUM_HEADER = "x-amz-checksum-sha256"


class _CountedFile(FileResponse):
    """A file (with Range and If-Range) whose sent bytes are counted for a tenant."""

    def __init__(
        self, services: Services, tenant_id: str, checksum_hex: str, **kwargs: Any
    ) -> None:
        super().__init__(
            headers={"ETag": f'"{checksum_hex}"', "Cache-Control": "private, max-age=3600"},
            media_type="application/octet-stream",
            **kwargs,
        )
        self._services = services
        self._tenant_id = tenant_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            # first counted, then sent: whoever has the bytes finds them in the statistics
            self._services.counters.add(self._tenant_id, sent=len(message.get("body", b"")))
            await send(message)

        # uvicorn has no such extension today; with it the body would not pass through `send`
        scope.get("extensions", {}).pop("http.response.pathsend", None)
        await super().__call__(scope, receive, counted)


@router.put("/tenants/{tenant_id}/{digest}")
async def put_object(
    tenant_id: str, digest: str, request: Request, services: ServicesDep
) -> JSONResponse:
    """Receive a whole object; 400 when the bytes are not the announced ones."""
    store = _local_store(services)
    _check_signature("put", request, services, tenant_id)
    checksum = f"sha256:{digest}"
    if request.headers.get(_CHECKSUM_HEADER) != header_checksum(checksum):
        raise Problem(403, f"{_CHECKSUM_HEADER} must be sent as it was given with the URL.")
    size_bytes = int(request.query_params["size"])
    incoming = IncomingFile(services.incoming_dir, size_bytes)

    def settle() -> None:
        incoming.commit(checksum, store.path(tenant_id, checksum))
        remember_objects(services, tenant_id, {checksum: size_bytes})

    await _receive(request, services, tenant_id, incoming, settle)
    return JSONResponse({"checksum": checksum}, headers={"ETag": f'"{digest}"'})


@router.put("/tenants/{tenant_id}/{digest}/parts/{number}")
async def put_part(
    tenant_id: str, digest: str, number: int, request: Request, services: ServicesDep
) -> JSONResponse:
    """Receive one part, which carries its own SHA-256 in ``x-amz-checksum-sha256``."""
    _check_signature("part", request, services, tenant_id)
    part_checksum = _given_checksum(request)
    incoming = IncomingFile(services.incoming_dir, int(request.query_params["size"]))
    whole_bytes = int(request.query_params["whole"])
    target = services.parts.path(tenant_id, f"sha256:{digest}", whole_bytes, number)

    await _receive(
        request,
        services,
        tenant_id,
        incoming,
        lambda: incoming.commit(part_checksum, target),
    )
    return JSONResponse({"number": number, "checksum": part_checksum})


@router.api_route("/tenants/{tenant_id}/{digest}/complete", methods=["POST", "PUT"])
def complete(tenant_id: str, digest: str, request: Request, services: ServicesDep) -> JSONResponse:
    """Put the parts together and check the whole file; again is harmless."""
    _check_signature("complete", request, services, tenant_id)
    checksum = f"sha256:{digest}"
    size_bytes = int(request.query_params["whole"])
    services.parts.complete(services.store, tenant_id, checksum, size_bytes)
    remember_objects(services, tenant_id, {checksum: size_bytes}, through_server=True)
    return JSONResponse({"checksum": checksum}, headers={"ETag": f'"{digest}"'})


@router.api_route("/tenants/{tenant_id}/{digest}", methods=["GET", "HEAD"])
def get_object(
    tenant_id: str, digest: str, request: Request, services: ServicesDep
) -> FileResponse:
    """Send an object, or the asked range of it."""
    store = _local_store(services)
    _check_signature("get", request, services, tenant_id)
    _check_published(services, tenant_id, f"sha256:{digest}", request)
    path = store.path(tenant_id, f"sha256:{digest}")
    if not path.is_file():
        raise Problem(404, "The object is not there.")
    return _CountedFile(services, tenant_id, digest, path=path)


@router.api_route("/library/{playbook_id}/{version}/{path:path}", methods=["GET", "HEAD"])
def get_library_file(
    playbook_id: str, version: str, path: str, request: Request, services: ServicesDep
) -> FileResponse:
    """Send a file of the Escher Library; the URL names the tenant it was made for."""
    tenant_id = request.query_params.get("tenant", "")
    _check_signature("get", request, services, tenant_id)
    file = services.library.file(playbook_id, version, path)
    if file is None:
        raise Problem(404, "The library has no such file.")
    return _CountedFile(services, tenant_id, request.query_params["sha256"], path=file)


async def _receive(
    request: Request,
    services: Services,
    tenant_id: str,
    incoming: IncomingFile,
    settle: Callable[[], None],
) -> None:
    """Stream the body into ``incoming``, then ``settle`` it; nothing is left of a failure."""
    buffer = bytearray()
    received = 0

    def finish() -> None:
        incoming.write(bytes(buffer))
        settle()

    try:
        async for chunk in request.stream():
            received += len(chunk)
            buffer += chunk
            if len(buffer) >= CHUNK_BYTES:
                await run_in_threadpool(incoming.write, bytes(buffer))
                buffer.clear()
        await run_in_threadpool(finish)
    except ClientDisconnect:
        incoming.discard()
        raise Problem(400, "The body ended early.") from None
    except BaseException:
        incoming.discard()
        raise
    finally:
        services.counters.add(tenant_id, received=received)


def _check_signature(action: Action, request: Request, services: Services, tenant_id: str) -> None:
    services.signer.check(
        action, request.scope["path"], request.query_params, expired=urls_expired(request)
    )
    services.counters.add(tenant_id, requests=1)


def _check_published(services: Services, tenant_id: str, checksum: str, request: Request) -> None:
    """410 when the version that the URL was made for has been deleted since."""
    query = request.query_params
    row = find(
        services.database.read(),
        tenant_id,
        query.get("playbook_id", ""),
        query.get("version", ""),
    )
    if row is None or all(file.checksum != checksum for file in stored_files(row)):
        raise Problem(410, "The version that this URL was made for was deleted.")


def _local_store(services: Services) -> LocalObjectStore:
    if not isinstance(services.store, LocalObjectStore):
        raise Problem(404, "Objects are in S3; its own pre-signed URLs lead there.")
    return services.store


def _given_checksum(request: Request) -> str:
    try:
        raw = base64.b64decode(request.headers.get(_CHECKSUM_HEADER, ""), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:  # noqa: PLR2004 — the bytes of a SHA-256
        raise Problem(400, f"A part needs {_CHECKSUM_HEADER}: its SHA-256 in base64.")
    return "sha256:" + raw.hex()
