"""Large files in parts, the same for every object store.

::

    <data_dir>/parts/<tenant>/<digest>/<size>-<number>     one verified part

Parts are received by this server and not by S3: S3's own multi-part upload has no SHA-256 of the
whole file, and its part URLs can't be signed before the parts' checksums are known. Numbers
start at 1. Parts that nobody completed are swept after a week.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escher_server.objects import CHUNK_BYTES, ObjectStore, hex_of
from escher_server.objects_local import make_folder
from escher_server.problems import Problem
from escher_server.signing import UrlSigner

_ABANDONED_SECONDS = 7 * 86400


@dataclass(frozen=True, slots=True)
class Part:
    """One slice of a file; ``offset`` and ``size_bytes`` in bytes."""

    number: int
    offset: int
    size_bytes: int


class PartStore:
    """Keeps the parts of files until they are put together."""

    def __init__(self, data_dir: Path, signer: UrlSigner, part_bytes: int) -> None:
        self._root = data_dir / "parts"
        self._signer = signer
        self._part_bytes = part_bytes
        make_folder(self._root)

    def targets(
        self, tenant_id: str, checksum: str, size_bytes: int, expires_at: int
    ) -> dict[str, Any]:
        """``parts`` (those not yet here) and ``complete_url`` of an upload answer."""
        route = f"/objects/tenants/{tenant_id}/{hex_of(checksum)}"
        return {
            "parts": [
                {
                    "number": part.number,
                    "offset": part.offset,
                    "size_bytes": part.size_bytes,
                    "url": self._signer.url(
                        "part",
                        f"{route}/parts/{part.number}",
                        expires_at=expires_at,
                        size=part.size_bytes,
                        whole=size_bytes,
                    ),
                }
                for part in self._split(size_bytes)
                if not self.path(tenant_id, checksum, size_bytes, part.number).exists()
            ],
            "complete_url": self._signer.url(
                "complete", f"{route}/complete", expires_at=expires_at, whole=size_bytes
            ),
        }

    def path(self, tenant_id: str, checksum: str, size_bytes: int, number: int) -> Path:
        """The file of a part, there or not; ``size_bytes`` is the whole file's."""
        return self._folder(tenant_id, checksum) / f"{size_bytes}-{number}"

    def complete(
        self, store: ObjectStore, tenant_id: str, checksum: str, size_bytes: int
    ) -> int | None:
        """Put the parts together, check the whole and store it; its size, None if it was there.

        424 when parts are missing; 400 when the whole is not ``checksum``: the parts are then
        dropped, since nobody knows which one is wrong.
        """
        if store.size(tenant_id, checksum) is not None:
            return None
        paths = [
            self.path(tenant_id, checksum, size_bytes, part.number)
            for part in self._split(size_bytes)
        ]
        missing = [number for number, path in enumerate(paths, start=1) if not path.exists()]
        if missing:
            raise Problem(424, "Parts are missing.", missing_parts=missing)
        draft = self._root / f".{secrets.token_hex(16)}"
        try:
            digest = _join(paths, draft)
            if digest != hex_of(checksum):
                shutil.rmtree(self._folder(tenant_id, checksum), ignore_errors=True)
                raise Problem(400, "The SHA-256 of the whole file is not the announced one.")
            store.adopt(tenant_id, checksum, draft)
        finally:
            draft.unlink(missing_ok=True)
        shutil.rmtree(self._folder(tenant_id, checksum), ignore_errors=True)
        return size_bytes

    def sweep(self) -> None:
        """Remove drafts of an earlier process and parts nobody came back for."""
        for draft in self._root.glob(".*"):
            draft.unlink(missing_ok=True)
        for folder in self._root.glob("*/*"):
            if folder.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, tenant_id: str, checksum: str) -> Path:
        return self._root / tenant_id / hex_of(checksum)

    def _split(self, size_bytes: int) -> list[Part]:
        return [
            Part(number, offset, min(self._part_bytes, size_bytes - offset))
            for number, offset in enumerate(range(0, size_bytes, self._part_bytes), start=1)
        ]


def _join(parts: list[Path], target: Path) -> str:
    """Write the parts one after another, synced; the hex SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("xb") as whole:
        for part in parts:
            with part.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    whole.write(chunk)
        whole.flush()
        os.fsync(whole.fileno())
    return digest.hexdigest()
