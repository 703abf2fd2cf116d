"""What belongs into the collection: the home's own versions, and the used ones of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from core.bounded_json import read_stored
from core.errors import NotFound
from core.journal import Journal, VersionRecord
from core.library_index import LibraryPoints, LibraryRecord
from core.models import PARAMETERS_FILE, PLAN_FILE, Area, Ref
from core.rag.points import IndexDocument, ScriptText

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
