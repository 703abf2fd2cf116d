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

import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.bounded_json import read_object
from core.errors import EscherError, IndexBusy, IndexCorrupt, StorageError, UnsafePath
from core.files import (
    CHUNK_BYTES,
    atomic_write,
    fsync_dir,
    json_bytes,
    make_private_dir,
    remove_tree,
    walk_files,
)
from core.rag.collection import (
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INTEGER_INDEXES,
    KEYWORD_INDEXES,
    TERMS_VECTOR,
)
from core.rag.embedding import DIMENSIONS
from core.rag.probe import is_sound

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


# The embedded collection's files: opened when they can be trusted, else begun anew.
#
# ::
#
#     <home>/qdrant/collections/
#     ├── user_playbooks/               the engine's own files
#     ├── user_playbooks.manifest.json  see `core.rag.edge_files`
#     └── user_playbooks.lock           held (flock) by the process that has it open
#
# What does not open, is damaged, or was made by another model, is removed: the collection is never
# the only copy of anything. Also here: what the engine's bare exceptions mean.


if TYPE_CHECKING:
    import qdrant_edge as qe

_log = logging.getLogger(__name__)

_HNSW_FULL_SCAN_KB = 10_000  # the engine's default: smaller segments are scanned
# not permitted, too many open files, disk full, read-only: nothing that a rebuild would mend
_STORAGE_TROUBLE = re.compile(r"os error (1|13|24|28|30|122)\b|No space left")


def open_or_create(path: Path, model: str, fingerprint: str) -> tuple[qe.EdgeShard, Manifest]:
    """The collection in ``path``, or a new one; the caller holds the lock."""
    wanted = Manifest(model=model, fingerprint=fingerprint, dimensions=DIMENSIONS)
    manifest = load_manifest(manifest_path(path))
    reason = _why_not(path, manifest, wanted)
    if manifest is not None and reason is None:
        opened = manifest.in_use()
        opened.save(manifest_path(path))  # from here on only the probe can vouch for it
        try:
            return _load(path), opened
        except IndexCorrupt as error:
            reason = error.detail
    if reason:
        _log.warning("collection %s is rebuilt from the playbooks: %s", path, reason)
    remove(path)
    shard = _create(path)
    wanted.save(manifest_path(path))
    return shard, wanted


def _why_not(path: Path, manifest: Manifest | None, wanted: Manifest) -> str | None:
    """Why the collection on disk can't be used; "" when there is none, None when it can."""
    if manifest is None:
        return "nothing says which model made it" if path.exists() else ""
    if manifest.format_version != wanted.format_version:
        return f"its format is {manifest.format_version}, not {wanted.format_version}"
    if (manifest.fingerprint, manifest.dimensions) != (wanted.fingerprint, wanted.dimensions):
        return f"another model made it ({manifest.model}, {manifest.fingerprint})"
    if manifest.files is not None:
        return None if is_as_left(path, manifest.files) else "its files are not as they were left"
    return None if is_sound(path) else "it was not closed in order, and a point is damaged"


def _load(path: Path) -> qe.EdgeShard:
    import qdrant_edge as qe

    with engine_errors("opening", path):
        return qe.EdgeShard.load(str(path))


def _create(path: Path) -> qe.EdgeShard:
    import qdrant_edge as qe

    make_private_dir(path)
    config = qe.EdgeConfig(
        vectors=qe.EdgeVectorParams(size=DIMENSIONS, distance=qe.Distance.Cosine),
        sparse_vectors={TERMS_VECTOR: qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)},
        hnsw_config=qe.HnswIndexConfig(HNSW_M, HNSW_EF_CONSTRUCT, _HNSW_FULL_SCAN_KB),
        wal_enabled=True,
    )
    with engine_errors("creating", path):
        shard = qe.EdgeShard.create(str(path), config)
        for field in KEYWORD_INDEXES:
            shard.update(qe.UpdateOperation.create_field_index(field, qe.PayloadSchemaType.Keyword))
        for field in INTEGER_INDEXES:
            shard.update(qe.UpdateOperation.create_field_index(field, qe.PayloadSchemaType.Integer))
        shard.flush()
    fsync_dir(path.parent)
    return shard


@contextmanager
def engine_errors(doing: str, path: Path) -> Iterator[None]:
    """The one place where the engine's exceptions become this service's."""
    try:
        yield
    except (EscherError, OSError):
        raise
    except Exception as error:  # the engine raises nothing narrower
        raise _translated(error, doing, path) from error
    except BaseException as error:  # a Rust panic is none of Exception's
        if type(error).__name__ != "PanicException":
            raise
        raise _translated(error, doing, path) from error


def _translated(error: BaseException, doing: str, path: Path) -> EscherError:
    words = str(error)
    if "WouldBlock" in words:
        return IndexBusy(f"The collection {path} is open in another process.", retry_after=10.0)
    if trouble := _STORAGE_TROUBLE.search(words):
        return StorageError(
            f"{doing.capitalize()} in the collection {path} failed: {trouble.group()}.",
            "Check the disk's free space and the folder's permissions, then try again.",
        )
    return IndexCorrupt(
        f"{doing.capitalize()} in the collection {path} failed: {words[:200]}.",
        "It is rebuilt from the playbooks: escher-playbooks reindex.",
    )


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
