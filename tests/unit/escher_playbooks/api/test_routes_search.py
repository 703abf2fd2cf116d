from __future__ import annotations

import pytest
from support.playbooks import metadata

from core.rag.indexing import Indexing
from core.reports import PlaybookSearchResult, SearchAnswer


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def search(self, query, filters, limit=10):
        calls.append((query, filters, limit))
        return SearchAnswer([PlaybookSearchResult("a", "1.0.0", "A", "…", 0.5, "ready")])

    monkeypatch.setattr(Indexing, "search", search)
    return calls


def test_search(client, asked):
    body = {"query": "idle", "filters": {"cloud_provider": "aws", "status": ["ready"]}, "limit": 3}
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200
    assert asked == [("idle", {"cloud_provider": "aws", "status": ["ready"]}, 3)]
    assert answer.json() == {
        "results": [
            {
                "playbook_id": "a", "version": "1.0.0", "name": "A", "description": "…",
                "score": 0.5, "status": "ready", "warning": None,
                "health": "ok", "execution_count": 0, "success_count": 0, "last_executed": None,
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [{}, {"query": ""}, {"query": "x", "limit": 0}, {"query": "x", "filters": {"colour": "red"}}],
)
def test_a_wrong_search_is_422(client, asked, body):
    assert client.post("/v1/search", json=body).status_code == 422
    assert asked == []


def test_where_a_script_stands(client, settings):
    content = "#!/usr/bin/env bash\necho hi\n"
    scripts = [{"path": "shell/main.sh", "content": content}]
    client.post("/v1/playbooks", json={"metadata": metadata("A thing"), "scripts": scripts})
    latest = client.get("/v1/scripts/a-thing/latest/shell").json()
    assert latest["path"].startswith(str(settings.playbooks_path))
    assert (latest["source"], latest["size_bytes"]) == ("local", len(content))
    assert latest == client.get("/v1/scripts/a-thing/1.0.0/shell").json()
    assert (latest["status"], latest["made_here"], latest["signature"]) == (
        "ready", True, "unsigned",
    )  # fmt: skip
    assert "nobody reviewed it" in latest["warnings"][0]
    # what the server may have under an id that is private here is not even asked for
    assert "private here" in client.get("/v1/scripts/a-thing/2.0.0/shell").json()["detail"]
    # the server may have that one, and does not answer
    assert client.get("/v1/scripts/another/2.0.0/shell").status_code == 503
    for path in ("a-thing/latest/python", "no@pe/latest/shell"):
        assert client.get(f"/v1/scripts/{path}").status_code == 404


def test_who_may_not_be_run_is_a_problem_that_lists_the_reasons(client):
    body = {
        "metadata": metadata("A thing", author="ai_generated"),
        "scripts": [{"path": "shell/main.sh", "content": "echo hi\n"}],
    }
    client.post("/v1/playbooks", json=body)
    for version in ("latest", "1.0.0"):
        answer = client.get(f"/v1/scripts/a-thing/{version}/shell")
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (409, "not-runnable")
        assert [item["version"] for item in problem["versions"]] == ["1.0.0"]
        assert "waits for a decision" in problem["versions"][0]["reason"]
    allowed = client.get("/v1/scripts/a-thing/1.0.0/shell?allow_unreviewed=true")
    assert allowed.status_code == 200
    assert "run all the same" in allowed.json()["warnings"][0]
    assert client.get("/v1/scripts/a-thing/1.0.0/shell?allow_all=true").status_code == 422
