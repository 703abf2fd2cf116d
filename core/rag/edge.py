"""Keeps the collection inside this process, on qdrant-edge; one process holds it at a time.

Facts of qdrant-edge 0.9.0 that this is built on: only ``flush`` makes a write durable; its calls
hold the GIL; its errors are bare `Exception`; a panic is a `BaseException`; damaged files may
abort the process.

What does not open, is damaged, or was made by another model (`core.rag.edge_files` tells), is
removed and begun anew: the collection is never the only copy of anything.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from core.errors import EscherError, IndexBusy, IndexCorrupt, StorageError
from core.files import fsync_dir, make_private_dir
from core.models import Ref
from core.rag.edge_files import (
    Manifest,
    beside,
    file_sums,
    load_manifest,
    manifest_path,
    rebuild_reason,
    remove,
)
from core.rag.embedding import DIMENSIONS
from core.rag.points import (
    CHECK_FIELD,
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INTEGER_INDEXES,
    KEYWORD_INDEXES,
    MAX_BATCH,
    TERMS_VECTOR,
    Conditions,
    Hit,
    Payload,
    Point,
    Terms,
    point_check,
    point_id,
)

if TYPE_CHECKING:
    import qdrant_edge as qe

_log = logging.getLogger(__name__)

_PAGE = 256
_HNSW_FULL_SCAN_KB = 10_000  # the engine's default: smaller segments are scanned
# not permitted, too many open files, disk full, read-only: nothing that a rebuild would mend
_STORAGE_TROUBLE = re.compile(r"os error (1|13|24|28|30|122)\b|No space left")


class EdgeCollection:
    """The embedded collection, made by `open`; unless closed, the next start checks every point."""

    def __init__(self, path: Path, shard: qe.EdgeShard, lock: FileLock, manifest: Manifest) -> None:
        self._path = path
        self._shard = shard
        self._lock = lock
        self._manifest = manifest
        self._writing = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, *, model: str, fingerprint: str, wait_seconds: float = 10.0
    ) -> EdgeCollection:
        """Open or create the collection in the folder ``path``.

        Waits ``wait_seconds`` for another process to let go of it, then raises `IndexBusy`.
        """
        make_private_dir(path.parent)
        lock = FileLock(beside(path, ".lock"), timeout=wait_seconds, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise IndexBusy(
                f"The collection {path} is open in another process.",
                "The embed worker owns it while `up` runs: search through the service.",
                retry_after=wait_seconds,
            ) from error
        try:
            shard, manifest = _open_or_create(path, model, fingerprint)
        except BaseException:  # also on a signal: the lock is let go
            lock.release()
            raise
        return cls(path, shard, lock, manifest)

    @property
    def needs_rebuild(self) -> bool:
        return not self._manifest.complete

    def mark_rebuilt(self) -> None:
        self._manifest = replace(self._manifest, complete=True)
        self._manifest.save(manifest_path(self._path))

    def point_id(self, playbook_id: str, version: str) -> str:
        return point_id(Ref(playbook_id, version))

    def upsert(self, points: Sequence[Point]) -> None:
        import qdrant_edge as qe

        with self._writing:
            for start in range(0, len(points), MAX_BATCH):
                batch = [
                    _edge_point(point.id, point.vector, point.terms, point.payload)
                    for point in points[start : start + MAX_BATCH]
                ]
                self._update(qe.UpdateOperation.upsert_points(batch))
            self._flush()

    def delete(self, ids: Sequence[str]) -> None:
        import qdrant_edge as qe

        with self._writing:
            for start in range(0, len(ids), MAX_BATCH):
                batch: list[Any] = list(ids[start : start + MAX_BATCH])
                self._update(qe.UpdateOperation.delete_points(batch))
            self._flush()

    def set_payload(self, changes: Mapping[str, Payload]) -> set[str]:
        import qdrant_edge as qe

        found: set[str] = set()
        ids: list[Any] = list(changes)
        with self._writing:
            for start in range(0, len(ids), MAX_BATCH):
                with self._engine("reading points"):
                    records = self._shard.retrieve(ids[start : start + MAX_BATCH], True, True)
                batch = []
                for record in records:
                    vectors: Any = record.vector
                    payload = (record.payload or {}) | changes[str(record.id)]
                    found.add(str(record.id))
                    batch.append(
                        _edge_point(str(record.id), vectors[""], vectors[TERMS_VECTOR], payload)
                    )
                # whole points, as the check covers vector and payload together
                self._update(qe.UpdateOperation.upsert_points(batch))
            self._flush()
        return found

    def search(
        self,
        vector: Sequence[float],
        conditions: Conditions,
        limit: int,
        *,
        fields: Sequence[str],
    ) -> list[Hit]:
        import qdrant_edge as qe

        query = qe.Query.Nearest(list(vector))
        return self._query(query, conditions, limit, fields, qe.SearchParams(exact=True))

    def search_terms(
        self, terms: Terms, conditions: Conditions, limit: int, *, fields: Sequence[str]
    ) -> list[Hit]:
        import qdrant_edge as qe

        if not terms.indices:
            return []
        sparse = qe.SparseVector(terms.indices, terms.values)
        return self._query(
            qe.Query.Nearest(sparse, using=TERMS_VECTOR), conditions, limit, fields, None
        )

    def fetch(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        found: dict[str, Payload] = {}
        for start in range(0, len(ids), _PAGE):
            with self._engine("reading points"):
                page: list[Any] = list(ids[start : start + _PAGE])
                for record in self._shard.retrieve(page, list(fields), False):
                    found[str(record.id)] = record.payload or {}
        return found

    def scroll(
        self, fields: Sequence[str], conditions: Conditions | None = None
    ) -> Iterator[tuple[str, Payload]]:
        import qdrant_edge as qe

        offset, chosen = None, _filter(conditions)
        while True:
            request = qe.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=chosen,
                with_payload=list(fields),
                with_vector=False,
            )
            with self._engine("reading points"):
                records, offset = self._shard.scroll(request)
            for record in records:
                yield str(record.id), record.payload or {}
            if offset is None:
                return

    def count(self) -> int:
        import qdrant_edge as qe

        with self._engine("counting points"):
            return self._shard.count(qe.CountRequest(exact=True))

    def close(self) -> None:
        with self._writing:
            if self._closed:
                return
            self._closed = True
            try:
                with self._engine("closing"):
                    self._shard.flush()
                    self._shard.close()
                self._manifest = replace(self._manifest, files=file_sums(self._path))
                self._manifest.save(manifest_path(self._path))
            finally:
                self._lock.release()

    def drop(self) -> None:
        with self._writing:
            if self._closed:
                return
            self._closed = True
            try:
                # it is removed in the next line, whatever state it is in
                with suppress(IndexCorrupt), self._engine("closing"):
                    self._shard.close()
                remove(self._path)
            finally:
                self._lock.release()

    # -- the engine ---------------------------------------------------------------------------
    def _query(
        self,
        query: Any,
        conditions: Conditions,
        limit: int,
        fields: Sequence[str],
        params: qe.SearchParams | None,
    ) -> list[Hit]:
        import qdrant_edge as qe

        request = qe.QueryRequest(
            limit=limit,
            query=query,
            filter=_filter(conditions),
            with_payload=list(fields),
            with_vector=False,
            params=params,
        )
        with self._engine("searching"):
            points = self._shard.query(request)
        return [Hit(str(point.id), point.score, point.payload or {}) for point in points]

    def _update(self, operation: qe.UpdateOperation) -> None:
        with self._engine("writing points"):
            self._shard.update(operation)

    def _flush(self) -> None:
        with self._engine("making points durable"):
            self._shard.flush()

    def _engine(self, doing: str) -> Any:
        return _engine_errors(doing, self._path)


def _edge_point(id_: str, vector: Sequence[float], terms: Any, payload: Payload) -> qe.Point:
    import qdrant_edge as qe

    unit = _unit(vector)
    sparse = qe.SparseVector(list(terms.indices), list(terms.values))
    checked = payload | {CHECK_FIELD: point_check(unit, sparse, payload)}
    return qe.Point(id_, {"": unit, TERMS_VECTOR: sparse}, checked)


def _unit(vector: Sequence[float]) -> list[float]:
    """``vector`` at length 1, so that the engine stores these very numbers."""
    import numpy as np

    exact = np.asarray(vector, dtype=np.float64)
    if exact.shape != (DIMENSIONS,):
        raise ValueError(f"a vector has the shape {exact.shape}, not ({DIMENSIONS},)")
    length = float(np.linalg.norm(exact))
    listed: list[float] = (exact / length if length else exact).astype(np.float32).tolist()
    return listed


def _filter(conditions: Conditions | None) -> qe.Filter | None:
    import qdrant_edge as qe

    if conditions is None or not (conditions.any_of or conditions.none_of):
        return None
    return qe.Filter(
        must=[
            qe.FieldCondition(key, match=qe.MatchAny(list(values)))
            for key, values in conditions.any_of.items()
        ],
        must_not=[
            qe.FieldCondition(key, match=qe.MatchAny(list(values)))
            for key, values in conditions.none_of.items()
        ],
    )


# -- opening, and what the engine's bare exceptions mean --------------------------------------
def _open_or_create(path: Path, model: str, fingerprint: str) -> tuple[qe.EdgeShard, Manifest]:
    """The collection in ``path``, or a new one; the caller holds the lock."""
    wanted = Manifest(model=model, fingerprint=fingerprint, dimensions=DIMENSIONS)
    manifest = load_manifest(manifest_path(path))
    reason = rebuild_reason(path, manifest, wanted)
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


def _load(path: Path) -> qe.EdgeShard:
    import qdrant_edge as qe

    with _engine_errors("opening", path):
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
    with _engine_errors("creating", path):
        shard = qe.EdgeShard.create(str(path), config)
        for field in KEYWORD_INDEXES:
            shard.update(qe.UpdateOperation.create_field_index(field, qe.PayloadSchemaType.Keyword))
        for field in INTEGER_INDEXES:
            shard.update(qe.UpdateOperation.create_field_index(field, qe.PayloadSchemaType.Integer))
        shard.flush()
    fsync_dir(path.parent)
    return shard


@contextmanager
def _engine_errors(doing: str, path: Path) -> Iterator[None]:
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
