"""Keeps the collection in step with the journal: what is stored gets its point, what is gone loses it.

The home's own versions have one, and those of the Escher Library that were used here. The journal's
``indexed_digest`` says in which state a point was last written; it is forgotten whenever the
collection begins anew (damaged, another model, first start).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

from core.bounded_json import read_stored
from core.errors import (
    EscherError,
    IndexBusy,
    IndexCorrupt,
    ModelUnavailable,
    NotFound,
    PermanentError,
    TransientError,
    faults_of,
)
from core.journal import Journal, VersionRecord
from core.models import (
    DONE,
    PARAMETERS_FILE,
    PLAN_FILE,
    Area,
    FileEntry,
    Outcome,
    OutcomeState,
    Ref,
)
from core.rag.edge import EdgeCollection
from core.rag.embedding import Embedder, SentenceTransformerEmbedder
from core.rag.index import PlaybookIndex
from core.rag.points import (
    MAX_SCRIPT_TEXT,
    Collection,
    IndexDocument,
    ScriptText,
    Seal,
    embedded_text,
    vector_key,
)
from core.rag.search import SearchFilters, keyword_search
from core.reports import Finding, PlaybookSearchResult, SearchAnswer
from core.settings import LOOPBACK_HOSTS, Settings

_DELETED = Outcome(OutcomeState.SKIPPED, error="deleted")
_log = logging.getLogger(__name__)


CachedFile = tuple[FileEntry, bytes | None]  # None: larger than was asked for


class Contents(Protocol):
    """What is needed of the store."""

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """``{path: clear bytes}`` without the defaults of sensitive parameters."""
        ...


class LibraryContents(Protocol):
    """What is needed of ``cache/library``."""

    def shown(self, ref: Ref) -> dict[str, Any] | None:
        """The metadata as search shows it; None when there is none, or it is damaged."""
        ...

    def read(self, ref: Ref, max_bytes: int) -> tuple[dict[str, Any], list[CachedFile]]:
        """What is shown, and the files of the cached scripts; `NotFound` when it is gone."""
        ...


@dataclass(frozen=True, slots=True)
class PointRecord:
    """What a version's point is written from, and the state in which it was last written.

    ``index_digest`` changes whenever the point must be written again, and behind its last ``|``
    with the count of executions. ``state`` is what a point, and a search, say of executions.
    ``metadata`` is empty for a version of the library unless it was asked for.
    """

    ref: Ref
    content_digest: str  # of a library version's metadata.json: no more of it is known here
    index_digest: str
    indexed_digest: str | None
    state: Mapping[str, Any]
    private: bool = False
    is_library: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_current(self) -> bool:
        """Whether its point is as it should be."""
        return self.indexed_digest == self.index_digest

    @property
    def only_counts_changed(self) -> bool:
        """Whether its point is as it should be but for what it says of executions."""
        written, current = self.indexed_digest or "", self.index_digest
        return written != current and written.rpartition("|")[0] == current.rpartition("|")[0]


@dataclass(frozen=True, slots=True)
class PointSource:
    """Says which versions belong into the collection, and what their points hold.

    The ids tell the library's from the home's own, see `RESERVED_PREFIX`.
    """

    _journal: Journal
    _contents: Contents
    _library: LibraryContents
    _allow_private: bool

    # -- which ------------------------------------------------------------------------------
    def wants(self, record: PointRecord) -> bool:
        """Whether a point of this version belongs into the collection."""
        return self._allow_private or not record.private

    def refs(self) -> list[Ref]:
        """Every version that is to be indexed when the collection begins anew."""
        return [*self._journal.versions.refs(), *self._journal.library.get()]

    def records(self, refs: Sequence[Ref]) -> dict[Ref, PointRecord]:
        """What the journal knows of these; those that are gone are left out."""
        own = self._journal.versions.get_many(refs)
        rest = [ref for ref in refs if ref not in own]
        found = {ref: _own(record) for ref, record in own.items()}
        return found | self._of_library(rest)

    def all(self) -> dict[Ref, PointRecord]:
        """Every version with its metadata; of the library's, those that can be shown."""
        found = {record.ref: _own(record) for record in self._journal.versions.select()}
        for ref, record in self._of_library().items():
            if (metadata := self._library.shown(ref)) is not None:
                found[ref] = replace(record, metadata=metadata)
        return found

    def unindexed(self, *, missing_only: bool = False) -> list[Ref]:
        """Versions whose point is missing, or (not ``missing_only``) out of date."""
        own = self._journal.versions.unindexed(missing_only=missing_only)
        return [*own, *self.pending_of_library(missing_only=missing_only)]

    def pending_of_library(self, *, missing_only: bool = False) -> list[Ref]:
        """`unindexed` of the library's versions alone."""
        return [
            ref
            for ref, record in self._of_library().items()
            if record.indexed_digest is None or not (missing_only or record.is_current)
        ]

    def pending(self) -> list[Ref]:
        """`unindexed`, by id, without what is kept out of a shared collection."""
        records = self.records(self.unindexed())
        return sorted(ref for ref, record in records.items() if self.wants(record))

    def _of_library(self, refs: Sequence[Ref] | None = None) -> dict[Ref, PointRecord]:
        """Of ``refs`` (None: all) the library's versions that were used here."""
        rows = self._journal.library.get(refs)
        if not rows:
            return {}
        cached = {ref: hashlib.sha256() for ref in rows}
        for entry in self._journal.cache_folders.of_library():
            if entry.key.ref in cached:
                cached[entry.key.ref].update(repr((entry.key.format, entry.files)).encode())
        runs = self._journal.executions.without_row(list(rows))
        found = {}
        for ref, row in rows.items():
            totals, health = runs[ref]
            # the texts of the scripts that are cached just now are in the point
            point = f"{row.digest}|{cached[ref].hexdigest()[:16]}|{health}|{totals.execution_count}"
            state = {"health": health, **asdict(totals)}
            found[ref] = PointRecord(
                ref, row.digest, point, row.indexed_digest, state, is_library=True
            )
        return found

    # -- what is written of them --------------------------------------------------------------
    def document(self, record: PointRecord) -> IndexDocument:
        """Read all that the index is told of a version; an `EscherError` when it can't be."""
        files: dict[str, bytes] = {}
        found: list[CachedFile]
        if record.is_library:
            metadata, found = self._library.read(record.ref, MAX_SCRIPT_TEXT)
        else:
            metadata = dict(record.metadata)
            with suppress(NotFound):  # pulled, and not fetched: found by its metadata
                files = self._contents.published_files(record.ref)
            entries = self._journal.versions.files(record.ref)
            found = [(e, files[e.path]) for e in entries if "/" in e.path and e.path in files]
        return IndexDocument(
            metadata=metadata,
            content_digest=record.content_digest,
            state=record.state,
            parameters=_json(files.get(PARAMETERS_FILE)),
            explain_plan=_json(files.get(PLAN_FILE)),
            scripts=[ScriptText.of(file, content) for file, content in found],
            private=record.private,
        )

    def note(self, records: Iterable[PointRecord]) -> set[Ref]:
        """Keep that points were written from these records; returns the versions still there."""
        digests = {record.ref: record.index_digest for record in records}
        there = self._journal.points.note(digests)
        rest = {ref: digest for ref, digest in digests.items() if ref not in there}
        return there | self._journal.library.note(rest)

    def forget_index(self, refs: Sequence[Ref] | None = None) -> None:
        """Note that points are gone: of ``refs``, or all of them when the collection is new."""
        self._journal.points.forget(refs)
        self._journal.library.forget(refs)


