"""What the resolver needs of its neighbours; `core.script_service` hands it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from core.journal.script_rows import ToldStatus
from core.models import Area, FileEntry, Ref
from core.scripts.cached import CacheHit
from core.scripts.entries import ScriptKey


class StoredVersions(Protocol):
    """The local store."""

    def folder_in(self, area: Area, ref: Ref) -> Path:
        """Where the version's folder stands in ``area``, or would."""

    def read(self, ref: Ref) -> Mapping[str, bytes]:
        """Clear bytes by path, checked against the journal; `IntegrityError` when they differ."""

    def locked(self) -> AbstractContextManager[object]:
        """While this is held nobody changes the folders; `StorageError` in a read-only home."""


class Cache(Protocol):
    """The downloaded scripts."""

    def find(self, key: ScriptKey) -> CacheHit | None:
        """The entry, its bytes proven now and its time of use noted."""

    def cached_versions(self, playbook_id: str, format_: str) -> Sequence[str]:
        """The versions of which there is an entry."""

    def hit(self) -> None: ...

    def miss(self) -> None: ...


class Downloads(Protocol):
    """The server, once for however many ask."""

    def fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None) -> CacheHit:
        """Bring the entry into the cache; its files are ``expected`` where that is given."""

    def latest(self, playbook_id: str, format_: str | None) -> tuple[Ref, ToldStatus]:
        """The version that the server calls the latest, and what it says of it."""

    def tell(self, ref: Ref, format_: str | None) -> ToldStatus:
        """What the server says of a version, asked now."""
