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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from escher_server.objects import file_checksum
from escher_server.playbook_rules import LIBRARY_PREFIX, precedence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A file of a library playbook; ``path`` relative to the version's folder."""

    path: str
    size_bytes: int
    checksum: str


class LibraryVersion:
    """One version of a library playbook."""

    def __init__(self, playbook_id: str, version: str, folder: Path) -> None:
        self.playbook_id = playbook_id
        self.version = version
        self.folder = folder
        self.metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_bytes())

    @cached_property
    def files(self) -> list[LibraryFile]:
        """Every file of the version, ``metadata.json`` too, sorted by path."""
        return [
            LibraryFile(
                path.relative_to(self.folder).as_posix(), path.stat().st_size, file_checksum(path)
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        ]


class Library:
    """Finds library playbooks by id and version."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[str, dict[str, LibraryVersion]] | None = None

    def versions(self) -> list[LibraryVersion]:
        """Every version of every library playbook."""
        return [version for versions in self._playbooks().values() for version in versions.values()]

    def find(self, playbook_id: str, version: str | None) -> LibraryVersion | None:
        """A version, the highest one for None; None when the library has no such."""
        versions = self._playbooks().get(playbook_id, {})
        if version is None:
            return max(versions.values(), key=lambda it: precedence(it.version), default=None)
        return versions.get(version)

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
        except (ValueError, OSError) as error:
            logger.warning("library: %s@%s is left out: %s", playbook_id, version, error)
            continue
        playbooks.setdefault(playbook_id, {})[version] = found
    return playbooks
