"""Objects on local disk.

::

    <data_dir>/objects/<tenant>/ab/cdef…      a whole, verified object; the rest of its digest
    <data_dir>/incoming/<random>              being received; swept at start

An object takes its place by rename after its digest was checked and its bytes were synced, so
what stands under ``objects/`` is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from escher_server.objects import PutTarget, hex_of, pinned_headers
from escher_server.problems import Problem
from escher_server.signing import UrlSigner


class IncomingFile:
    """Bytes on their way in: counted, hashed, and kept only when they are the announced ones."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._path = folder / secrets.token_hex(16)
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._expected_bytes = size_bytes
        self._received_bytes = 0

    def write(self, data: bytes) -> None:
        """Take a chunk; one byte more than announced is refused (400)."""
        self._received_bytes += len(data)
        if self._received_bytes > self._expected_bytes:
            raise Problem(400, f"The body is longer than the {self._expected_bytes} announced.")
        if self._file is None:
            self._file = self._path.open("xb")
        self._hash.update(data)
        self._file.write(data)

    def commit(self, checksum: str, target: Path) -> None:
        """Move the bytes to ``target``, synced; 400 when they are not ``checksum``."""
        if self._received_bytes != self._expected_bytes:
            raise Problem(
                400, f"{self._received_bytes} bytes came, {self._expected_bytes} were announced."
            )
        if self._hash.hexdigest() != hex_of(checksum):
            raise Problem(400, "The SHA-256 of the body is not the announced one.")
        if self._file is None:  # an empty object has no chunk
            self._file = self._path.open("xb")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        settle(self._path, target)

    def discard(self) -> None:
        """Remove what was not committed; harmless after `commit`."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)


def settle(source: Path, target: Path) -> None:
    """Rename a synced file into place and sync the folder."""
    make_folder(target.parent)
    source.replace(target)
    _sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder whose own name survives a power cut, with its parents."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalObjectStore:
    """`ObjectStore` in a folder, reached through this server's signed ``/objects`` URLs."""

    sees_bytes = True

    def __init__(self, data_dir: Path, signer: UrlSigner) -> None:
        self._root = data_dir / "objects"
        self._signer = signer
        make_folder(self._root)

    def path(self, tenant_id: str, checksum: str) -> Path:
        """The file of an object, there or not."""
        digits = hex_of(checksum)
        return self._root / tenant_id / digits[:2] / digits[2:]

    def size(self, tenant_id: str, checksum: str) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return self.path(tenant_id, checksum).stat().st_size
        return None

    def put_target(
        self, tenant_id: str, checksum: str, size_bytes: int, expires_at: int
    ) -> PutTarget:
        url = self._signer.url(
            "put", _route(tenant_id, checksum), expires_at=expires_at, size=size_bytes
        )
        return PutTarget(url, pinned_headers(checksum, size_bytes))

    def get_url(
        self, tenant_id: str, checksum: str, expires_at: int, version: tuple[str, str]
    ) -> str:
        playbook_id, number = version
        route = _route(tenant_id, checksum)
        return self._signer.url(
            "get", route, expires_at=expires_at, playbook_id=playbook_id, version=number
        )

    def head(self, tenant_id: str, checksum: str, size_bytes: int) -> bytes:
        try:
            with self.path(tenant_id, checksum).open("rb") as file:
                return file.read(size_bytes)
        except FileNotFoundError:
            return b""

    def adopt(self, tenant_id: str, checksum: str, source: Path) -> None:
        settle(source, self.path(tenant_id, checksum))


def _route(tenant_id: str, checksum: str) -> str:
    return f"/objects/tenants/{tenant_id}/{hex_of(checksum)}"
