"""The embedded collection's manifest, and the check whether its files can be trusted.

::

    <home>/qdrant/collections/
    ├── user_playbooks/               the engine's own files
    ├── user_playbooks.manifest.json  which model made it, and how it was left
    └── user_playbooks.lock           held (flock) by the process that has it open

The manifest::

    format_version   1
    model            as set, for people
    fingerprint      sha256:… of the weights; another model's vectors mean something else
    dimensions       384
    complete         false from a start from nothing until every playbook is in
    files            {relative path: [bytes, CRC-32]} after an orderly close, null while in use

So a collection that was closed in order is known byte for byte when it is opened again. After a kill
``files`` is null, and a probe looks at every point instead, in a process of its own: a damaged
collection can abort the process that opens it (qdrant-edge 0.9.0 on a damaged id map: an allocation
of 100 GB, SIGABRT), which no ``except`` catches. The probe is ``python -m core.rag.edge_files
FOLDER``: exit code 0 for a collection whose every point is what was written, anything else for one
that is rebuilt.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.bounded_json import read_object
from core.errors import StorageError, UnsafePath
from core.files import CHUNK_BYTES, atomic_write, json_bytes, remove_tree, walk_files
from core.rag.points import CHECK_FIELD, TERMS_VECTOR, point_check

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard

FORMAT_VERSION = 1
_PAGE = 256
_PROBE_SECONDS = 600.0  # 100,000 points take some 10 s

FileSums = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Manifest:
    """``user_playbooks.manifest.json``, drawn above."""

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
    """Read the manifest; None where there is none that can be read."""
    try:
        return Manifest(**read_object(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def file_sums(folder: Path) -> FileSums:
    """Return size and CRC-32 of every file: damage is looked for, not an attacker."""
    return {name: [info.st_size, _crc32(folder / name)] for name, info in walk_files(folder)}


def is_as_left(folder: Path, files: FileSums) -> bool:
    """Tell whether ``folder`` holds exactly ``files``."""
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


def rebuild_reason(path: Path, manifest: Manifest | None, wanted: Manifest) -> str | None:
    """Return why the collection on disk can't be used; "" when there is none, None when it can."""
    if manifest is None:
        return "nothing says which model made it" if path.exists() else ""
    if manifest.format_version != wanted.format_version:
        return f"its format is {manifest.format_version}, not {wanted.format_version}"
    if (manifest.fingerprint, manifest.dimensions) != (wanted.fingerprint, wanted.dimensions):
        return f"another model made it ({manifest.model}, {manifest.fingerprint})"
    if manifest.files is not None:
        return None if is_as_left(path, manifest.files) else "its files are not as they were left"
    return None if is_sound(path) else "it was not closed in order, and a point is damaged"


def beside(path: Path, suffix: str) -> Path:
    """``user_playbooks`` + ``suffix``, in the folder above."""
    return path.with_name(path.name + suffix)


def manifest_path(path: Path) -> Path:
    return beside(path, ".manifest.json")


def remove(path: Path) -> None:
    """Remove the collection's files, whole or in part."""
    # the manifest first: without it whatever is left of the folder is not taken for whole
    manifest_path(path).unlink(missing_ok=True)
    remove_tree(path)


# -- the probe --------------------------------------------------------------------------------
def is_sound(folder: Path) -> bool:
    """Open ``folder`` in a process of its own; tells whether it found every point as written."""
    # the child imports from where this process does, installed or not, but the current folder
    places = [place for place in sys.path if Path(place).is_absolute()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-P", "-m", "core.rag.edge_files", str(folder.absolute())]
    try:
        result = subprocess.run(
            command,
            env=environment,
            cwd="/",
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def check_points(shard: EdgeShard) -> int:
    """Count the points; raises `ValueError` for the first that is not as written."""
    from qdrant_edge import CountRequest, ScrollRequest

    seen, offset = 0, None
    while True:
        records, offset = shard.scroll(
            ScrollRequest(offset=offset, limit=_PAGE, with_payload=True, with_vector=True)
        )
        for record in records:
            vectors: Any = record.vector
            payload = record.payload or {}
            check = point_check(vectors[""], vectors[TERMS_VECTOR], payload)
            if check != payload.get(CHECK_FIELD):
                raise ValueError(f"point {record.id} is not what was written")
        seen += len(records)
        if offset is None:
            break
    counted = shard.count(CountRequest(exact=True))
    if counted != seen:
        raise ValueError(f"{counted} points are counted, {seen} can be read")
    return seen


def main(folder: str) -> int:
    from qdrant_edge import EdgeShard

    shard = EdgeShard.load(folder)  # a bare Exception, a panic or an abort all end this process
    points = check_points(shard)
    shard.close()
    print(points)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
