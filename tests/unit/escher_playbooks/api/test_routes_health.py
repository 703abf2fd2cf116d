from __future__ import annotations

import logging

from support.playbooks import metadata

from core.journal.versions import Versions


def test_ready_says_what_is_missing(client):
    answer = client.get("/readyz")
    assert answer.status_code == 503
    body = answer.json()
    assert body["ready"] is False
    assert body["checks"]["journal"] == "ok"
    assert body["checks"]["broker"] != "ok"


def test_ready_with_journal_and_broker(client, monkeypatch):
    monkeypatch.setattr("tasks.jobs.is_running", lambda _settings: True)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_metrics_count_versions_jobs_and_requests(client):
    client.post("/v1/playbooks", json={"metadata": metadata("A thing"), "strategy": "keep"})
    client.get("/v1/playbooks/a-thing?secret=hunter2")
    client.get("/no/such/path")
    text = client.get("/metrics").text
    assert 'escher_versions{sync_state="local"} 1.0' in text
    assert 'escher_versions{sync_state="published"} 0.0' in text
    assert 'escher_jobs{state="queued"} 1.0' in text
    assert 'route="/v1/playbooks/{playbook_id}",status="200"} 1.0' in text
    assert "hunter2" not in text
    assert "a-thing" not in text
    assert "/no/such/path" not in text


def test_the_access_log_has_paths_without_query_strings(client, caplog):
    with caplog.at_level(logging.INFO, logger="escher.api.access"):
        client.get("/v1/playbooks?cloud=hunter2")
    assert "/v1/playbooks" in caplog.text
    assert "hunter2" not in caplog.text


def test_no_sync_yet_is_404(client):
    assert client.get("/v1/sync").status_code == 404


def test_the_last_sync(client, settings):
    path = settings.cache_path / "metadata" / "last_sync.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"at": 5}')
    assert client.get("/v1/sync").json() == {"at": 5}


def test_a_body_over_the_limit_is_413(client):
    too_much = b"x" * (1 << 20 | 1)
    announced = client.post("/v1/search", content=too_much)
    assert announced.status_code == 413
    chunked = client.post(
        "/v1/search",
        content=iter([too_much[: 1 << 19]] * 3),
        headers={"Content-Type": "application/json"},
    )
    assert chunked.status_code == 413
    assert chunked.headers["content-type"] == "application/problem+json"


def test_an_unforeseen_error_is_a_problem_without_its_text_and_is_counted(client, monkeypatch):
    def broken(self, ref):
        raise RuntimeError("hunter2")

    monkeypatch.setattr(Versions, "of_playbook", broken)
    answer = client.get("/v1/playbooks/a-thing/versions")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "RuntimeError" in answer.json()["detail"]
    assert "hunter2" not in answer.text
    assert 'status="500"} 1.0' in client.get("/metrics").text


def test_openapi_names_the_bearer_token(client):
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    expected = {
        "/v1/playbooks", "/v1/playbooks/{playbook_id}", "/v1/playbooks/{playbook_id}/versions",
        "/v1/playbooks/{playbook_id}/versions/{version}", "/v1/jobs", "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/retry", "/v1/search", "/v1/sync",
        "/v1/scripts/{playbook_id}/{version}/{format}", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    assert expected <= set(document["paths"])
