"""How the shared collection on a Qdrant server is made, and whose points are whose."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from core.errors import Refused
from core.rag.collection import (
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INTEGER_INDEXES,
    KEYWORD_INDEXES,
    TERMS_VECTOR,
)
from core.rag.embedding import DIMENSIONS
from core.rag.points import Payload

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

MODEL_FIELD = "embedding_fingerprint"
_SCOPE_INDEXES = ("tenant_id", "home_id", MODEL_FIELD)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose points these are, and which model made them."""

    tenant_id: str
    home_id: str
    fingerprint: str

    def payload(self) -> Payload:
        return {
            "tenant_id": self.tenant_id,
            "home_id": self.home_id,
            MODEL_FIELD: self.fingerprint,
        }


def create(client: QdrantClient, name: str, *, payload_indexes: bool) -> None:
    """Make the collection and its payload indexes."""
    from qdrant_client import models as qm
    from qdrant_client.http.exceptions import UnexpectedResponse

    try:
        client.create_collection(
            name,
            vectors_config=qm.VectorParams(size=DIMENSIONS, distance=qm.Distance.COSINE),
            sparse_vectors_config={TERMS_VECTOR: qm.SparseVectorParams(modifier=qm.Modifier.IDF)},
            hnsw_config=qm.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT),
        )
    except UnexpectedResponse as error:
        if error.status_code != HTTPStatus.CONFLICT:  # another home was quicker
            raise
    if payload_indexes:
        keyword, integer = qm.PayloadSchemaType.KEYWORD, qm.PayloadSchemaType.INTEGER
        for field in _SCOPE_INDEXES + KEYWORD_INDEXES:
            client.create_payload_index(name, field, keyword, wait=True)
        for field in INTEGER_INDEXES:
            client.create_payload_index(name, field, integer, wait=True)


def check_shape(client: QdrantClient, name: str) -> None:
    """Another program's collection of the same name is never written to."""
    from qdrant_client import models as qm

    parameters = client.get_collection(name).config.params
    dense = parameters.vectors
    if (
        not isinstance(dense, qm.VectorParams)
        or (dense.size, dense.distance) != (DIMENSIONS, qm.Distance.COSINE)
        or TERMS_VECTOR not in (parameters.sparse_vectors or {})
    ):
        raise Refused(
            f"The Qdrant collection {name!r} has another shape than this service's.",
            "Point ESCHER_QDRANT_URL at another server, or rename that collection there.",
        )
