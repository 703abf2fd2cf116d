"""Define what the script manager takes and gives: a format folder of a version, and its files.

The format folder is the unit that is downloaded, verified, cached and evicted, since a Terraform
module needs all its files. Paths are relative to the version's folder: ``shell/stop.sh``.
"""

from __future__ import annotations

import hashlib
import logging
import traceback
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from core import errors
from core.errors import EscherError, InvalidPlaybook, NotFound, UsageError
from core.journal.scripts import CacheFolder
from core.models import (
    FileEntry,
    Outcome,
    OutcomeState,
    Ref,
    ScriptKey,
    check_id,
    parse_version,
)


class Source(StrEnum):
    """Where the bytes of a resolved script came from."""

    LOCAL = "local"
    SYNCED = "synced"
    CACHE = "cache"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that make up a format folder, by path, and the one to run ("": there is none)."""

    key: ScriptKey
    files: tuple[FileEntry, ...]
    entry_point: str

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def check_entry(self) -> None:
        """Raise `NotFound` where none of the files is the one to run."""
        if not self.entry_point:
            raise NotFound(
                f"{self.key.ref} has no entry script in {self.key.format}/: none of its"
                f" {len(self.files)} files is one that is run.",
                "Name one in entry_points of its metadata, in a new version.",
            )

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
class VersionInfo:
    """What an answer tells of the version that it is of.

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
    info: VersionInfo
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
            "files": [
                {**file.as_json(), "executable": file.executable} for file in self.listing.files
            ],
            "stale": self.stale,
            "copy": self.is_copy,
            **self.info.as_json(),
        }
        if self.expires_at is not None:
            body["expires_at"] = self.expires_at
        return body


# -- what the cache takes and gives ------------------------------------------------------------
# The source of an entry that was handed in file by file and is not whole yet: nobody runs it.
PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A proven entry; ``folder`` is the version's, ``fetched_at`` in Unix seconds."""

    listing: Listing
    folder: Path
    source: str  # tenant | library | partial
    fetched_at: float
    fresh: bool
    beside: tuple[str, ...] = ()  # what runs and tools left in its folder


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that were hashed and may become an entry: ``folder`` holds ``<format>/``."""

    folder: Path
    listing: Listing
    source: str  # tenant | library


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One line of ``cache ls``; times in Unix seconds."""

    key: ScriptKey
    source: str
    files: int
    size_bytes: int
    fetched_at: float
    expires_at: float
    last_used: float
    in_use: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "playbook_id": self.key.ref.playbook_id,
            "version": self.key.ref.version,
            "format": self.key.format,
            "source": self.source,
            "files": self.files,
            "size_bytes": self.size_bytes,
            "fetched_at": self.fetched_at,
            "expires_at": self.expires_at,
            "last_used": self.last_used,
            "in_use": self.in_use,
        }


# -- what a caller asks for: a playbook, one version of it or the latest, and how -----------------
LATEST = "latest"
REMEMBERED = 8192


class Overrides(NamedTuple):
    """What a caller overrides, for one call, of who may be run (`core.scripts.run_policy`)."""

    unreviewed: bool = False
    deprecated: bool = False


NO_OVERRIDES = Overrides()


class ResolveOptions(NamedTuple):
    """How a caller asks: what is overridden for this call, and whether a copy is wanted.

    ``ignore_state``: the state of a run that lies beside the scripts is no reason to refuse.
    """

    overrides: Overrides = NO_OVERRIDES
    copy: bool = False
    ignore_state: bool = False


DEFAULT_OPTIONS = ResolveOptions()


class ScriptRequest(NamedTuple):
    """What is to be resolved; ``version`` None: the latest.

    ``held``: clear text is given back by the caller, after ``seconds`` at most.
    """

    playbook_id: str
    version: str | None
    format: str
    options: ResolveOptions = DEFAULT_OPTIONS
    held: bool = False
    seconds: float | None = None


@lru_cache(maxsize=REMEMBERED)
def read_target(target: str) -> tuple[str, str | None]:
    """Split ``id``, ``id@version`` or ``id@latest``: the id, and the version, None for the latest.

    Raises `UsageError`.
    """
    playbook_id, at, version = target.partition("@")
    try:
        check_id(playbook_id)
        if not at or version == LATEST:
            return playbook_id, None
        parse_version(version)
    except InvalidPlaybook as error:  # of a request, not of a playbook
        raise UsageError(error.detail, error.remedy) from error
    return playbook_id, version


# -- how the failure of a script is put into words, written down and read again -------------------
WAITING = Outcome(OutcomeState.WAITING)

log = logging.getLogger(__name__)


def in_words(key: ScriptKey, error: BaseException) -> EscherError:
    """Turn ``error`` into one of ours: a mistake by kind and place, since its text may hold content."""
    if isinstance(error, EscherError):
        return error
    if not isinstance(error, Exception):
        return errors.TransferInterrupted(f"The attempt on {key} was interrupted.", "Ask again.")
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    kind = type(error).__name__
    log.error("%s failed with %s at %s", key, kind, place)
    return errors.PermanentError(f"Unexpected {kind} at {place}.", "Please report it.")


def error_of(row: CacheFolder) -> EscherError:
    """Rebuild the failure that a row tells of, as another process wrote it down."""
    kind = getattr(errors, row.error_type, None)
    if not (isinstance(kind, type) and issubclass(kind, EscherError)):
        kind = EscherError
    return kind(row.reason or "The last attempt failed.")