def _own(record: VersionRecord) -> PointRecord:
    return PointRecord(
        record.ref,
        record.content_digest,
        record.index_digest,
        record.indexed_digest,
        record.execution_state,
        private=record.sensitive or record.area is not Area.SYNCED,
        metadata=record.metadata,
    )


def _json(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    value = read_stored(content)
    return value if isinstance(value, dict) else None


class Indexing:
    """Writes, searches and checks one home's points; opens model and collection when needed."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        contents: Contents,
        seal: Seal,
        library: LibraryContents,
        *,
        embedder: Embedder | None = None,
        collection: Collection | None = None,
    ) -> None:
        """``embedder`` and ``collection``: in place of those that the settings name."""
        self._settings = settings
        self._given_embedder = embedder
        self._given_collection = collection
        self._journal = journal
        self._seal = seal
        self.sources = PointSource(journal, contents, library, _allow_private(settings))

    @cached_property
    def embedder(self) -> Embedder:
        return self._given_embedder or SentenceTransformerEmbedder(self._settings.embedding_model)

    @cached_property
    def _index(self) -> PlaybookIndex:
        return PlaybookIndex(
            open_collection=self._open_collection,
            embedder=self.embedder,
            vectors=self._journal.vectors,
            seal=self._seal,
            allow_private=_allow_private(self._settings),
        )

    @property
    def is_open(self) -> bool:
        """Whether this process has begun to use the collection."""
        return "_index" in self.__dict__

    def _open_collection(self) -> Collection:
        settings = self._settings
        collection: Collection
        if self._given_collection is not None:
            collection = self._given_collection
        elif settings.qdrant_url is None:
            collection = EdgeCollection.open(
                settings.collection_path,
                model=settings.embedding_model,
                fingerprint=self.embedder.fingerprint,
            )
        else:
            from core.rag.qdrant import RemoteCollection, Scope, connect

            key = settings.qdrant_api_key
            client = connect(settings.qdrant_url, key.get_secret_value() if key else None)
            scope = Scope(settings.tenant_id, self._journal.home_id, self.embedder.fingerprint)
            collection = RemoteCollection.open(client, scope)
        if collection.needs_rebuild:
            _log.info("the collection begins anew: every version is indexed again")
            self.sources.forget_index()
        return collection

    # -- writing ----------------------------------------------------------------------------
    def index(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Bring points up to date; `TransientError` when the collection or model can't be had."""
        _ = self._index.needs_rebuild  # opens the collection, which may forget what was indexed
        self.tidy()
        records = self.sources.records(refs)
        outcomes = dict.fromkeys([ref for ref in refs if ref not in records], _DELETED)
        documents: list[IndexDocument] = []
        counted = self._update_counts(records.values())
        for ref, record in records.items():
            if ref in counted or record.is_current:
                outcomes[ref] = DONE
                continue
            try:
                with faults_of(str(ref)):
                    documents.append(self.sources.document(record))
            except EscherError as error:
                outcomes[ref] = Outcome(OutcomeState.FAILED, error.type, str(error))
        if documents:
            written = self._index.index(documents)
            done = [ref for ref, outcome in written.items() if outcome.state is OutcomeState.DONE]
            noted = self.sources.note([records[ref] for ref in done])
            # a private version that stays out of a shared collection is done, too
            outcomes |= {
                ref: DONE if outcome.state is OutcomeState.SKIPPED else outcome
                for ref, outcome in written.items()
            }
            late = [ref for ref in done if ref not in noted]
            if late:  # deleted meanwhile: tidied away before the point was written
                self.remove(late)
                outcomes |= dict.fromkeys(late, _DELETED)
        if self._index.needs_rebuild and not self.sources.unindexed(missing_only=True):
            self._index.mark_rebuilt()
        return outcomes

    def _update_counts(self, records: Iterable[PointRecord]) -> set[Ref]:
        """Of versions that were only executed, bring the counts into their points; who had one."""
        counted = {record.ref: record for record in records if record.only_counts_changed}
        if not counted:
            return set()
        found = self._index.update_payload({r.ref: r.state for r in counted.values()})
        self.sources.note([counted[ref] for ref in found])
        return found

    def remove(self, refs: Sequence[Ref]) -> None:
        """Take points out of the collection and note that they are."""
        self._index.remove(refs)
        self.sources.forget_index(refs)

    def tidy(self) -> None:
        """Take the points of versions that are gone out of the collection."""
        stale = self._journal.stale_points.refs()
        if not stale:
            return
        there_again = self.sources.records(stale)
        self._index.remove([ref for ref in stale if ref not in there_again])
        self._journal.stale_points.forget(stale)

    def drop(self) -> None:
        """Begin the collection anew."""
        self.sources.forget_index()  # first: what is killed in between is indexed again
        self._index.drop()

    def close(self) -> None:
        if self.is_open:
            self._index.close()

    # -- reading ----------------------------------------------------------------------------
    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]:
        """Look up vectors that the ``embed`` step has made; the model stays unloaded."""
        fingerprint = self.embedder.fingerprint
        keys = {
            ref: vector_key(fingerprint, embedded_text(metadata))
            for ref, metadata in metadatas.items()
        }
        known = self._journal.vectors.get_many(list(set(keys.values())))
        return {ref: known[key] for ref, key in keys.items() if key in known}

    def search(self, query: str, filters: Mapping[str, Any], limit: int = 10) -> SearchAnswer:
        """Search by meaning; by words, and said so, while model or collection is out of reach."""
        chosen = SearchFilters.parse(filters)
        try:
            if self._index.needs_rebuild and self.sources.unindexed(missing_only=True):
                return self.search_by_keywords(query, filters, limit)
            self.tidy()
            return SearchAnswer(self._as_of_now(self._index.search(query, chosen, limit)))
        except (ModelUnavailable, IndexBusy, IndexCorrupt, TransientError) as error:
            _log.warning("searching by words only: %s", error.detail)
            return self.search_by_keywords(query, filters, limit)

    def search_by_keywords(
        self, query: str, filters: Mapping[str, Any], limit: int = 10
    ) -> SearchAnswer:
        """Search by words (BM25) over all metadata; needs neither model nor collection."""
        metadatas = [{**r.metadata, **r.state} for r in self.sources.all().values()]
        found = keyword_search(query, metadatas, limit, SearchFilters.parse(filters))
        return SearchAnswer(found, degraded=True)

    def _as_of_now(self, found: Sequence[PlaybookSearchResult]) -> list[PlaybookSearchResult]:
        """Add to results what was reported of executions since their points were written."""
        records = self.sources.records([Ref(r.playbook_id, r.version) for r in found])
        shown = []
        for result in found:
            record = records.get(Ref(result.playbook_id, result.version))
            if record is None:
                shown.append(result)
            elif record.state["health"] == "ok" or result.health != "ok":
                shown.append(replace(result, **record.state))
            # else it broke since: hidden, as its point will be
        return shown

    def verify(self) -> list[Finding]:
        """Find points without a row, rows without a point, points of an older content."""
        try:
            self.tidy()
            entries = self._index.entries()
        except (TransientError, PermanentError) as error:
            return [Finding("", "qdrant", error.detail, error.remedy)]
        remedy = "`escher-playbooks reindex` brings the collection in step."
        everything = self.sources.all().items()
        records = {ref: record for ref, record in everything if self.sources.wants(record)}
        known = records.keys() | self._journal.library.get().keys()  # damaged: the cache's to tell
        wrong = {
            ref: "has a point and is not there any more" for ref in entries if ref not in known
        }
        for ref, record in records.items():
            entry = entries.get(ref)
            if entry is None:
                if record.indexed_digest is not None:
                    wrong[ref] = "has lost its point"
            elif record.is_current and (
                entry.get("content_digest") != record.content_digest
                or entry.get("status") != record.metadata.get("status", "ready")
            ):
                wrong[ref] = "its point is out of date"
        return [Finding(str(ref), "qdrant", what, remedy) for ref, what in wrong.items()]


def _allow_private(settings: Settings) -> bool:
    url = settings.qdrant_url
    if url is None or settings.index_private_remotely:
        return True
    return urlsplit(url).hostname in LOOPBACK_HOSTS
