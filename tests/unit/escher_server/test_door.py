"""What is refused before any route sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

FILES = {"shell/stop.sh": b"echo stop\n"}


def nested(depth: int) -> Any:
    value: Any = "x"
    for number in range(depth):
        value = {"tags": value} if number % 2 else [value]
    return value


def publish(server: Any, **changes: Any) -> Any:
    server.member.upload("stop", "1.0.0", FILES)
    metadata = server.member.metadata("stop", "1.0.0", **changes)
    return server.member.send_publish(server.member.publish_body(metadata, FILES))


@pytest.mark.parametrize("depth", [32, 33, 210, 500])
def test_metadata_over_32_levels_never_reaches_the_feed(server: Any, depth: int) -> None:
    answer = publish(server, tags={"deep": nested(depth - 2)})  # tags and metadata are two
    assert answer.status_code == (200 if depth <= 32 else 400), answer.text
    assert len(server.member.feed()) == (depth <= 32)


@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"a":' * 100_000, b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b"}",
     b"[" * 34 + b"]" * 34],
)  # fmt: skip
def test_a_body_nested_deeper_is_400_on_every_call(server: Any, body: bytes) -> None:
    for path in (
        "/api/playbook/metadata/publish",
        "/api/playbook/upload",
        "/api/playbook/metadata/acme/stop/1.0.0/status",
        "/api/playbook/stats/acme/stop/1.0.0",
        "/api/playbook/search",
    ):
        headers = {**server.member.headers, "Content-Type": "application/json"}
        answer = server.http.post(path, content=body, headers=headers)
        assert answer.status_code == 400, path
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "twice",
    ['"name": "Other name"', '"tags": {"a": 1, "a": 2}', '"x": [{"\\u0061": 1, "a": 2}]'],
)
def test_a_key_given_twice_is_refused(server: Any, twice: str) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    metadata = server.member.metadata("stop", "1.0.0")
    body = json.dumps(server.member.publish_body(metadata, FILES))
    body = body.replace('"name": ', f'{twice}, "name": ', 1)
    headers = {**server.member.headers, "Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = server.http.post("/api/playbook/metadata/publish", content=body, headers=headers)
    assert answer.status_code == 400
    assert "twice" in answer.json()["detail"]
    assert server.member.feed() == {}


def test_a_body_without_a_length_is_bounded_too(start_server: Any) -> None:
    server = start_server(max_json_bytes=1000)
    headers = {**server.member.headers, "Content-Type": "application/json"}
    chunks = (b"[" + b"0," * 100 for _ in range(1000))
    answer = server.http.post("/api/playbook/search", content=chunks, headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 5000, "²"])
def test_a_length_that_is_none_is_refused(server: Any, length: str) -> None:
    headers = {**server.member.headers, "Content-Length": length.encode()}
    answer = server.http.post("/api/playbook/search", content=b"", headers=headers)
    assert answer.status_code in {400, 413}


class TestAPageOfTheFeed:
    def test_holds_at_most_a_thousand_items(self, server: Any) -> None:
        answer = server.member.get("/api/playbook/metadata/changes", tenant_id="acme", limit=10**9)
        assert answer.status_code == 200

    def test_is_bounded_in_bytes_and_tells_everything_once(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("escher_server.changes._PAGE_BYTES", 20_000)
        for number in range(6):
            server.member.publish(f"p{number}", tags={"note": "x" * 6000})
        found, cursor, more, pages = [], None, True, 0
        while more:
            page = server.member.changes(cursor)
            found += [item["playbook_id"] for item in page["changes"]]
            cursor, more, pages = page["cursor"], page["more"], pages + 1
            assert len(json.dumps(page)) < 40_000
        assert found == [f"p{number}" for number in range(6)]
        assert pages > 1

    def test_one_item_over_the_bound_comes_alone(
        self, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("escher_server.changes._PAGE_BYTES", 100)
        for number in range(3):
            server.member.publish(f"p{number}")
        assert [len(server.member.changes()["changes"]), server.member.changes()["more"]] == [
            1, True,
        ]  # fmt: skip
