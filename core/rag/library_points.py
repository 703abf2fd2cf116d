"""The Escher Library's versions that were used here, as the collection holds them.

Their metadata is in ``cache/library``, the state of their points in ``library_versions``. A point
has the texts of the scripts that are cached just now; so it is written again when they change.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from core.errors import NotFound, StorageError
from core.journal import Journal
from core.journal.library import CachedFormat
from core.models import FileEntry, Ref, Status
from core.rag.points import MAX_SCRIPT_TEXT, IndexDocument, ScriptText

_log = logging.getLogger(__name__)
_GONE = "The next download of it brings its metadata again."


class Shelf(Protocol):
    """What is needed of ``cache/library``."""

    def shown(self, ref: Ref) -> dict[str, Any] | None:
        """The metadata as search shows it; None when there is none, or it is damaged."""
        ...

    def scripts(
        self, formats: Iterable[CachedFormat], max_bytes: int
    ) -> Sequence[tuple[FileEntry, bytes | None]]:
        """The files of cached formats; None for the bytes of one that is too large."""
        ...

    def reconcile(self) -> None:
        """Bring rows and files together."""
        ...

    def forget(self, refs: Iterable[Ref]) -> None:
        """Remove what is kept of versions."""
        ...

    def problems(self) -> Sequence[tuple[Ref, str, str]]:
        """``(version, path, what is wrong)``."""
        ...


@dataclass(frozen=True, slots=True)
class LibraryRecord:
    """A library version as `core.journal.VersionRecord` is one of our own.

    ``metadata`` is empty unless it was asked for.
    """

    ref: Ref
    content_digest: str  # of metadata.json: the digest of the whole is known to the library alone
    indexed_digest: str | None
    formats: tuple[CachedFormat, ...]
    health: str
    execution_count: int
    success_count: int
    last_executed: int | None
    metadata: Mapping[str, Any]

    @property
    def status(self) -> Status:
        return Status(self.metadata["status"])

    @property
    def execution_state(self) -> dict[str, Any]:
        """What its point, and a search, say of its executions."""
        return {
            "health": self.health,
            "execution_count": self.execution_count,
            "success_count": self.success_count,
            "last_executed": self.last_executed,
        }

    @property
    def index_digest(self) -> str:
        """Changes whenever its point must be written again, or its counts."""
        return f"{self._point_digest}{self.execution_count}"

    @property
    def _point_digest(self) -> str:
        cached = hashlib.sha256()
        for entry in self.formats:
            cached.update(repr((entry.format, entry.files)).encode())
        return f"{self.content_digest}|{cached.hexdigest()[:16]}|{self.health}|"

    @property
    def only_counts_changed(self) -> bool:
        """Whether the point is as it should be but for what it says of executions."""
        indexed = self.indexed_digest
        return indexed not in {None, self.index_digest} and str(indexed).startswith(
            self._point_digest
        )


class LibraryPoints:
    """Which library versions belong into the collection, and what their points say."""

    def __init__(self, journal: Journal, shelf: Shelf) -> None:
        self._rows = journal.library
        self._executions = journal.executions
        self._shelf = shelf

    def records(self, refs: Sequence[Ref] | None = None) -> dict[Ref, LibraryRecord]:
        """Of ``refs`` (None: all) those that were used here, without their metadata."""
        if refs is None:
            rows = {row.ref: row for row in self._rows.all()}
        else:
            rows = self._rows.get_many(refs)
        if not rows:
            return {}
        formats: dict[Ref, list[CachedFormat]] = {}
        for entry in self._rows.cached():
            formats.setdefault(entry.ref, []).append(entry)
        runs = self._executions.without_row(list(rows))
        return {
            ref: LibraryRecord(
                ref,
                row.digest,
                row.indexed_digest,
                tuple(formats.get(ref, ())),
                runs[ref][1],
                runs[ref][0].execution_count,
                runs[ref][0].success_count,
                runs[ref][0].last_executed,
                {},
            )
            for ref, row in rows.items()
        }

    def with_metadata(self) -> dict[Ref, LibraryRecord]:
        """All that can be shown, their metadata read from disk."""
        found = {}
        for ref, record in self.records().items():
            metadata = self._shelf.shown(ref)
            if metadata is not None:
                found[ref] = replace(record, metadata=metadata)
        return found

    def pending(self, *, missing_only: bool = False) -> list[Ref]:
        """Versions whose point is missing, or (not ``missing_only``) out of date."""
        return [
            ref
            for ref, record in self.records().items()
            if record.indexed_digest is None
            or not (missing_only or record.indexed_digest == record.index_digest)
        ]

    def document(self, record: LibraryRecord) -> IndexDocument:
        """What the index is told; `NotFound` when the metadata is gone, which is then forgotten."""
        metadata = self._shelf.shown(record.ref)
        if metadata is None:
            self._shelf.forget([record.ref])
            raise NotFound(f"The metadata of {record.ref} is gone.", _GONE)
        files = self._shelf.scripts(record.formats, MAX_SCRIPT_TEXT)
        return IndexDocument(
            metadata=metadata,
            content_digest=record.content_digest,
            state=record.execution_state,
            scripts=[
                ScriptText(file.path, file.size_bytes, file.checksum, None)
                if content is None
                else ScriptText.from_bytes(file.path, content, file.checksum)
                for file, content in files
            ],
            private=False,
        )

    def reconcile(self) -> None:
        """Bring the rows in step with ``cache/library``, where that can be read."""
        try:
            self._shelf.reconcile()
        except StorageError as error:
            _log.warning("the library's versions stay as the journal knows them: %s", error)

    def problems(self) -> Sequence[tuple[Ref, str, str]]:
        """Files that are not what the journal knows: ``(version, path, what is wrong)``."""
        return self._shelf.problems()
