"""Where the bytes are: one interface over a local folder and S3.

Objects belong to a tenant and are named by their SHA-256, so the same bytes are stored once
however many versions name them, and no tenant can tell what another one holds.
Checksums are written ``sha256:<64 hex>``; ``tenants/<tenant>/…/ab/cdef…`` is their place.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PutTarget:
    """A pre-signed PUT and the headers that must go with it."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """Content-addressed storage with pre-signed URLs; times are Unix seconds."""

    sees_bytes: bool
    """Whether PUTs pass through this server, which then counts their bytes itself."""

    def size(self, tenant_id: str, checksum: str) -> int | None:
        """The size of the object in bytes, None when it is not there (or not those bytes)."""

    def put_target(
        self, tenant_id: str, checksum: str, size_bytes: int, expires_at: int
    ) -> PutTarget:
        """Where to PUT exactly these bytes; others are refused with 400."""

    def get_url(
        self, tenant_id: str, checksum: str, expires_at: int, version: tuple[str, str]
    ) -> str:
        """Where to GET the object as a file of ``version``, its id and version.

        Supports Range and has a strong ETag.
        """

    def head(self, tenant_id: str, checksum: str, size_bytes: int) -> bytes:
        """The first bytes of an object; empty when it is not there."""

    def adopt(self, tenant_id: str, checksum: str, source: Path) -> None:
        """Take a file whose digest was checked; ``source`` is gone afterwards."""


def hex_of(checksum: str) -> str:
    """The 64 hex digits of a ``sha256:…`` checksum."""
    return checksum.removeprefix("sha256:")


def header_checksum(checksum: str) -> str:
    """A checksum as ``x-amz-checksum-sha256`` wants it: base64 of the raw digest."""
    return base64.b64encode(bytes.fromhex(hex_of(checksum))).decode()


def pinned_headers(checksum: str, size_bytes: int) -> dict[str, str]:
    """The headers that pin the checksum and the length of a PUT."""
    return {
        "x-amz-checksum-sha256": header_checksum(checksum),
        "Content-Length": str(size_bytes),
    }


def file_checksum(path: Path) -> str:
    """The checksum of a file, read in chunks."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
