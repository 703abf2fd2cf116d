"""How good is the local search? Ranks the corpus' dev queries six ways and prints a table.

    python -m benchmarks.search_quality [CORPUS_FOLDER]

CORPUS_FOLDER (default ``../shared/corpus``) holds ``corpus.tar.gz`` and ``queries_dev.jsonl``.
Runs the real model and the real collection, in a temporary folder; some two minutes.
Relevance labels are incomplete (mostly one a query), so read the figures as lower bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.rag.edge import EdgeCollection
from core.rag.embedding import DEFAULT_MODEL, SentenceTransformerEmbedder
from core.rag.index import PlaybookIndex
from core.rag.points import Conditions, Hit, IndexDocument, Terms, query_terms
from core.rag.search import fuse, keyword_search

POOL = 100
DEPTH = 10
EXAMPLE = "who opened port 22 to the world"

Ranking = list[str]


class NoCache:
    """Every text is embedded, so the rate that is printed is the model's."""

    def get_many(self, _keys: Any) -> dict[str, list[float]]:
        return {}

    def put_many(self, _vectors: Any) -> None:
        pass


@dataclass(frozen=True)
class Query:
    text: str
    relevant: frozenset[str]
    hand: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", type=Path, default=Path("../shared/corpus"))
    corpus = parser.parse_args().corpus
    documents = [
        IndexDocument(metadata, content_digest="")
        for metadata in read_metadata(corpus / "corpus.tar.gz")
    ]
    queries = [
        Query(item["query"], frozenset(item["relevant"]), item["source"] == "hand")
        for item in map(json.loads, (corpus / "queries_dev.jsonl").read_text().splitlines())
    ]
    embedder = SentenceTransformerEmbedder()
    embedder.encode_query("load it")
    with tempfile.TemporaryDirectory() as folder:
        collection = EdgeCollection.open(
            Path(folder) / "user_playbooks",
            model=DEFAULT_MODEL,
            fingerprint=embedder.fingerprint,
        )
        index = PlaybookIndex(
            open_collection=lambda: collection,
            embedder=embedder,
            vectors=NoCache(),
            seal=lambda _ref, _content: "",
        )
        began = time.perf_counter()
        index.index(documents)
        seconds = time.perf_counter() - began
        print(f"{len(documents)} playbooks indexed, {len(documents) / seconds:.0f}/s\n")
        compare(index, collection, embedder, documents, queries)
        index.close()


def compare(
    index: PlaybookIndex,
    collection: EdgeCollection,
    embedder: SentenceTransformerEmbedder,
    documents: list[IndexDocument],
    queries: list[Query],
) -> None:
    vectors = {query.text: embedder.encode_query(query.text) for query in queries}

    def dense(text: str) -> list[Hit]:
        return collection.search(vectors[text], Conditions(), POOL, fields=["playbook_id"])

    def words(text: str) -> list[Hit]:
        terms: Terms = query_terms(text)
        return collection.search_terms(terms, Conditions(), POOL, fields=["playbook_id"])

    metadatas = [document.metadata for document in documents]
    ways: dict[str, Callable[[str], Ranking]] = {
        "dense": lambda text: ids(dense(text)),
        "BM25": lambda text: ids(words(text)),
        "rank fusion 2:1": lambda text: ids(reciprocal_ranks(dense(text), words(text))),
        "score fusion": lambda text: ids(fuse(dense(text), words(text))),
        "search()": lambda text: [r.playbook_id for r in index.search(text, limit=POOL)],
        "degraded": lambda text: [r.playbook_id for r in keyword_search(text, metadatas, POOL)],
    }
    print(f"{'':17}{'queries':9}{'hit@1':>7}{'hit@5':>7}{'hit@10':>8}{'MRR':>7}{'NDCG@10':>9}")
    for name, rank in ways.items():
        began = time.perf_counter()
        rankings = [rank(query.text) for query in queries]
        spent = (time.perf_counter() - began) / len(queries)
        for group, chosen in (("all", None), ("hand", True), ("auto", False)):
            pairs = [
                (query, ranking)
                for query, ranking in zip(queries, rankings, strict=True)
                if chosen is None or query.hand is chosen
            ]
            print(f"{name:17}{group:9}{row(pairs)}")
        print(f"{'':17}{spent * 1000:.1f} ms a query\n")
    print(f"{EXAMPLE!r}:")
    for result in index.search(EXAMPLE, limit=5):
        print(f"  {result.score:.3f}  {result.playbook_id}: {result.name}")


def row(pairs: list[tuple[Query, Ranking]]) -> str:
    first = [
        next((n for n, id_ in enumerate(ranking) if id_ in query.relevant), None)
        for query, ranking in pairs
    ]
    hits = [
        statistics.mean(rank is not None and rank < depth for rank in first)
        for depth in (1, 5, DEPTH)
    ]
    reciprocal = statistics.mean(0.0 if rank is None else 1 / (rank + 1) for rank in first)
    gain = statistics.mean(ndcg(query.relevant, ranking) for query, ranking in pairs)
    return f"{hits[0]:7.3f}{hits[1]:7.3f}{hits[2]:8.3f}{reciprocal:7.3f}{gain:9.3f}"


def ndcg(relevant: frozenset[str], ranking: Ranking) -> float:
    gained = sum(1 / math.log2(n + 2) for n, id_ in enumerate(ranking[:DEPTH]) if id_ in relevant)
    return gained / sum(1 / math.log2(n + 2) for n in range(min(DEPTH, len(relevant))))


def reciprocal_ranks(
    dense: list[Hit], words: list[Hit], weight: float = 2, k: int = 60
) -> list[Hit]:
    scores: dict[str, float] = {}
    for factor, hits in ((weight, dense), (1.0, words)):
        for rank, hit in enumerate(hits):
            scores[hit.id] = scores.get(hit.id, 0.0) + factor / (k + rank)
    payloads = {hit.id: hit.payload for hit in [*dense, *words]}
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [Hit(id_, score, payloads[id_]) for id_, score in ranked]


def ids(hits: list[Hit]) -> Ranking:
    return [hit.payload["playbook_id"] for hit in hits]


def read_metadata(archive: Path) -> Iterator[dict[str, Any]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith("/metadata.json"):
                file = tar.extractfile(member)
                if file is not None:
                    yield json.load(file)


if __name__ == "__main__":
    main()
