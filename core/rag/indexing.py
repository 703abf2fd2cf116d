"""What belongs into the collection: the home's own versions, and the used ones of the library."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
    Outcome,
    OutcomeState,
    PlaybookSearchResult,
    Ref,
)
from core.rag.collection import Collection
from core.rag.edge import EdgeCollection
from core.rag.embedding import SentenceTransformerEmbedder
from core.rag.index import PlaybookIndex
from core.rag.library_points import LibraryPoints, LibraryRecord
from core.rag.points import IndexDocument, ScriptText, Seal, embedded_text, vector_key
from core.rag.search import SearchFilters, keyword_search
from core.reports import Finding, SearchAnswer
from core.settings import LOOPBACK_HOSTS, Settings

Record = VersionRecord | LibraryRecord


class Contents(Protocol):
    """What is needed of the store."""

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """``{path: clear bytes}`` without the defaults of sensitive parameters."""
        ...


class PointSources:
    """Both kinds of versions under one set of names; ids tell them apart, see `RESERVED_PREFIX`."""

    def __init__(
        self, journal: Journal, contents: Contents, library: LibraryPoints, *, allow_private: bool
    ) -> None:
        self._versions = journal.versions
        self._library_rows = journal.library
        self._contents = contents
        self._allow_private = allow_private
        self.library = library

    # -- which ------------------------------------------------------------------------------
    def wants(self, record: Record) -> bool:
        """Whether a point of this version belongs into the collection."""
        return self._allow_private or not _is_private(record)

    def refs(self) -> list[Ref]:
        """Every version that is to be indexed when the collection begins anew."""
        return [*self._versions.refs(), *self.library.records()]

    def records(self, refs: Sequence[Ref]) -> dict[Ref, Record]:
        """What the journal knows of these; those that are gone are left out."""
        own = self._versions.get_many(refs)
        rest = [ref for ref in refs if ref not in own]
        return {**own, **self.library.records(rest)} if rest else dict(own)

    def all(self) -> dict[Ref, Record]:
        """Every version with its metadata."""
        own = {record.ref: record for record in self._versions.select()}
        return {**own, **self.library.with_metadata()}

    def unindexed(self, *, missing_only: bool = False) -> list[Ref]:
        """Versions whose point is missing, or (not ``missing_only``) out of date."""
        own = self._versions.unindexed(missing_only=missing_only)
        return [*own, *self.library.pending(missing_only=missing_only)]

    def pending(self) -> list[Ref]:
        """`unindexed`, by id, without what is kept out of a shared collection."""
        own = self._versions.get_many(self._versions.unindexed())
        wanted = [ref for ref, record in own.items() if self.wants(record)]
        return sorted([*wanted, *self.library.pending()])

    # -- what is written of them --------------------------------------------------------------
    def document(self, record: Record) -> IndexDocument:
        """All that the index is told; an `EscherError` when it can't be read."""
        if isinstance(record, LibraryRecord):
            return self.library.document(record)
        try:
            files = self._contents.published_files(record.ref)
        except NotFound:  # pulled, and its content is not fetched: found by its metadata
            files = {}
        checksums = {f.entry.path: f.entry.checksum for f in self._versions.files(record.ref)}
        return IndexDocument(
            metadata=record.metadata,
            content_digest=record.content_digest,
            state=record.execution_state,
            parameters=_json(files.get(PARAMETERS_FILE)),
            explain_plan=_json(files.get(PLAN_FILE)),
            scripts=[
                ScriptText.from_bytes(path, content, checksums[path])
                for path, content in files.items()
                if "/" in path
            ],
            private=_is_private(record),
        )

    def note(self, records: Sequence[Record]) -> set[Ref]:
        """Their points were written in the state of these records; those that are there still."""
        own = [record for record in records if not isinstance(record, LibraryRecord)]
        library = {r.ref: r.index_digest for r in records if isinstance(r, LibraryRecord)}
        changes = [(r.ref, None, {"indexed_digest": r.index_digest}) for r in own]
        noted = self._versions.set_many(changes) if changes else []
        there = {record.ref for record, is_there in zip(own, noted, strict=True) if is_there}
        return there | (self._library_rows.set_indexed(library) if library else set())

    def forget_index(self, refs: Sequence[Ref] | None = None) -> None:
        """Note that points are gone: of ``refs``, or all of them when the collection is new."""
        self._versions.forget_index(refs)
        self._library_rows.forget_index(refs)


def searchable(record: Record) -> Mapping[str, Any]:
    """The metadata with what was reported of executions, for a search by words."""
    return {**record.metadata, **record.execution_state}


def _is_private(record: Record) -> bool:
    if isinstance(record, LibraryRecord):
        return False
    return record.sensitive or record.area is not Area.SYNCED


