"""Indexes playbooks into the collection and searches them.

::

    documents ──► texts ──► vector cache ──miss──► model, 64 texts a call
                              │                      │
                              └──────► points ◄──────┘
                                         │  one upsert, durable when it returns
                                         ▼
                                    user_playbooks

Safe to run twice and from several threads. The collection opens at the first use and stays open
until `close`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from core.errors import EscherError, IndexCorrupt, TransientError, faults_of
from core.journal.facts import Vectors
from core.models import DONE, Outcome, OutcomeState, Ref
from core.rag.embedding import Embedder
from core.rag.points import (
    MAX_BATCH,
    PLAIN_FIELDS,
    SEALED_FIELD,
    STATE_FIELDS,
    Collection,
    Conditions,
    Hit,
    IndexDocument,
    Payload,
    Point,
    Seal,
    document_terms,
    embedded_text,
    plain_payload,
    query_terms,
    sealed_content,
    vector_key,
)
from core.rag.search import (
    RESULT_FIELDS,
    SearchFilters,
    check_request,
    fuse,
    highest_versions,
    results,
)
from core.reports import PlaybookSearchResult

_log = logging.getLogger(__name__)

_POOL = 100  # candidates from each half of the search
_POOL_GROWTH = 4  # when versions of few playbooks fill the pool
_POOL_MAX = 1600
_UPDATABLE = frozenset(STATE_FIELDS) | {
    "status", "storage_strategy", "deprecated_by", "updated_at",
}  # fmt: skip

WITHHELD = Outcome(
    OutcomeState.SKIPPED,
    error="private: not sent to a Qdrant server beyond loopback without index_private_remotely",
)


class PlaybookIndex:
    """One home's searchable playbooks.

    ``open_collection`` opens or creates the collection and may raise `IndexBusy`; ``seal`` makes
    the encrypted part of a point; without ``allow_private``, private documents are kept out.
    """

    def __init__(
        self,
        *,
        open_collection: Callable[[], Collection],
        embedder: Embedder,
        vectors: Vectors,
        seal: Seal,
        allow_private: bool = True,
    ) -> None:
        self._open_collection = open_collection
        self._embedder = embedder
        self._vectors = vectors
        self._seal = seal
        self._allow_private = allow_private
        self._opening = threading.Lock()
        self._collection: Collection | None = None

    @property
    def needs_rebuild(self) -> bool:
        """Whether the collection started from nothing (new, damaged, another model)."""
        with self._use() as collection:
            return collection.needs_rebuild

    def mark_rebuilt(self) -> None:
        """Note that every playbook is in."""
        with self._use() as collection:
            collection.mark_rebuilt()

    def index(self, documents: Sequence[IndexDocument]) -> dict[Ref, Outcome]:
        """Put documents in, or put their present state in; an outcome for each.

        One document that can't be sealed fails alone; a failure of the model or the collection is
        raised.
        """
        outcomes: dict[Ref, Outcome] = {}
        for start in range(0, len(documents), MAX_BATCH):
            outcomes |= self._index_batch(documents[start : start + MAX_BATCH])
        return outcomes

    def remove(self, refs: Sequence[Ref]) -> None:
        """Take versions out; those that are not in are fine."""
        with self._use() as collection:
            collection.delete([collection.point_id(*ref) for ref in refs])

    def update_payload(self, changes: Mapping[Ref, Mapping[str, Any]]) -> set[Ref]:
        """Change ``status``, ``health``, counts and the like without embedding; returns who was in."""
        for ref, change in changes.items():
            if unknown := change.keys() - _UPDATABLE:
                raise ValueError(f"{ref}: {sorted(unknown)} need the whole document")
        with self._use() as collection:
            by_id = {collection.point_id(*ref): ref for ref in changes}
            found = collection.set_payload({id_: dict(changes[ref]) for id_, ref in by_id.items()})
        return {by_id[id_] for id_ in found}

    def search(
        self, query: str, filters: SearchFilters | None = None, limit: int = 10
    ) -> list[PlaybookSearchResult]:
        """Find the highest visible version of each matching playbook, best first."""
        query = check_request(query, limit)
        chosen = filters or SearchFilters()
        vector, terms = self._embedder.encode_query(query), query_terms(query)
        conditions = chosen.conditions()
        pool = max(_POOL, limit)
        with self._use() as collection:
            while True:
                dense = collection.search(vector, conditions, pool, fields=RESULT_FIELDS)
                worded = collection.search_terms(terms, conditions, pool, fields=RESULT_FIELDS)
                hits = fuse(dense, worded)
                found = results(hits, _highest_visible(collection, hits, chosen))
                if len(found) >= limit or len(dense) < pool or pool >= _POOL_MAX:
                    return found[:limit]
                pool *= _POOL_GROWTH

    def entries(self) -> dict[Ref, Payload]:
        """Return what is in, as ``{ref: plain payload}``, for `verify`."""
        with self._use() as collection:
            return {
                Ref(payload["playbook_id"], payload["version"]): payload
                for _, payload in collection.scroll(PLAIN_FIELDS)
            }

    def drop(self) -> None:
        """Remove every point; the next call begins with an empty collection."""
        with self._use() as collection:
            pass
        with self._opening:
            if self._collection is collection:
                self._collection = None
                collection.drop()

    def close(self) -> None:
        """Let go of the collection; the next call opens it again."""
        with self._opening:
            collection, self._collection = self._collection, None
        if collection is not None:
            collection.close()

    # -- the inside ---------------------------------------------------------------------------
    def _index_batch(self, documents: Sequence[IndexDocument]) -> dict[Ref, Outcome]:
        outcomes: dict[Ref, Outcome] = {}
        wanted: dict[Ref, IndexDocument] = {}
        withheld: list[Ref] = []
        for document in documents:
            if document.private and not self._allow_private:
                withheld.append(document.ref)
                outcomes[document.ref] = WITHHELD
            else:
                wanted[document.ref] = document
        if withheld:
            self.remove(withheld)  # it may have been public before
        sealed: dict[Ref, str] = {}
        for ref, document in list(wanted.items()):
            try:
                with faults_of(str(ref)):
                    sealed[ref] = self._seal(ref, sealed_content(document))
            except TransientError:
                raise
            except EscherError as error:
                outcomes[ref] = Outcome(OutcomeState.FAILED, error.type, str(error))
                del wanted[ref]
        vectors = self._vectors_of({ref: document.metadata for ref, document in wanted.items()})
        with self._use() as collection:
            collection.upsert(
                [
                    Point(
                        id=collection.point_id(*ref),
                        vector=vectors[ref],
                        terms=document_terms(document.metadata),
                        payload=plain_payload(document) | {SEALED_FIELD: sealed[ref]},
                    )
                    for ref, document in wanted.items()
                ]
            )
        return outcomes | dict.fromkeys(wanted, DONE)

    def _vectors_of(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]:
        """The vector of each metadata's embedded text, from the cache where it is known."""
        fingerprint = self._embedder.fingerprint
        texts = {ref: embedded_text(metadata) for ref, metadata in metadatas.items()}
        keys = {ref: vector_key(fingerprint, text) for ref, text in texts.items()}
        known = self._vectors.get_many(list(set(keys.values())))
        missing = {keys[ref]: text for ref, text in texts.items() if keys[ref] not in known}
        if missing:
            made = dict(zip(missing, self._embedder.encode(list(missing.values())), strict=True))
            self._vectors.put_many(made)
            known |= made
        return {ref: known[key] for ref, key in keys.items()}

    @contextmanager
    def _use(self) -> Iterator[Collection]:
        """The open collection; one that turns out damaged is dropped, and begins anew."""
        with self._opening:
            if self._collection is None:
                self._collection = self._open_collection()
            collection = self._collection
        try:
            yield collection
        except IndexCorrupt as error:
            _log.error("%s", error.detail)
            with self._opening:
                if self._collection is collection:
                    self._collection = None
                    collection.drop()
            raise


def _highest_visible(
    collection: Collection, hits: Sequence[Hit], filters: SearchFilters
) -> dict[str, str]:
    """Of each playbook among the hits, the highest version that may be seen.

    It need not be a hit itself: then what it says has changed, and the lower one is no answer.
    """
    ids = sorted({hit.payload["playbook_id"] for hit in hits})
    if not ids:
        return {}
    visible = filters.visibility()
    conditions = Conditions({**visible.any_of, "playbook_id": ids}, visible.none_of)
    pairs = collection.scroll(["playbook_id", "version"], conditions)
    return highest_versions(payload for _, payload in pairs)
