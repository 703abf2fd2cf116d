"""Search without the model or the collection: BM25 over the metadata alone, in plain Python.

The caller marks its answer ``degraded``. Filters, visibility and "highest version" are the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from core.models import PlaybookSearchResult
from core.rag.collection import Hit
from core.rag.search import SearchFilters, check_request, highest_versions, results
from core.rag.terms import document_words, saturated, words


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
