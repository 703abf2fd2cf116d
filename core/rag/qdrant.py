"""Keeps the collection on a Qdrant server, which several homes and tenants may share.

Every point carries ``tenant_id``, ``home_id`` and the fingerprint of the model that made its
vector; every filter asks for all three, so no search meets another home's points, nor compares
vectors of two models. ``qdrant-client``'s local mode (``:memory:`` or a folder) serves the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from core.errors import (
    EscherError,
    IndexCorrupt,
    Refused,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
)
from core.models import Ref
from core.rag.embedding import DIMENSIONS
from core.rag.points import (
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    INTEGER_INDEXES,
    KEYWORD_INDEXES,
    MAX_BATCH,
    NAME,
    TERMS_VECTOR,
    Conditions,
    Hit,
    Payload,
    Point,
    Terms,
    point_id,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client import models as qm

MODEL_FIELD = "embedding_fingerprint"
_SCOPE_INDEXES = ("tenant_id", "home_id", MODEL_FIELD)
_PAGE = 256
_TIMEOUT_SECONDS = 30


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


def connect(url: str, api_key: str | None = None) -> QdrantClient:
    """A client for a server; nothing is sent yet."""
    from qdrant_client import QdrantClient

    return QdrantClient(
        url=url,
        api_key=api_key,
        timeout=_TIMEOUT_SECONDS,
        check_compatibility=False,
        # what goes without TLS stays here or in a network of the user's own: no proxy reads it
        trust_env=url.lower().startswith("https:"),
    )


class RemoteCollection:
    """One home's part of the shared collection ``user_playbooks``."""

    def __init__(self, client: QdrantClient, scope: Scope, name: str = NAME) -> None:
        self._client = client
        self._scope = scope
        self._name = name
        self._complete = False

    @classmethod
    def open(
        cls, client: QdrantClient, scope: Scope, name: str = NAME, *, payload_indexes: bool = True
    ) -> RemoteCollection:
        """Create the collection and its indexes where they are missing.

        ``payload_indexes`` is False for ``qdrant-client``'s local mode, which has none.
        """
        collection = cls(client, scope, name)
        with _server_errors(name):
            if not client.collection_exists(name):
                _create(client, name, payload_indexes=payload_indexes)
            _check_shape(client, name)
            own = collection.count()
            # points that another model made are left to be replaced under the same ids
            collection._complete = own > 0 and own == collection._count(any_model=True)
        return collection

    @property
    def needs_rebuild(self) -> bool:
        return not self._complete

    def mark_rebuilt(self) -> None:
        from qdrant_client import models as qm

        others = Conditions(none_of={MODEL_FIELD: [self._scope.fingerprint]})
        with _server_errors(self._name):
            self._client.delete(
                self._name,
                qm.FilterSelector(filter=self._filter(others, any_model=True)),
                wait=True,
            )
        self._complete = True

    def point_id(self, playbook_id: str, version: str) -> str:
        scope = f"{self._scope.tenant_id}/{self._scope.home_id}"
        return point_id(Ref(playbook_id, version), scope)

    def upsert(self, points: Sequence[Point]) -> None:
        from qdrant_client import models as qm

        for start in range(0, len(points), MAX_BATCH):
            batch = [
                qm.PointStruct(
                    id=point.id,
                    vector={
                        "": list(point.vector),
                        TERMS_VECTOR: qm.SparseVector(
                            indices=point.terms.indices, values=point.terms.values
                        ),
                    },
                    payload=point.payload | self._scope.payload(),
                )
                for point in points[start : start + MAX_BATCH]
            ]
            with _server_errors(self._name):
                self._client.upsert(self._name, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        from qdrant_client import models as qm

        if not ids:
            return
        with _server_errors(self._name):
            self._client.delete(self._name, qm.PointIdsList(points=list(ids)), wait=True)

    def set_payload(self, changes: Mapping[str, Payload]) -> set[str]:
        from qdrant_client import models as qm

        found = set(self.fetch(list(changes), ["playbook_id"]))
        operations: list[qm.UpdateOperation] = [
            qm.SetPayloadOperation(set_payload=qm.SetPayload(payload=dict(change), points=[id_]))
            for id_, change in changes.items()
            if id_ in found
        ]
        for start in range(0, len(operations), MAX_BATCH):
            with _server_errors(self._name):
                self._client.batch_update_points(
                    self._name, operations[start : start + MAX_BATCH], wait=True
                )
        return found

    def search(
        self,
        vector: Sequence[float],
        conditions: Conditions,
        limit: int,
        *,
        fields: Sequence[str],
    ) -> list[Hit]:
        from qdrant_client import models as qm

        return self._query(
            list(vector), None, conditions, limit, fields, qm.SearchParams(exact=True)
        )

    def search_terms(
        self, terms: Terms, conditions: Conditions, limit: int, *, fields: Sequence[str]
    ) -> list[Hit]:
        from qdrant_client import models as qm

        if not terms.indices:
            return []
        sparse = qm.SparseVector(indices=terms.indices, values=terms.values)
        return self._query(sparse, TERMS_VECTOR, conditions, limit, fields, None)

    def fetch(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        own = self._scope.payload()
        wanted = [*fields, *own]
        found: dict[str, Payload] = {}
        for start in range(0, len(ids), _PAGE):
            with _server_errors(self._name):
                records = self._client.retrieve(
                    self._name, list(ids[start : start + _PAGE]), with_payload=wanted
                )
            for record in records:
                payload = record.payload or {}
                if all(payload.get(key) == value for key, value in own.items()):
                    found[str(record.id)] = _only(payload, fields)
        return found

    def scroll(
        self, fields: Sequence[str], conditions: Conditions | None = None
    ) -> Iterator[tuple[str, Payload]]:
        offset: Any = None
        while True:
            with _server_errors(self._name):
                records, offset = self._client.scroll(
                    self._name,
                    scroll_filter=self._filter(conditions),
                    limit=_PAGE,
                    offset=offset,
                    with_payload=list(fields),
                )
            for record in records:
                yield str(record.id), _only(record.payload or {}, fields)
            if offset is None:
                return

    def count(self) -> int:
        with _server_errors(self._name):
            return self._count()

    def close(self) -> None:
        self._client.close()

    def drop(self) -> None:
        from qdrant_client import models as qm

        with _server_errors(self._name):
            self._client.delete(
                self._name,
                qm.FilterSelector(filter=self._filter(any_model=True)),
                wait=True,
            )
        self._client.close()

    # -- the server ---------------------------------------------------------------------------
    def _count(self, *, any_model: bool = False) -> int:
        chosen = self._filter(any_model=any_model)
        return self._client.count(self._name, count_filter=chosen, exact=True).count

    def _query(
        self,
        query: Any,
        using: str | None,
        conditions: Conditions,
        limit: int,
        fields: Sequence[str],
        params: qm.SearchParams | None,
    ) -> list[Hit]:
        with _server_errors(self._name):
            response = self._client.query_points(
                self._name,
                query=query,
                using=using,
                query_filter=self._filter(conditions),
                limit=limit,
                with_payload=list(fields),
                search_params=params,
            )
        return [
            Hit(str(point.id), point.score, _only(point.payload or {}, fields))
            for point in response.points
        ]

    def _filter(
        self, conditions: Conditions | None = None, *, any_model: bool = False
    ) -> qm.Filter:
        """The home's points that meet the conditions; ``any_model``: another model's, too."""
        from qdrant_client import models as qm

        asked = conditions or Conditions()
        must: list[qm.Condition] = [
            qm.FieldCondition(key=key, match=qm.MatchValue(value=value))
            for key, value in self._scope.payload().items()
            if not (any_model and key == MODEL_FIELD)
        ]
        must.extend(
            qm.FieldCondition(key=key, match=qm.MatchAny(any=list(values)))
            for key, values in asked.any_of.items()
        )
        must_not: list[qm.Condition] = [
            qm.FieldCondition(key=key, match=qm.MatchAny(any=list(values)))
            for key, values in asked.none_of.items()
        ]
        return qm.Filter(must=must, must_not=must_not)


def _only(payload: Payload, fields: Sequence[str]) -> Payload:
    return {field: payload[field] for field in fields if field in payload}


def _create(client: QdrantClient, name: str, *, payload_indexes: bool) -> None:
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


def _check_shape(client: QdrantClient, name: str) -> None:
    """Refuse to write to another program's collection of the same name."""
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


@contextmanager
def _server_errors(name: str) -> Iterator[None]:
    """Turn a Qdrant client's exceptions into this service's."""
    from qdrant_client.http.exceptions import (
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except ResponseHandlingException as error:
        raise ServerUnreachable(
            "The Qdrant server does not answer.", "Check ESCHER_QDRANT_URL and the server."
        ) from error
    except UnexpectedResponse as error:
        raise _by_status(error.status_code or 0, name) from error


def _by_status(status: int, name: str) -> EscherError:
    if status in {401, 403}:
        return Refused("The Qdrant server refuses the key.", "Check ESCHER_QDRANT_API_KEY.")
    if status == HTTPStatus.NOT_FOUND:
        return IndexCorrupt(
            f"The Qdrant server has no collection {name!r} any more.",
            "It is rebuilt from the playbooks: escher-playbooks reindex.",
        )
    if status in {408, 425, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerBusy(f"The Qdrant server answered {status}.", "It is tried again later.")
    return ServerRejected(f"The Qdrant server answered {status}.", "See its log for the reason.")
