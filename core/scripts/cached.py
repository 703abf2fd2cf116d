"""What the cache takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.scripts.entries import Listing, ScriptKey

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
