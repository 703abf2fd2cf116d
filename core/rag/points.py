"""Defines the collection of points; makes a playbook version one: id, embedded text, words, payload.

The plain payload holds what filters and results need, by the contract's list. Everything else,
the full metadata, parameters, explain plan and script texts, is one sealed string.

The words are a sparse vector for the BM25 half of the search. A document's weights hold BM25's term
frequency; the engine multiplies in each term's inverse document frequency when it searches, so the
whole corpus is never counted here. Tokens are this module's own, the same for the embedded engine
and for a server; over the corpus they serve operators' questions better than ``qdrant_edge.Bm25``
does (NDCG@10 0.482 against 0.401), which stems more.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from core.encryption import Envelope, Place
from core.files import sha256_bytes
from core.models import FileEntry, Ref

Payload = dict[str, Any]
Seal = Callable[[Ref, bytes], str]
"""Seals bytes that belong to one version into a string that opens for that version only."""

NAME = "user_playbooks"  # of the collection
TERMS_VECTOR = "bm25"  # the sparse vector's name; the dense one is the unnamed default
HNSW_M = 16
HNSW_EF_CONSTRUCT = 100
KEYWORD_INDEXES = (
    "playbook_id", "version", "storage_strategy", "cloud_provider", "author", "status",
    "health", "resource_types",  # filtered on, too: without an index 80 ms at 3,000 points
)  # fmt: skip
INTEGER_INDEXES = ("created_at",)
MAX_BATCH = 64  # points a write: the embedded engine holds the GIL for it, some 40 ms
SEALED_FIELD = "encrypted_data"
METADATA_FIELDS = (
    "playbook_id", "version", "name", "description", "keywords", "cloud_provider",
    "resource_types", "storage_strategy", "author", "status", "created_at", "updated_at",
    "deprecated_by", "based_on_escher", "escher_playbook_id",
)  # fmt: skip
STATE_FIELDS = ("health", "execution_count", "success_count", "last_executed", "content_digest")
PLAIN_FIELDS = METADATA_FIELDS + STATE_FIELDS

# A longer script is in the folder; the point names it, its size and its checksum.
MAX_SCRIPT_TEXT = 256 * 1024
CHECK_FIELD = "point_check"  # of the embedded collection only

K1, B = 1.2, 0.6
AVERAGE_WORDS = 62.0  # of a document of the corpus, where the true average is not at hand

_SHORTEST_PLURAL = 4
_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "how", "i", "in", "is", "it",
    "my", "of", "on", "or", "our", "that", "the", "this", "to", "was", "what", "which", "who",
    "with",
})  # fmt: skip


class Terms(NamedTuple):
    """Term ids, rising, and the weight of each."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class ScriptText:
    """A script as the sealed part holds it; ``text`` is None when it is not UTF-8 or too long."""

    file: FileEntry
    text: str | None

    @classmethod
    def of(cls, file: FileEntry, content: bytes | None) -> ScriptText:
        """Decode ``content`` (None: it was not read) where it is at most `MAX_SCRIPT_TEXT` bytes."""
        text: str | None = None
        if content is not None and len(content) <= MAX_SCRIPT_TEXT:
            with suppress(UnicodeDecodeError):
                text = content.decode("utf-8")
        return cls(file, text)

    def as_json(self) -> dict[str, Any]:
        path, size_bytes, checksum = self.file.path, self.file.size_bytes, self.file.checksum
        return {"path": path, "size_bytes": size_bytes, "checksum": checksum, "text": self.text}


@dataclass(frozen=True, slots=True)
class IndexDocument:
    """All that the index is told about a version.

    ``metadata`` is the full ``metadata.json``; ``state`` has any of `STATE_FIELDS` but the digest
    (``health``, execution counts). ``private`` marks what must not leave this machine unasked.
    """

    metadata: Mapping[str, Any]
    content_digest: str
    state: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    explain_plan: Mapping[str, Any] | None = None
    scripts: Sequence[ScriptText] = ()
    private: bool = True

    @property
    def ref(self) -> Ref:
        return Ref(self.metadata["playbook_id"], self.metadata["version"])


@dataclass(frozen=True, slots=True)
class Point:
    """What the collection stores: ``vector`` of 384 floats, ``terms`` for BM25, the payload."""

    id: str
    vector: Sequence[float]
    terms: Terms
    payload: Payload


