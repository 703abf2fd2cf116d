"""The HTTP API as a program drives it, with the whole service running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.playbooks import metadata
from support.refusals import Untouched
from support.service import MakeService, ServiceUnderTest, eventually

PAGED = 251


@pytest.fixture(scope="module")
def running(module_home: MakeService) -> ServiceUnderTest:
    made = module_home(real_model=True)
    made.up()
    return made


@pytest.fixture
def api(running: ServiceUnderTest) -> Iterator[httpx.Client]:
    with running.api as client:
        yield client


def _body(name: str, script: str = "echo\n", **fields: Any) -> dict[str, Any]:
    return {"metadata": metadata(name, **fields),
            "scripts": [{"path": "shell/main.sh", "content": script}]}  # fmt: skip


def _problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= set(problem)
    assert problem["status"] == status
    return problem


def _events(client: httpx.Client, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    found, name = [], ""
    with client.stream("GET", f"/v1/jobs/{job_id}/events", timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                found.append((name, json.loads(value)))
    return found


def test_a_playbook_from_creation_to_deletion(api: httpx.Client, running: ServiceUnderTest) -> None:
    made = api.post("/v1/playbooks", json=_body("Find public buckets") | {"strategy": "keep"})
    assert made.status_code == 201
    assert set(made.json()) == {"playbook_id", "version", "warnings", "findings", "job_id"}
    path = "/v1/playbooks/find-public-buckets"
    shown = api.get(path).json()
    assert [file["path"] for file in shown["files"]] == ["shell/main.sh"]
    assert shown["sync"]["state"] == "local"
    assert api.get(f"{path}/versions/1.0.0").json() == shown
    assert len(api.get(f"{path}/versions").json()["items"]) == 1

    changed = api.put(path, json=_body("Find public buckets", "echo changed\n"))
    assert (changed.status_code, changed.json()["version"]) == (200, "1.0.0")

    request = {"kind": "publish", "refs": ["find-public-buckets"], "as": "review"}
    headers = {"Idempotency-Key": "publish-it"}
    first = api.post("/v1/jobs", json=request, headers=headers)
    again = api.post("/v1/jobs", json=request, headers=headers)
    job_id = first.json()["job_id"]
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["location"] == f"/v1/jobs/{job_id}"
    assert again.json()["job_id"] == job_id
    other = api.post("/v1/jobs", json={"kind": "sync"}, headers=headers)
    assert "Idempotency-Key" in _problem(other, 400)["detail"]

    events = _events(api, job_id)
    assert [name for name, _ in events][-1] == "done"
    assert {name for name, _ in events[:-1]} <= {"progress"}
    assert events[-1][1]["state"] == "succeeded"
    job = api.get(first.headers["location"]).json()
    assert (job["total"], job["succeeded"]) == (1, 1)
    assert job_id in [item["job_id"] for item in api.get("/v1/jobs").json()["items"]]

    published = api.get(path).json()
    assert published["sync"] == {
        "state": "published", "revision": 1, "error": None, "next_attempt_at": None,
    }  # fmt: skip
    script = api.get("/v1/scripts/find-public-buckets/latest/shell").json()
    assert script["source"] == "synced"
    assert script["checksum"] == published["files"][0]["checksum"]

    query = {"query": "storage that anybody can read", "filters": {"cloud_provider": "aws"}}
    found = eventually(lambda: api.post("/v1/search", json=query).json()["results"], 60, "found")
    assert found[0]["playbook_id"] == "find-public-buckets"

    newer = api.put(path, json=_body("Find public buckets", "echo newer\n")).json()
    assert newer["version"] == "1.0.1"
    assert api.delete(f"{path}/versions/1.0.1").status_code == 202
    assert api.delete(path).status_code == 202
    eventually(lambda: api.get(path).status_code == 404, 60, "gone, here and at the server")
    assert running.json("verify")["clean"]


def test_health_metrics_and_the_last_sync(api: httpx.Client) -> None:
    assert httpx.get(f"{api.base_url}/healthz").status_code == 200
    assert api.get("/readyz").json()["ready"] is True
    job = api.post("/v1/jobs", json={"kind": "sync"}).json()["job_id"]
    assert _events(api, job)[-1][0] == "done"
    assert {"at", "queued", "published"} <= set(api.get("/v1/sync").json())
    metrics = api.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "# TYPE" in metrics.text
    assert api.get("/openapi.json").json()["openapi"].startswith("3.")
    assert api.get("/docs").status_code == 200


def test_pages_hold_everything_once(api: httpx.Client) -> None:
    for number in range(PAGED):
        body = _body(f"Paged number {number}", cloud_provider=["gcp"]) | {"strategy": "keep"}
        assert api.post("/v1/playbooks", json=body).status_code == 201
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor:
        parameters = {"limit": "100", "cloud": "gcp"} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/playbooks", params=parameters).json()
        seen += [item["playbook_id"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert len(seen) == len(set(seen)) == PAGED
    assert seen == sorted(seen)


def test_without_the_token_nothing_is_told(running: ServiceUnderTest) -> None:
    url = f"http://127.0.0.1:{running.api_port}"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc="}):
        for path in ("/v1/playbooks", "/v1/jobs", "/readyz", "/metrics", "/nowhere"):
            problem = _problem(httpx.get(url + path, headers=headers), 401)
            assert "api.token" in problem["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/playbooks/not-here", 404),
        ("GET", "/v1/playbooks/..%2F..%2Fetc", 404),
        ("GET", "/v1/playbooks/stands/versions/nope", 404),
        ("DELETE", "/v1/playbooks/not-here", 404),
        ("GET", "/v1/jobs/none", 404),
        ("GET", "/v1/jobs/none/events", 404),
        ("GET", "/v1/scripts/not-here/latest/shell", 404),
        ("GET", "/nowhere", 404),
        ("PATCH", "/v1/playbooks", 405),
        ("GET", "/v1/playbooks?limit=0", 422),
        ("GET", "/v1/playbooks?strategy=loud", 422),
    ],
)
def test_what_is_not_there_is_a_problem(
    api: httpx.Client, method: str, path: str, status: int
) -> None:
    _problem(api.request(method, path), status)


BAD_BODIES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "absolute": ({"path": "/etc/cron.d/x", "content": ""}, 422, "UnsafePath", "/etc/cron.d/x"),
    "climbs": ({"path": "shell/../../x.sh", "content": ""}, 422, "UnsafePath", "shell/../../x.sh"),
    "backslash": ({"path": "shell\\..\\x.sh", "content": ""}, 422, "UnsafePath", "x.sh"),
    "case": ({"path": "shell/Main.sh", "content": ""}, 422, "UnsafePath", "shell/Main.sh"),
    "twice": ({"path": "shell/main.sh", "content": ""}, 422, "InvalidPlaybook", "shell/main.sh"),
    "elsewhere": ({"path": "bin/x.sh", "content": ""}, 422, "InvalidPlaybook", "bin/x.sh"),
    "base64": ({"path": "shell/b", "content_base64": "*"}, 422, "InvalidPlaybook", "shell/b"),
    "none": ({"path": "shell/b"}, 422, "UsageError", "scripts.1"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_script_that_cannot_be_is_named(
    api: httpx.Client, running: ServiceUnderTest, what: str
) -> None:
    script, status, type_, name = BAD_BODIES[what]
    body = _body("Bad body")
    body["scripts"].append(script)
    before = Untouched(running)
    problem = _problem(api.post("/v1/playbooks", json=body), status)
    assert problem["type"] == type_
    assert name in problem["detail"].replace("\\\\", "\\")
    assert problem["remedy"]
    before.check()


def test_bad_requests_are_refused_whole(api: httpx.Client, running: ServiceUnderTest) -> None:
    api.post("/v1/playbooks", json=_body("Taken already") | {"strategy": "keep"})
    before = Untouched(running)

    def post(path: str = "/v1/playbooks", **content: Any) -> httpx.Response:
        return api.post(path, **content)

    assert _problem(post(json=_body("Taken already", "other\n")), 409)["type"] == "AlreadyExists"
    assert "'1'" in _problem(post(json=_body("X y z", version="1")), 422)["detail"]
    assert "playbook_id" in _problem(post(json=_body("X y z", playbook_id="../x")), 422)["detail"]
    for content in (b'{"metadata": ', b"\xff\xfe"):
        _problem(post(content=content, headers={"Content-Type": "application/json"}), 400)
    _problem(post(json=[1]), 422)
    _problem(post(json=_body("X y z") | {"colour": "red"}), 422)
    _problem(post("/v1/jobs", json={"kind": "dance"}), 422)
    _problem(post("/v1/jobs", json={"kind": "publish"}), 400)
    _problem(post("/v1/jobs", json={"kind": "import", "path": "/not/there"}), 404)
    _problem(post("/v1/jobs", json={"kind": "publish", "refs": ["not-here"], "as": "review"}), 404)
    refused = {"kind": "publish", "refs": ["taken-already"]}
    assert _problem(post("/v1/jobs", json=refused), 409)["remedy"]
    _problem(post("/v1/search", json={"query": ""}), 422)
    _problem(post("/v1/search", json={"query": "x", "filters": {"colour": "red"}}), 422)
    large = _problem(post(json=_body("X y z", "x" * (200 << 20))), 413)
    assert "max_script_size_mb" in large["remedy"]
    before.check()
