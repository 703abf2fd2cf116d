"""What the script manager speaks of: one format folder of one version, and its files.

The format folder is the unit that is downloaded, verified, cached and evicted, since a Terraform
module needs all its files. Paths are relative to the version's folder: ``shell/stop.sh``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from core.models import FileEntry, Ref

LIBRARY_PREFIX = "escher-"


class ScriptKey(NamedTuple):
    """One format of one version."""

    ref: Ref
    format: str

    def __str__(self) -> str:
        return f"{self.ref} {self.format}"

    @property
    def is_library(self) -> bool:
        """Whether it is the Escher Library's: the prefix is reserved for it."""
        return self.ref.playbook_id.startswith(LIBRARY_PREFIX)


class Source(StrEnum):
    """Where the bytes of a resolved script came from."""

    LOCAL = "local"
    SYNCED = "synced"
    CACHE = "cache"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that make up a format folder, by path, and the one to run."""

    key: ScriptKey
    files: tuple[FileEntry, ...]
    entry_point: str

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def entry(self) -> FileEntry:
        """The entry script's file."""
        return next(file for file in self.files if file.path == self.entry_point)

    @property
    def digest(self) -> str:
        """The same for the same files, whatever order they are listed in."""
        lines = sorted(f"{file.path}\0{file.checksum}\n" for file in self.files)
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """What an answer says of the version it is of.

    ``status_as_of``: when the status was told by the server, else set here (Unix seconds; None:
    it was never told).
    """

    status: str | None
    status_as_of: int | None = None
    made_here: bool = False
    publisher: str | None = None
    signature: str = "unsigned"
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "status_as_of": self.status_as_of,
            "made_here": self.made_here,
            "publisher": self.publisher,
            "signature": self.signature,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class ResolvedScript:
    """A verified script: the answer of ``resolve`` and ``GET /v1/scripts/…``.

    ``folder`` is the version's folder, so ``folder / listing.entry_point`` is `path`. ``expires_at``
    (Unix seconds) is set for clear text of a sensitive playbook, which is removed then. ``stale``:
    the cached bytes are older than the TTL and the server could not be asked. ``is_copy``: a read-only
    copy under ``cache/copies/``.
    """

    listing: Listing
    folder: Path
    source: Source
    standing: Standing
    stale: bool = False
    expires_at: int | None = None
    is_copy: bool = False

    @property
    def ref(self) -> Ref:
        return self.listing.key.ref

    @cached_property
    def path(self) -> Path:
        """The entry script."""
        return self.folder / self.listing.entry_point

    def as_json(self) -> dict[str, Any]:
        entry = self.listing.entry
        body: dict[str, Any] = {
            "path": str(self.path),
            "checksum": entry.checksum,
            "size_bytes": entry.size_bytes,
            "source": self.source.value,
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "format": self.listing.key.format,
            "entry_point": entry.path,
            "folder": str(self.folder / self.listing.key.format),
            "files": [file.as_json() for file in self.listing.files],
            "stale": self.stale,
            "copy": self.is_copy,
            **self.standing.as_json(),
        }
        if self.expires_at is not None:
            body["expires_at"] = self.expires_at
        return body
