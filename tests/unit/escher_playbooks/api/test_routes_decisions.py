from __future__ import annotations

import pytest
from support.playbooks import metadata

PATH = "/v1/playbooks/stop-idle-databases/versions/1.0.0"


@pytest.fixture
def waiting(client):
    sent = {
        "metadata": metadata(author="ai_generated"),
        "scripts": [{"path": "shell/main.sh", "content": "#!/usr/bin/env bash\necho hi\n"}],
        "strategy": "review",
    }
    made = client.post("/v1/playbooks", json=sent)
    assert made.status_code == 201
    shown = client.get(PATH).json()
    assert (shown["area"], shown["sync"]["state"]) == ("ai-generated", "local")
    assert client.get(f"/v1/jobs/{made.json()['job_id']}").json()["kind"] == "embed"
    return client


@pytest.mark.parametrize("decision", ["review", "uploaded_trusted"])
def test_to_be_published(waiting, decision):
    answer = waiting.post(f"{PATH}/decision", json={"decision": decision})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["area"], body["sync"]["state"]) == ("local", "pending")
    job = waiting.get(f"/v1/jobs/{body['job_id']}").json()
    assert (job["kind"], job["total"]) == ("publish", 1)


def test_kept(waiting):
    body = waiting.post(f"{PATH}/decision", json={"decision": "keep"}).json()
    assert (body["area"], body["sync"]["state"]) == ("local", "local")
    assert body["metadata"]["storage_strategy"] == "local_only"
    assert waiting.get(f"/v1/jobs/{body['job_id']}").json()["kind"] == "embed"
    refused = waiting.post(f"{PATH}/decision", json={"decision": "discard"})
    assert refused.status_code == 409
    assert waiting.get(PATH).status_code == 200


def test_discarded(waiting):
    body = waiting.post(f"{PATH}/decision", json={"decision": "discard"}).json()
    assert body == {
        "playbook_id": "stop-idle-databases",
        "version": "1.0.0",
        "decision": "discard",
        "job_id": None,
        "warnings": [],
    }
    assert waiting.get(PATH).status_code == 404
    assert waiting.post(f"{PATH}/decision", json={"decision": "discard"}).status_code == 404


def test_wrong_requests(waiting):
    for body in ({"decision": "perhaps"}, {}, {"decision": None}, {"decision": "keep", "x": 1}):
        assert waiting.post(f"{PATH}/decision", json=body).status_code in {400, 422}
    assert waiting.get(PATH).json()["area"] == "ai-generated"


def test_undecided_it_is_left_out_of_a_publication(waiting):
    answer = waiting.post("/v1/jobs", json={"kind": "publish", "all": True})
    job = waiting.get(f"/v1/jobs/{answer.json()['job_id']}").json()
    assert job["total"] == 0
