from __future__ import annotations

import json
import threading

import anyio
import pytest
from support.playbooks import metadata

from core.errors import NotFound
from core.journal import Job, JobState
from escher_playbooks.api.events import job_events


@pytest.fixture
def ref(client):
    made = client.post(
        "/v1/playbooks", json={"metadata": metadata(), "scripts": [], "strategy": "keep"}
    )
    assert made.status_code == 201, made.text
    return f"{made.json()['playbook_id']}@{made.json()['version']}"


def publish(client, ref, **headers):
    body = {"kind": "publish", "refs": [ref], "as": "review"}
    return client.post("/v1/jobs", json=body, headers=headers)


def test_a_job_is_accepted_and_found_at_its_location(client, ref):
    answer = publish(client, ref)
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    job = client.get(answer.headers["Location"]).json()
    assert (job["kind"], job["state"], job["total"]) == ("publish", "queued", 1)
    assert {
        "job_id", "kind", "state", "total", "succeeded", "failed", "deferred", "items",
        "created_at", "started_at", "finished_at",
    } <= set(job)  # fmt: skip
    assert [item["ref"] for item in job["items"]] == [ref]
    listed = client.get("/v1/jobs").json()["items"]
    assert job_id in [item["job_id"] for item in listed]
    assert len(client.get("/v1/jobs", params={"limit": 1}).json()["items"]) == 1
    assert "items" not in listed[0]


def test_the_same_key_and_body_is_the_same_job(client, ref):
    first = publish(client, ref, **{"Idempotency-Key": "k1"}).json()
    assert publish(client, ref, **{"Idempotency-Key": "k1"}).json() == first
    assert publish(client, ref, **{"Idempotency-Key": "k2"}).json() != first
    other = client.post("/v1/jobs", json={"kind": "sync"}, headers={"Idempotency-Key": "k1"})
    assert other.status_code == 400


def test_policy_says_no_with_409(client, ref):
    answer = client.post("/v1/jobs", json={"kind": "publish", "refs": [ref]})
    assert answer.status_code == 409
    assert "local_only" in answer.json()["detail"]


def test_wrong_requests(client):
    for body, status in (
        ({"kind": "dance"}, 422),
        ({"kind": "delete", "refs": ["a"]}, 422),  # deleting has a method of its own
        ({"kind": "publish", "as": "keep", "all": True}, 422),
        ({"kind": "publish", "all": True, "al": 1}, 422),
        ({"kind": "publish"}, 400),
        ({"kind": "publish", "refs": ["nope"]}, 404),
        ({"kind": "import", "path": "/no/such/path"}, 404),
    ):
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == status, body
        assert answer.headers["content-type"] == "application/problem+json"
    malformed = client.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    assert malformed.status_code == 400


def test_cancel_and_retry(client, ref):
    job_id = publish(client, ref).json()["job_id"]
    cancelled = client.delete(f"/v1/jobs/{job_id}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    retried = client.post(f"/v1/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()) == (202, {"job_id": job_id})
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"


def test_an_unknown_job_is_404(client):
    assert client.get("/v1/jobs/nope").status_code == 404
    assert client.get("/v1/jobs/nope/events").status_code == 404
    assert client.delete("/v1/jobs/nope").status_code == 404
    assert client.post("/v1/jobs/nope/retry").status_code == 404


def test_events_of_a_finished_job_are_done_alone(client, ref):
    job_id = publish(client, ref).json()["job_id"]
    client.delete(f"/v1/jobs/{job_id}")
    answer = client.get(f"/v1/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line]
    assert lines[0] == "event: done"
    assert json.loads(lines[1].removeprefix("data: "))["state"] == "cancelled"


def test_events_tell_each_change_once_and_end_with_done():
    def job(state, succeeded):
        return Job("j", "publish", {}, state, 2, succeeded, 0, 0, 0, 1)

    course = iter([
        job(JobState.QUEUED, 0),
        job(JobState.RUNNING, 1),
        job(JobState.RUNNING, 1),
        job(JobState.SUCCEEDED, 2),
    ])  # fmt: skip
    looked_from = []

    def look():
        looked_from.append(threading.current_thread())
        return next(course)

    async def collect():
        return [event async for event in job_events(look, poll_seconds=0)]

    events = anyio.run(collect)
    assert [event.event for event in events] == ["progress", "progress", "done"]
    assert [json.loads(event.data)["succeeded"] for event in events] == [0, 1, 2]
    assert threading.main_thread() not in looked_from


def test_events_end_when_the_job_is_gone():
    def look():
        raise NotFound("gone")

    async def collect():
        return [event async for event in job_events(look, poll_seconds=0)]

    assert anyio.run(collect) == []
