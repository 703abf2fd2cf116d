"""A body's JSON is bounded before anything looks at it."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from support.playbooks import metadata


def body(**more: object) -> str:
    return json.dumps({"metadata": metadata("Stop it", **more)})


DEEP = json.dumps({"metadata": "M"})


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (DEEP.replace('"M"', nested(400)), 400, "nested too deeply"),
        (DEEP.replace('"M"', nested(100_000)), 400, "nested too deeply"),
        ("[" * 200_000, 400, "nested too deeply"),
        (body().replace('"name"', '"name": "x", "name"', 1), 400, "twice"),
        (body(tags={"n": float("nan")}), 400, "NaN"),
        (body(tags={"n": "N"}).replace('"N"', "1e999"), 400, "too large"),
        (body(tags={"n": "N"}).replace('"N"', nested(32)), 422, "nested too deeply"),
        ('{"metadata": ', 400, "not JSON"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(
    client: TestClient, content: str, status: int, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/playbooks", content=content.encode(), headers=headers)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert client.get("/v1/playbooks").json()["items"] == []
