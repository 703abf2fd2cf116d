"""Decides who is found and in which order: filters, visibility by status, fusion of two scores.

`keyword_search` does without the model and the collection: BM25 over the metadata alone, in plain
Python, with the same filters, visibility and "highest version"; its callers mark their answers
``degraded``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import UsageError
from core.models import Status, parse_version
from core.rag.points import Conditions, Hit, Payload, document_words, saturated, words
from core.reports import PlaybookSearchResult

MAX_LIMIT = 100
MAX_QUERY_CHARACTERS = 4000  # more says nothing more: the model reads some 1,100
RESULT_FIELDS = (
    "playbook_id", "version", "name", "description", "status", "health", "deprecated_by",
    "execution_count", "success_count", "last_executed",
)  # fmt: skip

_SHOWN = (Status.ACTIVE, Status.APPROVED, Status.READY)
_SHOWN_WITH_WARNING = (Status.DEPRECATED, Status.NEEDS_UPDATE, Status.PENDING_REVIEW)
VISIBLE = tuple(status.value for status in (*_SHOWN, *_SHOWN_WITH_WARNING))
BROKEN = "broken"

# cosine + 0.2 x (BM25 / the best BM25): on the corpus' dev queries this gains on the automatic
# queries and on the hand-written ones, where rank fusion loses (benchmarks/search_quality.py).
TERMS_WEIGHT = 0.2
WARNED_FACTOR = 0.75  # what a warning leaves of a score

_FILTER_NAMES = ("cloud_provider", "resource_types", "status", "author")
_KNOWN_VALUES = {
    "cloud_provider": ("aws", "azure", "gcp"),
    "author": ("user_custom", "ai_generated", "escher_library"),
    "status": tuple(status.value for status in Status),
}


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """What a result must be: each field any of its values, no values: anything."""

    cloud_provider: tuple[str, ...] = ()
    resource_types: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    author: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> SearchFilters:
        """From ``{field: value | [value, …] | null}``; raises `UsageError` for anything else."""
        chosen: dict[str, tuple[str, ...]] = {}
        for name, value in (raw or {}).items():
            if name not in _FILTER_NAMES:
                raise UsageError(
                    f"There is no search filter {name!r}.", f"Use {', '.join(_FILTER_NAMES)}."
                )
            values = () if value is None else (value,) if isinstance(value, str) else value
            if not isinstance(values, list | tuple) or not all(
                isinstance(item, str) for item in values
            ):
                raise UsageError(f"The search filter {name} is no text or list of texts.")
            for item in values:
                if item not in _KNOWN_VALUES.get(name, (item,)):
                    raise UsageError(
                        f"The search filter {name} knows no {item!r}.",
                        f"Use {', '.join(_KNOWN_VALUES[name])}.",
                    )
            chosen[name] = tuple(values)
        return cls(**chosen)

    def visibility(self) -> Conditions:
        """What may be seen at all: by status and health. A status asked for is seen."""
        shown = {"status": self.status or VISIBLE}
        return Conditions(shown, {} if BROKEN in self.status else {"health": (BROKEN,)})

    def conditions(self) -> Conditions:
        """`visibility` and every other filter."""
        visible = self.visibility()
        asked = {
            "cloud_provider": self.cloud_provider,
            "resource_types": self.resource_types,
            "author": self.author,
        }
        chosen = {name: values for name, values in asked.items() if values}
        return Conditions({**visible.any_of, **chosen}, visible.none_of)

    def admit(self, payload: Mapping[str, Any]) -> bool:
        """`conditions` on one metadata mapping, for a search without the collection."""
        wanted = self.conditions()
        return all(
            _values(payload, name) & set(values) for name, values in wanted.any_of.items()
        ) and not any(
            _values(payload, name) & set(values) for name, values in wanted.none_of.items()
        )


def check_request(query: str, limit: int) -> str:
    """Clean the query; raises `UsageError` for an empty one or a limit out of bounds."""
    if not query.strip():
        raise UsageError("The search query is empty.", "Say what the playbook should do.")
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"A limit of {limit} is out of bounds.", f"Use 1 to {MAX_LIMIT}.")
    return query.strip()[:MAX_QUERY_CHARACTERS]


def fuse(dense: Sequence[Hit], terms: Sequence[Hit]) -> list[Hit]:
    """Merge both halves of a search into one list, best first, scores at most 1.

    A point that only its words found gets the lowest cosine of the dense hits, which is the most
    it can have.
    """
    floor = dense[-1].score if dense else 0.0
    best_terms = max((hit.score for hit in terms), default=0.0) or 1.0
    by_id = {hit.id: hit for hit in terms} | {hit.id: hit for hit in dense}
    cosine = {hit.id: hit.score for hit in dense}
    words = {hit.id: hit.score / best_terms for hit in terms}
    scored = [
        Hit(
            id_,
            (cosine.get(id_, floor) + TERMS_WEIGHT * words.get(id_, 0.0)) / (1 + TERMS_WEIGHT),
            hit.payload,
        )
        for id_, hit in by_id.items()
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.id))


def highest_versions(payloads: Iterable[Payload]) -> dict[str, str]:
    """Return the highest version by SemVer of each ``playbook_id``."""
    highest: dict[str, str] = {}
    for payload in payloads:
        playbook_id, version = payload["playbook_id"], payload["version"]
        known = highest.get(playbook_id)
        if known is None or parse_version(version) > parse_version(known):
            highest[playbook_id] = version
    return highest


def results(hits: Iterable[Hit], highest: Mapping[str, str]) -> list[PlaybookSearchResult]:
    """Turn hits of the highest versions into results, best first, those with a warning lower."""
    found = []
    for hit in hits:
        if highest.get(hit.payload["playbook_id"]) != hit.payload["version"]:
            continue
        warning = warning_for(hit.payload)
        found.append(
            PlaybookSearchResult(
                playbook_id=hit.payload["playbook_id"],
                version=hit.payload["version"],
                name=hit.payload["name"],
                description=hit.payload["description"],
                # a score below zero means nothing in common: a factor would raise it
                score=max(hit.score, 0.0) * (WARNED_FACTOR if warning else 1.0),
                status=hit.payload["status"],
                warning=warning,
                health=hit.payload.get("health") or "ok",
                execution_count=hit.payload.get("execution_count") or 0,
                success_count=hit.payload.get("success_count") or 0,
                last_executed=hit.payload.get("last_executed"),
            )
        )
    return sorted(found, key=lambda result: (-result.score, result.playbook_id))


def warning_for(payload: Mapping[str, Any]) -> str | None:
    """Return why a visible playbook ranks lower, or None."""
    status = payload["status"]
    if status == Status.DEPRECATED:
        successor = payload.get("deprecated_by")
        return f"deprecated, use {successor}" if successor else "deprecated"
    words = {
        Status.NEEDS_UPDATE: "needs an update",
        Status.PENDING_REVIEW: "not reviewed yet",
        # seen only when asked for
        Status.DRAFT: "a draft",
        Status.ARCHIVED: "archived",
        Status.REJECTED: "rejected in review",
        Status.BROKEN: "broken",
    }
    if payload.get("health") == BROKEN:
        return "broken: its last executions failed"
    return words.get(status)


def _values(payload: Mapping[str, Any], name: str) -> set[str]:
    value = payload.get(name)
    if isinstance(value, list | tuple):
        return set(value)
    return set() if value is None else {str(value)}


def keyword_search(
    query: str,
    metadatas: Iterable[Mapping[str, Any]],
    limit: int = 10,
    filters: SearchFilters | None = None,
) -> list[PlaybookSearchResult]:
    """The best matches among ``metadatas`` (each a ``metadata.json``, with ``health`` if known).

    Scores lie between 0 and 1, relative to the best match; they compare within one answer only.
    """
    query = check_request(query, limit)
    chosen = filters or SearchFilters()
    highest_of = SearchFilters(status=chosen.status)
    visible = [dict(item) for item in metadatas if highest_of.admit(item)]
    highest = highest_versions(visible)
    candidates = [
        item
        for item in visible
        if highest[item["playbook_id"]] == item["version"] and chosen.admit(item)
    ]
    scores = _bm25(words(query), [document_words(item) for item in candidates])
    best = max(scores, default=0.0)
    hits = [
        Hit(f"{item['playbook_id']}@{item['version']}", score / best, item)
        for item, score in zip(candidates, scores, strict=True)
        if score > 0
    ]
    return results(hits, highest)[:limit]


def _bm25(query: list[str], documents: list[Counter[str]]) -> list[float]:
    """Robertson's BM25 of every document, in order; 0 where no word is shared."""
    asked = set(query)
    lengths = [document.total() for document in documents]
    average = sum(lengths) / len(lengths) if lengths and sum(lengths) else 1.0
    frequency = Counter(word for document in documents for word in asked & document.keys())
    idf = {
        word: math.log(1 + (len(documents) - count + 0.5) / (count + 0.5))
        for word, count in frequency.items()
    }
    return [
        sum(
            idf[word] * saturated(document[word], length, average)
            for word in asked & document.keys()
        )
        for document, length in zip(documents, lengths, strict=True)
    ]
