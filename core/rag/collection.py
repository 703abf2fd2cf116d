"""The collection as the index sees it: one interface for the embedded engine and for a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.rag.points import Payload, Point, Terms

NAME = "user_playbooks"
TERMS_VECTOR = "bm25"  # the sparse vector's name; the dense one is the unnamed default
HNSW_M = 16
HNSW_EF_CONSTRUCT = 100
KEYWORD_INDEXES = (
    "playbook_id", "version", "storage_strategy", "cloud_provider", "author", "status",
    "health", "resource_types",  # filtered on, too: without an index 80 ms at 3,000 points
)  # fmt: skip
INTEGER_INDEXES = ("created_at",)
MAX_BATCH = 64  # points a write: the embedded engine holds the GIL for it, some 40 ms


@dataclass(frozen=True, slots=True)
class Conditions:
    """Which points count: every field of ``any_of`` has one of its values, none of ``none_of``.

    A list in the payload matches when any of its members does.
    """

    any_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    none_of: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """A point that a search found; a higher score is better."""

    id: str
    score: float
    payload: Payload


class Collection(Protocol):
    """Points by id. A write is durable when it returns; ids that are not there are no error.

    Raises `IndexCorrupt` when the data can't be trusted any more: `drop` it and build it again.
    """

    @property
    def needs_rebuild(self) -> bool:
        """True from a start from nothing, for whatever reason, until `mark_rebuilt`."""
        ...

    def mark_rebuilt(self) -> None:
        """Every point that belongs here is here."""
        ...

    def point_id(self, playbook_id: str, version: str) -> str:
        """The id of a version's point."""
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id."""
        ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def set_payload(self, changes: Mapping[str, Payload]) -> set[str]:
        """Change payload fields, ``{id: {field: value}}``; the ids that were there."""
        ...

    def search(
        self,
        vector: Sequence[float],
        conditions: Conditions,
        limit: int,
        *,
        fields: Sequence[str],
    ) -> list[Hit]:
        """Nearest by cosine among all points, best first; never approximate."""
        ...

    def search_terms(
        self, terms: Terms, conditions: Conditions, limit: int, *, fields: Sequence[str]
    ) -> list[Hit]:
        """Best by BM25; only points that share a term."""
        ...

    def fetch(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        """Payloads by id, of those that are there."""
        ...

    def scroll(
        self, fields: Sequence[str], conditions: Conditions | None = None
    ) -> Iterator[tuple[str, Payload]]:
        """Every point as ``(id, payload)``, by id."""
        ...

    def count(self) -> int: ...

    def close(self) -> None: ...

    def drop(self) -> None:
        """Remove every point of this home, and close."""
        ...
