"""Search in memory: cosine over published vectors, BM25 where there is none to compare.

Scores are between 0 and 1. A document without a comparable vector gets a keyword score, which
is halved beside cosine ones, since words alone say less.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, str]  # (playbook_id, version)
Vector = NDArray[np.float32]
SHOWN = frozenset({"active", "approved"})
WARNED = frozenset({"deprecated", "needs_update", "pending_review"})
_WARNED_FACTOR = 0.7
_WORDS_BESIDE_VECTORS = 0.5
_K1, _B = 1.5, 0.75  # BM25's usual constants
_HALF_SCORE = 8.0  # the BM25 sum that counts as 0.5
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Document:
    """A version as search sees it; ``vector`` is of unit length, None when not comparable."""

    key: Key
    status: str
    cloud_provider: frozenset[str]
    resource_types: frozenset[str]
    terms: Counter[str]
    vector: Vector | None
    warning: str | None

    @property
    def length(self) -> int:
        return self.terms.total()


@dataclass(frozen=True, slots=True)
class Hit:
    """A document and its score."""

    document: Document
    score: float


def words(text: str) -> Counter[str]:
    """The words of a text, counted."""
    return Counter(_WORD.findall(text.lower()))


def searched_text(metadata: Mapping[str, Any]) -> str:
    """Name, description, use cases and keywords: what clients embed, too."""
    lists = [*(metadata.get("use_cases") or []), *(metadata.get("keywords") or [])]
    return "\n".join(
        [str(metadata.get("name", "")), str(metadata.get("description", "")), *map(str, lists)]
    )


def unit(values: Sequence[float] | Vector) -> Vector | None:
    """The vector at unit length; None of an empty or zero one."""
    vector = np.asarray(values, dtype=np.float32)
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm > 0 and math.isfinite(norm) else None


class SearchIndex:
    """Documents by key; not safe between threads, its owner holds a lock."""

    def __init__(self) -> None:
        self._documents: dict[Key, Document] = {}
        self._postings: defaultdict[str, dict[Key, int]] = defaultdict(dict)
        self._total_length = 0

    def put(self, document: Document) -> None:
        """Add or replace a document."""
        self.remove(document.key)
        self._documents[document.key] = document
        self._total_length += document.length
        for term, count in document.terms.items():
            self._postings[term][document.key] = count

    def remove(self, key: Key) -> None:
        """Forget a document; harmless when it is not there."""
        document = self._documents.pop(key, None)
        if document is None:
            return
        self._total_length -= document.length
        for term in document.terms:
            del self._postings[term][key]
            if not self._postings[term]:
                del self._postings[term]

    def search(
        self,
        query: str,
        vector: Vector | None,
        *,
        clouds: frozenset[str],
        resource_types: frozenset[str],
    ) -> list[Hit]:
        """Every document that matches the filters and has a score above 0, unsorted."""
        candidates = [
            document
            for document in self._documents.values()
            if (document.status in SHOWN or document.status in WARNED)
            and (not clouds or clouds & document.cloud_provider)
            and (not resource_types or resource_types & document.resource_types)
        ]
        by_words = self._bm25(query)
        scores = _cosines(candidates, vector)
        hits = []
        for document in candidates:
            score = scores.get(document.key)
            if score is None:
                raw = by_words.get(document.key, 0.0)
                score = raw / (raw + _HALF_SCORE)
                if vector is not None:
                    score *= _WORDS_BESIDE_VECTORS
            if document.status in WARNED:
                score *= _WARNED_FACTOR
            if score > 0:
                hits.append(Hit(document, score))
        return hits

    def _bm25(self, query: str) -> dict[Key, float]:
        scores: defaultdict[Key, float] = defaultdict(float)
        total = len(self._documents)
        mean_length = self._total_length / total if total else 0.0
        for term in words(query):
            posting = self._postings.get(term, {})
            rarity = math.log(1 + (total - len(posting) + 0.5) / (len(posting) + 0.5))
            for key, count in posting.items():
                relative = self._documents[key].length / mean_length
                weight = count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * relative))
                scores[key] += rarity * weight
        return scores


def _cosines(documents: Sequence[Document], vector: Vector | None) -> dict[Key, float]:
    if vector is None:
        return {}
    comparable = [
        (document.key, document.vector)
        for document in documents
        if document.vector is not None and document.vector.shape == vector.shape
    ]
    if not comparable:
        return {}
    cosines = np.stack([own for _, own in comparable]) @ vector
    return {
        key: max(0.0, min(1.0, float(cosine)))
        for (key, _), cosine in zip(comparable, cosines, strict=True)
    }
