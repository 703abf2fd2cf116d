from __future__ import annotations

import pytest

from core.rag.indexing import Indexing
from core.reports import Finding, PlaybookSearchResult, SearchAnswer, VerifyReport
from core.service import PlaybookService

HIT = PlaybookSearchResult(
    "stop-idle-databases", "1.2.0", "Stop idle databases", "…", 0.8123, "deprecated", "deprecated"
)


@pytest.fixture
def asked(monkeypatch):
    """What `Indexing.search` was asked; it answers with one hit, by words only."""
    calls = []

    def search(self, query, filters, limit=10):
        calls.append((query, filters, limit))
        return SearchAnswer([HIT], degraded=True)

    monkeypatch.setattr(Indexing, "search", search)
    return calls


def test_search_shows_rank_version_score_and_warning(run, asked):
    done = run("search", "save money", "--cloud", "aws", "--limit", "3")
    assert asked == [("save money", {"cloud_provider": "aws"}, 3)]
    for text in ("1", "stop-idle-databases@1.2.0", "0.812", "deprecated"):
        assert text in done.out
    assert "degraded" in done.err


def test_search_answers_as_the_api_does(run, asked):
    body = run("search", "x", "--resource-type", "a::b", "--resource-type", "c::d", "--json").json
    assert asked[0][1] == {"resource_types": ["a::b", "c::d"]}
    assert body["degraded"] is True
    assert body["results"][0]["score"] == 0.8123
    assert set(body["results"][0]) == {
        "playbook_id", "version", "name", "description", "score", "status", "warning",
        "health", "execution_count", "success_count", "last_executed",
    }  # fmt: skip


def test_verify_ends_with_1_when_something_is_wrong(run, monkeypatch):
    found = Finding("a@1.0.0", "shell/x.sh", "the bytes changed", "Restore it.")
    monkeypatch.setattr(PlaybookService, "verify", lambda _self: VerifyReport(3, [found]))
    done = run("verify")
    assert done.code == 1
    for text in ("a@1.0.0", "shell/x.sh", "the bytes changed", "Restore it."):
        assert text in done.out
    body = run("verify", "--json")
    assert (body.code, body.json["checked"]) == (1, 3)


def test_verify_of_a_sound_home_is_0(run, monkeypatch):
    monkeypatch.setattr(PlaybookService, "verify", lambda _self: VerifyReport(3, []))
    assert run("verify").code == 0


def test_verify_deep_checks_scripts_and_changes_no_exit_code(run, folder, monkeypatch):
    (folder / "shell/stop.sh").write_text("#!/bin/bash\nif true; then\n")
    assert run("create", folder).code == 0
    monkeypatch.setattr(PlaybookService, "verify", lambda _self: VerifyReport(1, []))
    done = run("verify", "--deep")
    assert done.code == 0
    assert "stop-idle-databases@1.0.0 shell/stop.sh:3: the script ends inside" in done.out
    scripts = run("verify", "--deep", "--json").json["scripts"]
    assert {(s["ref"], s["path"]) for s in scripts} == {
        ("stop-idle-databases@1.0.0", "shell/stop.sh")
    }
    assert "scripts" not in run("verify", "--json").json
    assert "ends inside" in run("show", "stop-idle-databases", "--deep").out
    assert run("show", "stop-idle-databases", "--deep", "--json").json["scripts"] == [
        {key: value for key, value in script.items() if key != "ref"} for script in scripts
    ]
