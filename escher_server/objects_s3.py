"""Objects in an S3 bucket (any endpoint), through S3's own pre-signed URLs.

Keys are ``tenants/<tenant>/objects/ab/cdef…``. A PUT is signed with its checksum and its length,
so S3 itself refuses other bytes. Endpoints exist that ignore checksums; an object for which S3
reports none is therefore read and hashed once before it counts as there.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

from escher_server.config import S3Objects
from escher_server.objects import CHUNK_BYTES, PutTarget, header_checksum, hex_of, pinned_headers

_MAX_VERIFIED = 100_000


class S3ObjectStore:
    """`ObjectStore` in a bucket, which must exist; credentials from boto3's usual chain."""

    sees_bytes = False

    def __init__(self, config: S3Objects) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError

        self._bucket = config.bucket
        self._missing: type[Exception] = ClientError
        self._client = boto3.client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if config.endpoint_url else "auto"},
                # otherwise botocore signs a CRC32 into every URL, which clients don't send
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._verified: set[tuple[str, str]] = set()  # (key, etag) hashed by this process
        self._lock = threading.Lock()

    def size(self, tenant_id: str, checksum: str) -> int | None:
        key = _key(tenant_id, checksum)
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        except self._missing as error:
            if _status(error) == 404:  # noqa: PLR2004 — the HTTP code itself
                return None
            raise
        reported = head.get("ChecksumSHA256")
        right = (
            self._hashes_to(key, head["ETag"], checksum)
            if reported is None
            else reported == header_checksum(checksum)
        )
        return int(head["ContentLength"]) if right else None

    def _hashes_to(self, key: str, etag: str, checksum: str) -> bool:
        with self._lock:
            if (key, etag) in self._verified:
                return True
        digest = hashlib.sha256()
        body = self._client.get_object(Bucket=self._bucket, Key=key, IfMatch=etag)["Body"]
        with body:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != hex_of(checksum):
            return False
        with self._lock:
            if len(self._verified) >= _MAX_VERIFIED:
                self._verified.clear()
            self._verified.add((key, etag))
        return True

    def put_target(
        self, tenant_id: str, checksum: str, size_bytes: int, expires_at: int
    ) -> PutTarget:
        url = self._presign(
            "put_object",
            expires_at,
            Key=_key(tenant_id, checksum),
            ChecksumSHA256=header_checksum(checksum),
            ContentLength=size_bytes,
        )
        return PutTarget(url, pinned_headers(checksum, size_bytes))

    def get_url(
        self,
        tenant_id: str,
        checksum: str,
        expires_at: int,
        version: tuple[str, str],  # noqa: ARG002  the protocol's
    ) -> str:
        # S3 knows of no versions: such a URL outlives a deletion until it expires
        return self._presign("get_object", expires_at, Key=_key(tenant_id, checksum))

    def head(self, tenant_id: str, checksum: str, size_bytes: int) -> bytes:
        part = f"bytes=0-{size_bytes - 1}"
        try:
            found = self._client.get_object(
                Bucket=self._bucket, Key=_key(tenant_id, checksum), Range=part
            )
        except self._missing as error:
            if _status(error) in {404, 416}:  # 416: it is empty
                return b""
            raise
        with found["Body"] as body:
            head: bytes = body.read(size_bytes)
        return head

    def adopt(self, tenant_id: str, checksum: str, source: Path) -> None:
        with source.open("rb") as body:
            self._client.put_object(
                Bucket=self._bucket,
                Key=_key(tenant_id, checksum),
                Body=body,
                ChecksumSHA256=header_checksum(checksum),
            )
        source.unlink()

    def _presign(self, call: str, expires_at: int, **params: Any) -> str:
        return str(
            self._client.generate_presigned_url(
                call,
                Params={"Bucket": self._bucket, **params},
                ExpiresIn=max(1, expires_at - int(time.time())),
            )
        )


def _key(tenant_id: str, checksum: str) -> str:
    digits = hex_of(checksum)
    return f"tenants/{tenant_id}/objects/{digits[:2]}/{digits[2:]}"


def _status(error: Exception) -> int:
    response: dict[str, Any] = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
