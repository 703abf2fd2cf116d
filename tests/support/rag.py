"""Stand-ins for the model and the vector cache, homes that use them, and sample playbooks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.models import Ref
from core.rag.embedding import DIMENSIONS
from core.rag.points import IndexDocument, Point, Terms, point_id, words
from core.service import PlaybookService
from core.settings import Settings


class WordEmbedder:
    """Texts that share words are near: enough of a model for everything but quality."""

    model_name = "words"

    def __init__(self, fingerprint: str = "sha256:" + "a" * 64) -> None:
        self.fingerprint = fingerprint
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        self.encoded.extend(texts)
        return [self.encode_query(text) for text in texts]

    def encode_query(self, text: str) -> list[float]:
        vector = np.zeros(DIMENSIONS)
        for word in words(text) or ["nothing"]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            vector += np.random.default_rng(seed).normal(size=DIMENSIONS)
        unit: list[float] = (vector / np.linalg.norm(vector)).astype(np.float32).tolist()
        return unit


def open_service(settings: Settings) -> PlaybookService:
    """Open a home whose texts are counted words, as for everything but the quality of a search."""
    service = PlaybookService.open(settings)
    vars(service.indexing)["embedder"] = WordEmbedder()
    return service


class MemoryVectors:
    def __init__(self) -> None:
        self.stored: dict[str, list[float]] = {}

    def get_many(self, keys: Sequence[str]) -> dict[str, list[float]]:
        return {key: self.stored[key] for key in keys if key in self.stored}

    def put_many(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self.stored |= {key: list(vector) for key, vector in vectors.items()}


def metadata(playbook_id: str, version: str = "1.0.0", **fields: Any) -> dict[str, Any]:
    return {
        "playbook_id": playbook_id,
        "version": version,
        "name": playbook_id.replace("-", " "),
        "description": f"About {playbook_id.replace('-', ' ')}.",
        "use_cases": [],
        "keywords": [],
        "cloud_provider": ["aws"],
        "resource_types": ["ec2::instance"],
        "author": "user_custom",
        "storage_strategy": "local_only",
        "status": "ready",
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_000,
    } | fields


def document(playbook_id: str, version: str = "1.0.0", **fields: Any) -> IndexDocument:
    found = metadata(playbook_id, version, **fields)
    digest = "sha256:" + hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    return IndexDocument(found, digest)


def make_point(number: int, **payload: Any) -> Point:
    """Point number ``n``: a random unit vector of its own, term ``n`` and the common term 7."""
    vector = np.random.default_rng(number).normal(size=DIMENSIONS)
    vector /= np.linalg.norm(vector)
    ref = Ref(f"playbook-{number}", "1.0.0")
    fields = {"playbook_id": ref.playbook_id, "version": ref.version, "status": "ready"}
    return Point(
        id=point_id(ref),
        vector=vector.astype(np.float32).tolist(),
        terms=Terms([7, 1000 + number], [1.0, 2.0]),
        payload=fields | payload,
    )
