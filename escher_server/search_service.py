"""Keeps a search index per tenant and one for the library up to date, and asks them.

A tenant's index follows that tenant's own change numbers: each search first takes in what
changed since the last one. Library texts are embedded in the background, each text once ever.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from escher_server.database import Database
from escher_server.library import Library
from escher_server.search_index import (
    WARNED,
    Document,
    Hit,
    SearchIndex,
    Vector,
    searched_text,
    unit,
    words,
)
from escher_server.versions import shown_metadata

logger = logging.getLogger(__name__)
Embed = Callable[[list[str]], list[list[float]]]
_EMBED_BATCH = 64


class SearchService:
    """Search over a tenant's published versions and the Escher Library.

    Without ``embed`` it goes by keywords alone. ``embedding_model`` names the model that
    ``embed`` is; vectors published with another one are not compared.
    """

    def __init__(
        self,
        database: Database,
        library: Library,
        embed: Embed | None,
        embedding_model: str | None,
    ) -> None:
        self._database = database
        self._library = library
        self._embed = embed
        self._embedding_model = embedding_model
        self._lock = threading.Lock()
        self._embed_lock = threading.Lock()
        self._tenants: dict[str, tuple[SearchIndex, int]] = {}
        self._library_index: SearchIndex | None = None
        self._stop = threading.Event()
        self._embedder: threading.Thread | None = None

    def search(
        self,
        tenant_id: str,
        query: str,
        *,
        clouds: frozenset[str],
        resource_types: frozenset[str],
    ) -> list[tuple[str, Hit]]:
        """Every hit as ``(source, hit)``, in no order."""
        vector = unit(self._embed_texts([query])[0]) if self._embed else None
        with self._lock:
            sources = (
                ("tenant", self._tenant_index(tenant_id)),
                ("escher_library", self._current_library()),
            )
            return [
                (source, hit)
                for source, index in sources
                for hit in index.search(query, vector, clouds=clouds, resource_types=resource_types)
            ]

    def start(self) -> None:
        """Begin to embed the library, when there is something to embed it with."""
        if self._embed is not None:
            self._embedder = threading.Thread(
                target=self._embed_library, name="escher-library-vectors", daemon=True
            )
            self._embedder.start()

    def stop(self) -> None:
        """Stop embedding after the batch at hand."""
        self._stop.set()
        if self._embedder is not None:
            self._embedder.join()

    def _embed_texts(self, texts: list[str]) -> list[list[float]]:
        assert self._embed is not None
        with self._embed_lock:  # a model is rarely safe between threads
            return self._embed(texts)

    def _tenant_index(self, tenant_id: str) -> SearchIndex:
        index, seen = self._tenants.get(tenant_id, (SearchIndex(), 0))
        rows = self._database.read().execute(
            "SELECT * FROM versions WHERE tenant_id = ? AND seq > ? ORDER BY seq",
            (tenant_id, seen),
        )
        for row in rows:
            seen = row["seq"]
            key = (row["playbook_id"], row["version"])
            if row["deleted"]:
                index.remove(key)
                continue
            other_model = self._embedding_model not in {None, row["embedding_model"]}
            raw = None if other_model else row["vector"]
            vector = None if raw is None else unit(np.frombuffer(raw, dtype=np.float32))
            index.put(_document(key, shown_metadata(row), vector))
        self._tenants[tenant_id] = (index, seen)
        return index

    def _current_library(self) -> SearchIndex:
        if self._library_index is None:
            self._library_index = SearchIndex()
            for version in self._library.versions():
                key = (version.playbook_id, version.version)
                self._library_index.put(_document(key, version.metadata, None))
        return self._library_index

    def _embed_library(self) -> None:
        versions = self._library.versions()
        for start in range(0, len(versions), _EMBED_BATCH):
            if self._stop.is_set():
                return
            batch = versions[start : start + _EMBED_BATCH]
            vectors = self._library_vectors([searched_text(it.metadata) for it in batch])
            with self._lock:
                index = self._current_library()
                for version, vector in zip(batch, vectors, strict=True):
                    key = (version.playbook_id, version.version)
                    index.put(_document(key, version.metadata, vector))
        logger.info("library: %d versions embedded", len(versions))

    def _library_vectors(self, texts: Sequence[str]) -> list[Vector | None]:
        digests = [
            hashlib.sha256(f"{self._embedding_model}\n{text}".encode()).hexdigest()
            for text in texts
        ]
        known: dict[str, bytes] = {}
        for digest in digests:
            row = (
                self._database.read()
                .execute("SELECT vector FROM library_vectors WHERE text_digest = ?", (digest,))
                .fetchone()
            )
            if row is not None:
                known[digest] = row["vector"]
        new = {
            digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known
        }
        if new:
            made = self._embed_texts(list(new.values()))
            for digest, values in zip(new, made, strict=True):
                known[digest] = np.asarray(values, dtype=np.float32).tobytes()
            with self._database.write(durable=False) as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO library_vectors VALUES (?, ?)",
                    [(digest, known[digest]) for digest in new],
                )
        return [unit(np.frombuffer(known[digest], dtype=np.float32)) for digest in digests]


def _document(key: tuple[str, str], metadata: Mapping[str, Any], vector: Vector | None) -> Document:
    status = str(metadata.get("status", ""))
    return Document(
        key=key,
        status=status,
        cloud_provider=frozenset(metadata.get("cloud_provider") or ()),
        resource_types=frozenset(metadata.get("resource_types") or ()),
        terms=words(searched_text(metadata)),
        vector=vector,
        warning=warning_of(status, metadata),
    )


def warning_of(status: str, metadata: Mapping[str, Any]) -> str | None:
    """Why a shown version ranks lower; None when it does not."""
    if status not in WARNED:
        return None
    successor = metadata.get("deprecated_by")
    if status == "deprecated" and successor:
        return f"deprecated in favour of {successor}"
    return {
        "deprecated": "deprecated",
        "needs_update": "needs an update",
        "pending_review": "not reviewed yet",
    }[status]
