"""What stands beside the embedded collection: which model made it, and how it was left.

``user_playbooks.manifest.json``, next to the folder ``user_playbooks/``::

    format_version   1
    model            as set, for people
    fingerprint      sha256:… of the weights; another model's vectors mean something else
    dimensions       384
    complete         false from a start from nothing until every playbook is in
    files            {relative path: [bytes, CRC-32]} after an orderly close, null while in use

So a collection that was closed in order is known byte for byte when it is opened again. After a
kill ``files`` is null, and the probe looks at every point instead.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core.bounded_json import read_object
from core.errors import StorageError, UnsafePath
from core.files import CHUNK_BYTES, atomic_write, json_bytes, walk_files

FORMAT_VERSION = 1

FileSums = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Manifest:
    model: str
    fingerprint: str
    dimensions: int
    complete: bool = False
    files: FileSums | None = None
    format_version: int = FORMAT_VERSION

    def in_use(self) -> Manifest:
        return replace(self, files=None)

    def save(self, path: Path) -> None:
        atomic_write(path, json_bytes(asdict(self)))


def load_manifest(path: Path) -> Manifest | None:
    """The manifest, or None where there is none that can be read: then nothing is known."""
    try:
        return Manifest(**read_object(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def file_sums(folder: Path) -> FileSums:
    """Size and CRC-32 of every file: it is damage that is looked for, not an attacker."""
    return {name: [info.st_size, _crc32(folder / name)] for name, info in walk_files(folder)}


def is_as_left(folder: Path, files: FileSums) -> bool:
    """Whether ``folder`` holds exactly ``files``."""
    try:
        return file_sums(folder) == files
    except (OSError, UnsafePath, StorageError):
        return False


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
