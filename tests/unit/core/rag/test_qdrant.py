from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import cast

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
from core.rag.points import NAME, Conditions
from core.rag.qdrant import RemoteCollection, Scope, _by_status, connect

SCOPE = Scope("tenant", "home", "sha256:a")


def test_a_server_that_is_not_there_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable, match="does not answer"):
        RemoteCollection.open(connect(f"http://127.0.0.1:{port}"), SCOPE)


class _Listening(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        cast("list[str]", self.server.asked).append(self.path)  # type: ignore[attr-defined]
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def proxy() -> Iterator[HTTPServer]:
    """A proxy that only notes what it is asked for, in ``asked``."""
    server = HTTPServer(("127.0.0.1", 0), _Listening)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_what_goes_without_tls_goes_through_no_proxy(
    proxy: HTTPServer, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    """The proxy may be anywhere, and would read the key and the playbooks' texts."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.server_port}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        RemoteCollection.open(connect(f"http://{host}:{port}", "key"), SCOPE)
    assert proxy.asked == []  # type: ignore[attr-defined]


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