def _json(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    value = read_stored(content)
    return value if isinstance(value, dict) else None


# Keeps the collection in step with the journal: what is stored gets its point, what is gone loses it.
#
# The journal's ``indexed_digest`` says in which state a version's point was last written; it is
# forgotten whenever the collection begins anew (damaged, another model, first start).


_log = logging.getLogger(__name__)


class Indexing:
    """One home's points; opens the model and the collection when they are first needed."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        contents: Contents,
        seal: Seal,
        library: LibraryPoints,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._seal = seal
        self.sources = PointSources(
            journal, contents, library, allow_private=_allow_private(settings)
        )

    @cached_property
    def embedder(self) -> SentenceTransformerEmbedder:
        return SentenceTransformerEmbedder(self._settings.embedding_model)

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
        if settings.qdrant_url is None:
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
        gone = [ref for ref in refs if ref not in records]
        outcomes = {ref: Outcome(OutcomeState.SKIPPED, error="deleted") for ref in gone}
        documents: list[IndexDocument] = []
        counted = self._update_counts(records.values())
        outcomes |= dict.fromkeys(counted, DONE)
        for ref, record in records.items():
            if ref in counted or record.indexed_digest == record.index_digest:
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
                outcomes |= dict.fromkeys(late, Outcome(OutcomeState.SKIPPED, error="deleted"))
        if self._index.needs_rebuild and not self.sources.unindexed(missing_only=True):
            self._index.mark_rebuilt()
        return outcomes

    def _update_counts(self, records: Iterable[Record]) -> set[Ref]:
        """Of versions that were only executed, bring the counts into their points; who had one."""
        counted = {record.ref: record for record in records if record.only_counts_changed}
        if not counted:
            return set()
        found = self._index.update_payload({r.ref: r.execution_state for r in counted.values()})
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
        """Vectors that the ``embed`` step has made; the model stays unloaded."""
        fingerprint = self.embedder.fingerprint
        keys = {
            ref: vector_key(fingerprint, embedded_text(metadata))
            for ref, metadata in metadatas.items()
        }
        known = self._journal.vectors.get_many(list(set(keys.values())))
        return {ref: known[key] for ref, key in keys.items() if key in known}

    def search(self, query: str, filters: Mapping[str, Any], limit: int) -> SearchAnswer:
        """By meaning; by words, and said so, while the model or collection is out of reach."""
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
        self, query: str, filters: Mapping[str, Any], limit: int
    ) -> SearchAnswer:
        """BM25 over all metadata; needs neither model nor collection."""
        metadatas = [searchable(record) for record in self.sources.all().values()]
        found = keyword_search(query, metadatas, limit, SearchFilters.parse(filters))
        return SearchAnswer(found, degraded=True)

    def _as_of_now(self, found: Sequence[PlaybookSearchResult]) -> list[PlaybookSearchResult]:
        """Results with what was reported of executions since their points were written."""
        records = self.sources.records([Ref(r.playbook_id, r.version) for r in found])
        shown = []
        for result in found:
            record = records.get(Ref(result.playbook_id, result.version))
            if record is None:
                shown.append(result)
            elif record.health == "ok" or result.health != "ok":
                shown.append(replace(result, **record.execution_state))
            # else it broke since: hidden, as its point will be
        return shown

    def verify(self) -> list[Finding]:
        """Points without a row, rows without a point, points of an older content."""
        try:
            self.tidy()
            entries = self._index.entries()
        except (TransientError, PermanentError) as error:
            return [Finding("", "qdrant", error.detail, error.remedy)]
        remedy = "`escher-playbooks reindex` brings the collection in step."
        everything = self.sources.all().items()
        records = {ref: record for ref, record in everything if self.sources.wants(record)}
        damaged = self.sources.library.problems()
        findings = [
            Finding(str(ref), path, what, "The next sync lets go of it, or fetches it again.")
            for ref, path, what in damaged
        ]
        known = records.keys() | {ref for ref, _, _ in damaged}
        findings += [
            Finding(str(ref), "qdrant", "has a point and is not there any more", remedy)
            for ref in entries
            if ref not in known
        ]
        for ref, record in records.items():
            entry = entries.get(ref)
            if entry is None:
                if record.indexed_digest is not None:
                    findings.append(Finding(str(ref), "qdrant", "has lost its point", remedy))
                continue
            if record.indexed_digest == record.index_digest and (
                entry.get("content_digest") != record.content_digest
                or entry.get("status") != record.status
            ):
                findings.append(Finding(str(ref), "qdrant", "its point is out of date", remedy))
        return findings


def _allow_private(settings: Settings) -> bool:
    url = settings.qdrant_url
    if url is None or settings.index_private_remotely:
        return True
    return urlsplit(url).hostname in LOOPBACK_HOSTS
