"""The Escher Library: playbooks of ids ``escher-…`` in a folder that is only read.

::

    <library_dir>/<playbook_id>/v<semver>/metadata.json, parameters.json, shell/…

The folder is read once, when it is first asked for; a changed library needs a restart.
Links are not followed, and only files that the first reading found are served.
"""

from __future__ import annotations

import json
import logging
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from escher_server.objects import file_checksum
from escher_server.playbook_rules import (
    CANDIDATES,
    LIBRARY_PREFIX,
    StoredFile,
    content_digest,
    has_format,
    latest,
    precedence,
)
from escher_server.problems import Problem

METADATA_FILE = "metadata.json"

logger = logging.getLogger(__name__)


class LibraryVersion:
    """One version of a library playbook."""

    def __init__(self, playbook_id: str, version: str, folder: Path) -> None:
        self.playbook_id = playbook_id
        self.version = version
        self.folder = folder
        metadata = json.loads((folder / METADATA_FILE).read_bytes())
        if not isinstance(metadata, dict):
            raise ValueError(f"{METADATA_FILE} is not an object")  # noqa: TRY004  read with the rest
        self.metadata: dict[str, Any] = metadata

    @property
    def status(self) -> str:
        return str(self.metadata.get("status", ""))

    @cached_property
    def manifest(self) -> list[StoredFile]:
        """What the content digest lists: every file but ``metadata.json``, sorted by path."""
        return [file for file in self.files if file.path != METADATA_FILE]

    @cached_property
    def content_digest(self) -> str | None:
        """The digest of the version; None when its metadata has no canonical form."""
        try:
            return content_digest(self.metadata, self.manifest)
        except Problem as problem:
            logger.warning(
                "library: %s@%s has no digest: %s", self.playbook_id, self.version, problem.detail
            )
            return None

    @cached_property
    def files(self) -> list[StoredFile]:
        """Every file of the version, ``metadata.json`` too, sorted by path."""
        return [
            StoredFile(
                path.relative_to(self.folder).as_posix(), file_checksum(path), path.stat().st_size
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        ]

    def head(self, file: StoredFile, size_bytes: int) -> bytes:
        """The first bytes of one of the files."""
        with (self.folder / file.path).open("rb") as content:
            return content.read(size_bytes)


class Library:
    """Finds library playbooks by id and version."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[str, dict[str, LibraryVersion]] | None = None

    def versions(self) -> list[LibraryVersion]:
        """Every version of every library playbook."""
        return [version for versions in self._playbooks().values() for version in versions.values()]

    def find(self, playbook_id: str, version: str) -> LibraryVersion | None:
        """A version; None when the library has no such."""
        return self._playbooks().get(playbook_id, {}).get(version)

    def latest(self, playbook_id: str, format_: str) -> LibraryVersion | None:
        """The latest version that has the format (``""``: any); None when there is none."""
        versions = self._playbooks().get(playbook_id, {})
        found = latest(
            it.version
            for it in versions.values()
            if it.status in CANDIDATES and has_format((file.path for file in it.manifest), format_)
        )
        return None if found is None else versions[found]

    def file(self, playbook_id: str, version: str, path: str) -> Path | None:
        """The file on disk, None when the library has no such."""
        found = self.find(playbook_id, version)
        if found is None or all(file.path != path for file in found.files):
            return None
        return found.folder / path

    def _playbooks(self) -> dict[str, dict[str, LibraryVersion]]:
        with self._lock:
            if self._read is None:
                self._read = _read_library(self._folder) if self._folder else {}
            return self._read


def _read_library(folder: Path) -> dict[str, dict[str, LibraryVersion]]:
    playbooks: dict[str, dict[str, LibraryVersion]] = {}
    for path in sorted(folder.glob(f"{LIBRARY_PREFIX}*/v*/metadata.json")):
        playbook_id, version = path.parent.parent.name, path.parent.name[1:]
        try:
            precedence(version)
            found = LibraryVersion(playbook_id, version, path.parent)
        except (ValueError, OSError, RecursionError) as error:
            logger.warning("library: %s@%s is left out: %s", playbook_id, version, error)
            continue
        playbooks.setdefault(playbook_id, {})[version] = found
    return playbooks