def point_id(ref: Ref, scope: str = "") -> str:
    """UUIDv5 in the URL namespace of ``escher:<id>@<version>``.

    ``scope`` is ``<tenant>/<home_id>`` on a shared Qdrant and stands before the id.
    """
    name = f"escher:{scope}/{ref}" if scope else f"escher:{ref}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def embedded_text(metadata: Mapping[str, Any]) -> str:
    """``<name>. <description> <use cases> <keywords>``, lists joined by spaces.

    Among six layouts tried this one served the hand-written queries of the corpus best.
    """
    parts = [f"{metadata['name']}.", metadata["description"]]
    parts.extend(metadata.get("use_cases") or [])
    parts.extend(metadata.get("keywords") or [])
    return " ".join(parts)


def vector_key(fingerprint: str, text: str) -> str:
    """Return the vector cache's key: another model or another text is another key."""
    return sha256_bytes(f"{fingerprint}\n{text}".encode())


def plain_payload(document: IndexDocument) -> Payload:
    """Return the fields that are stored in the clear, every one present."""
    payload: Payload = {name: document.metadata.get(name) for name in METADATA_FIELDS}
    for name in ("keywords", "cloud_provider", "resource_types"):
        payload[name] = list(payload[name] or [])
    payload |= {
        "health": "ok",
        "execution_count": 0,
        "success_count": 0,
        "last_executed": None,
    }
    payload |= {name: value for name, value in document.state.items() if name in STATE_FIELDS}
    payload["content_digest"] = document.content_digest
    return payload


def seal_with(envelope: Envelope) -> Seal:
    """The `Seal` of points that are encrypted with a home's key."""

    def seal(ref: Ref, content: bytes) -> str:
        generation = 0  # a point is disposable: it is written again, never rolled back to
        return envelope.seal_text(content, Place(*ref, "qdrant", generation))

    return seal


def sealed_content(document: IndexDocument) -> bytes:
    """Return what goes into ``encrypted_data``, as JSON in UTF-8."""
    content = {
        "metadata": dict(document.metadata),
        "parameters": document.parameters,
        "explain_plan": document.explain_plan,
        "scripts": [script.as_json() for script in document.scripts],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def point_check(vector: Sequence[float], terms: Any, payload: dict[str, Any]) -> str:
    """Digest a point as the engine gives it back; ``terms`` has ``indices`` and ``values``."""
    import numpy as np

    digest = hashlib.blake2b(digest_size=12)
    digest.update(np.asarray(vector, dtype="<f4").tobytes())
    digest.update(np.asarray(terms.indices, dtype="<u4").tobytes())
    digest.update(np.asarray(terms.values, dtype="<f4").tobytes())
    plain = {key: value for key, value in payload.items() if key != CHECK_FIELD}
    digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()


# -- words -----------------------------------------------------------------------------------
def words(text: str) -> list[str]:
    """Lower-case words without stop words, a plural ``s`` cut off."""
    return [_singular(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def document_words(metadata: Mapping[str, Any]) -> Counter[str]:
    """Count the words of id, name (twice, it says most), description and the other fields."""
    parts = [metadata["playbook_id"], metadata["name"], metadata["name"], metadata["description"]]
    parts.append(metadata.get("purpose") or "")
    for name in ("use_cases", "keywords", "resource_types"):
        parts.extend(metadata.get(name) or [])
    return Counter(words(" ".join(parts)))


def saturated(count: int, length: int, average: float) -> float:
    """BM25's weight of a word that stands ``count`` times among ``length``."""
    return count * (K1 + 1) / (count + K1 * (1 - B + B * length / average))


def document_terms(metadata: Mapping[str, Any]) -> Terms:
    """Return a document's words with their BM25 weights, less the inverse document frequency."""
    counts = document_words(metadata)
    length = counts.total()
    weights: dict[int, float] = {}
    for word, count in counts.items():
        # two words with one checksum, one in a billion, share a weight
        weights[_term(word)] = saturated(count, length, AVERAGE_WORDS)
    return _sorted(weights)


def query_terms(query: str) -> Terms:
    """Return the query's words, each with weight 1; none when it has stop words only."""
    return _sorted({_term(word): 1.0 for word in words(query)})


def _singular(word: str) -> str:
    plural = len(word) >= _SHORTEST_PLURAL and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural else word


def _term(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _sorted(weights: Mapping[int, float]) -> Terms:
    indices = sorted(weights)
    return Terms(indices, [weights[index] for index in indices])


# -- the collection of points: one interface for the embedded engine and for a server ------------
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
