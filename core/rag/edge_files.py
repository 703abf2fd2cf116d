"""The embedded collection's files: opened when they can be trusted, else begun anew.

::

    <home>/qdrant/collections/
    ├── user_playbooks/               the engine's own files
    ├── user_playbooks.manifest.json  see `core.rag.manifest`
    └── user_playbooks.lock           held (flock) by the process that has it open

What does not open, is damaged, or was made by another model, is removed: the collection is never
the only copy of anything. Also here: what the engine's bare exceptions mean.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import EscherError, IndexBusy, IndexCorrupt, StorageError
from core.files import fsync_dir, make_private_dir, remove_tree
from core.rag.collection import (
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INTEGER_INDEXES,
    KEYWORD_INDEXES,
    TERMS_VECTOR,
)
from core.rag.embedding import DIMENSIONS
from core.rag.manifest import Manifest, is_as_left, load_manifest
from core.rag.probe import is_sound

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
