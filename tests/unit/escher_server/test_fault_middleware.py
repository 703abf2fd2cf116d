"""Faults on a real uvicorn: they are about what happens on the wire."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from escher_server.app import create_app
from escher_server.config import ServerConfig, TenantToken
from escher_server.run import uvicorn_config

HEADERS = {"Authorization": "Bearer token"}
CONTENT = b"echo 0123456789\n" * 100


class Wire:
    """A server on an ephemeral port, with faults."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def faults(self, *rules: dict[str, Any]) -> None:
        answer = self.http.put("/api/reference/faults", json=list(rules), headers=HEADERS)
        assert answer.status_code == 200, answer.text

    def left(self) -> list[int | None]:
        answer = self.http.get("/api/reference/faults", headers=HEADERS).json()
        return [rule["left"] for rule in answer["rules"]]

    def stats(self) -> dict[str, int]:
        answer = self.http.get("/api/reference/stats", headers=HEADERS).json()
        stats: dict[str, int] = answer["tenants"]["acme"]
        return stats


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = ServerConfig(
        data_dir=tmp_path / "server",
        public_url=url,
        tokens=(TenantToken(tenant_id="acme", token="token", role="reviewer"),),
        faults_enabled=True,
    )
    server = uvicorn.Server(uvicorn_config(create_app(config), "127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with httpx.Client(base_url=url, timeout=10) as http:
        yield Wire(http)
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def client(wire: Wire, make_client: Callable[..., Any]) -> Any:
    return make_client(wire.http, "token")


@pytest.fixture
def url(client: Any) -> str:
    """A pre-signed GET of CONTENT."""
    client.publish(files={"shell/stop.sh": CONTENT})
    return download_url(client)


def download_url(client: Any) -> str:
    answer = client.get("/api/script/download", playbook_id="stop", version="1.0.0").json()
    location: str = answer["files"][0]["url"]
    return location


def test_reset_cuts_the_connection_once(wire: Wire) -> None:
    wire.faults({"action": "reset", "path": "^/healthz"})
    with pytest.raises(httpx.TransportError):
        wire.http.get("/healthz")
    assert wire.http.get("/healthz").status_code == 200
    assert wire.left() == [0]


def test_a_truncated_body_is_seen_as_short(wire: Wire, url: str) -> None:
    wire.faults({"action": "truncate_body", "path": "^/objects/", "method": "GET", "at": 10})
    with pytest.raises(httpx.RemoteProtocolError):
        wire.http.get(url)
    assert wire.http.get(url).content == CONTENT


def test_bodies_that_lie(wire: Wire, url: str, client: Any) -> None:
    wire.faults(
        {"action": "wrong_byte", "path": "^/objects/", "at": 3},
        {"action": "longer_body", "path": "^/objects/", "extra_bytes": 7},
        {"action": "html", "path": "^/objects/"},
        {"action": "wrong_checksum", "path": "^/api/script"},
    )
    changed = wire.http.get(url).content
    assert len(changed) == len(CONTENT)
    assert [i for i, (a, b) in enumerate(zip(changed, CONTENT, strict=True)) if a != b] == [3]
    assert len(wire.http.get(url).content) == len(CONTENT) + 7
    assert "html" in wire.http.get(url).headers["content-type"]
    params = {"playbook_id": "stop", "version": "1.0.0"}
    lying, honest = (
        client.get("/api/script/download", **params).json()["files"][0]["checksum"]
        for _ in range(2)
    )
    assert lying != honest
    assert wire.left() == [0, 0, 0, 0]


def test_bodies_that_are_short_or_packed_and_consistent(wire: Wire, url: str) -> None:
    wire.faults(
        {"action": "short_body", "path": "^/objects/", "at": 10},
        {"action": "short_body", "path": "^/objects/"},
        {"action": "gzip_bomb", "path": "^/objects/"},
    )
    assert wire.http.get(url).content == CONTENT[:10]
    rest = wire.http.get(url, headers={"Range": "bytes=100-"})
    assert rest.status_code == 206
    assert rest.content == CONTENT[100 : 100 + (len(CONTENT) - 100) // 2]
    with wire.http.stream("GET", url) as bomb:
        packed = b"".join(bomb.iter_raw())
        assert bomb.headers["content-encoding"] == "gzip"
        assert bomb.headers["content-length"] == str(len(packed))
    assert len(gzip.decompress(packed)) > 500 * len(packed)
    assert wire.http.get(url).content == CONTENT


def test_an_answer_that_begins_and_falls_silent(wire: Wire, url: str) -> None:
    wire.faults(
        {"action": "stall", "path": "^/objects/", "at": 7, "latency_seconds": 60},
        {"action": "stall", "path": "^/objects/", "at": 7, "latency_seconds": 0.1},
    )
    for kind in (httpx.ReadTimeout, httpx.TransportError):
        with wire.http.stream("GET", url, timeout=0.5) as answer:
            pieces = answer.iter_raw()
            assert next(pieces) == CONTENT[:7]
            with pytest.raises(kind):
                next(pieces)
    assert wire.http.get(url).content == CONTENT


def test_a_lost_answer_leaves_the_work_done(wire: Wire, client: Any) -> None:
    files = {"shell/stop.sh": CONTENT}
    client.upload("stop", "1.0.0", files)
    body = client.publish_body(client.metadata("stop", "1.0.0"), files)
    wire.faults({"action": "lose_answer_after_commit", "path": "/publish$"})
    with pytest.raises(httpx.TransportError):
        client.send_publish(body, key="k")
    assert client.send_publish(body, key="k").json()["revision"] == 1
    assert wire.stats()["revisions"] == 1


def test_status_says_when_to_come_back(wire: Wire) -> None:
    wire.faults({"action": "status", "status": 429, "retry_after": 7, "count": 2})
    for _ in range(2):
        answer = wire.http.get("/healthz")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.json()["retry_after"] == 7
    assert wire.http.get("/healthz").status_code == 200


def test_urls_expire_when_used_or_when_issued(wire: Wire, url: str, client: Any) -> None:
    wire.faults(
        {"action": "expire_urls", "path": "^/objects/"},
        {"action": "expire_urls", "path": "^/api/script"},
    )
    assert wire.http.get(url).status_code == 403
    assert wire.http.get(url).status_code == 200
    assert wire.http.get(download_url(client)).status_code == 403
    assert wire.http.get(download_url(client)).status_code == 200


def test_a_request_cut_or_changed_on_its_way_stores_nothing(wire: Wire, client: Any) -> None:
    files = {"shell/stop.sh": CONTENT}
    target = client.announce("stop", "1.0.0", files).json()["uploads"][0]
    wire.faults(
        {"action": "cut_request", "path": "^/objects/", "at": 100},
        {"action": "corrupt_request", "path": "^/objects/"},
    )
    with pytest.raises(httpx.TransportError):
        wire.http.put(target["url"], content=CONTENT, headers=target["headers"])
    changed = wire.http.put(target["url"], content=CONTENT, headers=target["headers"])
    assert changed.status_code == 400
    assert wire.stats()["objects"] == 0
    whole = wire.http.put(target["url"], content=CONTENT, headers=target["headers"])
    assert whole.status_code == 200


def test_latency_and_stall(wire: Wire) -> None:
    wire.faults(
        {"action": "latency", "path": "^/healthz", "latency_seconds": 0.2},
        {"action": "stall", "path": "^/healthz", "latency_seconds": 60},
    )
    begun = time.monotonic()
    assert wire.http.get("/healthz").status_code == 200
    assert time.monotonic() - begun >= 0.2
    with pytest.raises(httpx.ReadTimeout):
        wire.http.get("/healthz", timeout=0.2)
    assert wire.http.get("/healthz").status_code == 200


def test_skip_probability_and_seed_can_be_repeated(wire: Wire) -> None:
    rule = {"action": "status", "path": "^/healthz", "count": None, "skip": 2}
    runs = []
    for _ in range(2):
        wire.faults({**rule, "probability": 0.5, "seed": 1})
        runs.append([wire.http.get("/healthz").status_code for _ in range(12)])
    assert runs[0] == runs[1]
    assert runs[0][:2] == [200, 200]
    assert set(runs[0][2:]) == {200, 503}


@pytest.mark.parametrize(
    "rule", [{"action": "explode"}, {"action": "reset", "path": "("}, {"action": "reset", "x": 1}]
)
def test_a_rule_that_makes_no_sense_is_refused(wire: Wire, rule: dict[str, Any]) -> None:
    answer = wire.http.put("/api/reference/faults", json=[rule], headers=HEADERS)
    assert answer.status_code == 400
