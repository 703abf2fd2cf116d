from __future__ import annotations

import pytest
from support.playbooks import metadata

PATH = "/v1/playbooks/stop-idle-databases/versions/1.0.0/executions"


@pytest.fixture
def stored(client):
    sent = {
        "metadata": metadata(),
        "scripts": [{"path": "shell/main.sh", "content": "#!/usr/bin/env bash\necho hi\n"}],
    }
    assert client.post("/v1/playbooks", json=sent).status_code == 201
    return client


def test_a_run_is_counted_and_answered_with_the_playbook(stored):
    body = {"execution_id": "run-1", "success": True, "duration_ms": 1200}
    answer = stored.post(PATH, json=body)
    assert answer.status_code == 200
    first = answer.json()
    assert (first["execution_id"], first["counted"]) == ("run-1", True)
    assert (first["execution_count"], first["success_count"]) == (1, 1)
    assert first["metadata"]["name"] == "Stop idle databases"
    again = stored.post(PATH, json=body).json()
    assert (again["counted"], again["execution_count"]) == (False, 1)
    shown = stored.get("/v1/playbooks/stop-idle-databases").json()
    assert (shown["execution_count"], shown["last_executed"]) == (1, first["last_executed"])


def test_three_failures_break_it_for_search_and_a_success_mends_it(stored):
    def run(success):
        return stored.post(PATH, json={"success": success, "duration_ms": 1, "error": "exit 2"})

    def found():
        return stored.post("/v1/search", json={"query": "stop idle databases"}).json()["results"]

    assert [run(False).json()["health"] for _ in range(3)] == ["ok", "ok", "broken"]
    assert stored.get("/v1/playbooks/stop-idle-databases").json()["health"] == "broken"
    assert found() == []
    assert run(True).json()["health"] == "ok"
    [result] = found()
    assert (result["execution_count"], result["success_count"]) == (4, 1)
    kinds = [job["kind"] for job in stored.get("/v1/jobs").json()["items"]]
    assert kinds.count("embed") == 3, "created, broken, mended: and not for every run"


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration_ms": 1},
        {"success": "yes", "duration_ms": 1},
        {"success": True, "duration_ms": -1},
        {"success": True, "duration_ms": 1, "execution_id": ""},
        {"success": True, "duration_ms": 1, "execution_id": "x" * 201},
        {"success": True, "duration_ms": 1, "exit_code": 0},
    ],
)
def test_what_is_no_report_is_refused(stored, wrong):
    answer = stored.post(PATH, json=wrong)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert stored.get("/v1/playbooks/stop-idle-databases").json()["execution_count"] == 0


def test_what_is_not_there_is_404_and_anothers_id_409(stored):
    body = {"success": True, "duration_ms": 1, "execution_id": "run-1"}
    assert stored.post(PATH.replace("1.0.0", "9.0.0"), json=body).status_code == 404
    assert stored.post(PATH.replace("1.0.0", "latest"), json=body).status_code == 404
    other = {"metadata": metadata("Another one"), "scripts": []}
    other["scripts"] = [{"path": "shell/main.sh", "content": "echo\n"}]
    stored.post("/v1/playbooks", json=other)
    assert stored.post(PATH, json=body).status_code == 200
    moved = stored.post(PATH.replace("stop-idle-databases", "another-one"), json=body)
    assert moved.status_code == 409


def test_the_token_is_asked_for(stored):
    del stored.headers["Authorization"]
    assert stored.post(PATH, json={"success": True, "duration_ms": 1}).status_code == 401
