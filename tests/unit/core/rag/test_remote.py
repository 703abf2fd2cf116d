from __future__ import annotations

import socket

import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qm
from support.rag import make_point

from core.errors import (
    EscherError,
    IndexCorrupt,
    Refused,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
)
from core.rag.collection import NAME, Conditions
from core.rag.remote import RemoteCollection, Scope, connect
from core.rag.remote_errors import _by_status

SCOPE = Scope("tenant", "home", "sha256:a")


def test_a_server_that_is_not_there_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable, match="does not answer"):
        RemoteCollection.open(connect(f"http://127.0.0.1:{port}"), SCOPE)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Refused),
        (404, IndexCorrupt),
        (429, ServerBusy),
        (503, ServerBusy),
        (400, ServerRejected),
    ],
)
def test_a_status_has_its_error(status: int, error: type[EscherError]) -> None:
    assert type(_by_status(status, NAME)) is error


def test_a_collection_of_another_shape_is_left_alone() -> None:
    client = QdrantClient(":memory:")
    client.create_collection(NAME, qm.VectorParams(size=3, distance=qm.Distance.DOT))
    with pytest.raises(Refused, match="another shape"):
        RemoteCollection.open(client, SCOPE, payload_indexes=False)
    assert client.collection_exists(NAME)


def test_two_tenants_share_a_collection_and_see_nothing_of_it() -> None:
    client = QdrantClient(":memory:")
    mine = RemoteCollection.open(client, SCOPE, payload_indexes=False)
    other = RemoteCollection.open(client, Scope("other", "home", "sha256:a"), payload_indexes=False)
    mine.upsert([make_point(1)])
    assert other.count() == 0
    assert other.fetch([make_point(1).id], ["playbook_id"]) == {}
    assert other.set_payload({make_point(1).id: {"status": "archived"}}) == set()
    assert other.search_terms(make_point(1).terms, Conditions(), 5, fields=[]) == []
    assert mine.fetch([make_point(1).id], ["status"]) == {make_point(1).id: {"status": "ready"}}
    stored = client.retrieve(NAME, [make_point(1).id])[0].payload or {}
    assert (stored["tenant_id"], stored["home_id"]) == ("tenant", "home")
