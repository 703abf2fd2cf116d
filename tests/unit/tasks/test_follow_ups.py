"""What is queued at once after a script of the Escher Library was resolved, or it was run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rag import metadata

from core.errors import BrokerUnreachable
from core.journal import JobState
from core.models import DONE, FileEntry, Ref, ScriptKey
from core.scripts.models import Listing, ResolvedScript, Source, VersionInfo
from core.service import PlaybookService
from tasks import jobs, workflows
from tasks.sync_round import close_settled

REF = Ref("escher-stop", "1.0.0")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that a broker took."""
    taken: list[Any] = []
    monkeypatch.setattr(jobs, "is_running", lambda _: True)
    monkeypatch.setattr(
        workflows, "dispatch", lambda made, inline: taken.append((made.task, made.args[0]))
    )
    return taken


@pytest.fixture
def used(service: PlaybookService) -> PlaybookService:
    body = metadata(*REF, status="approved")
    service.script_manager.library.put(REF, json.dumps(body).encode())
    return service


def script(ref: Ref = REF, source: Source = Source.DOWNLOAD) -> ResolvedScript:
    entry = FileEntry("shell/a.sh", 1, "sha256:" + "a" * 64)
    listing = Listing(ScriptKey(ref, "shell"), (entry,), entry.path)
    return ResolvedScript(listing, Path("x"), source, VersionInfo("approved"))


def test_what_came_is_indexed_at_once(used: PlaybookService, sent: list[Any]) -> None:
    body = jobs.script_resolved(used, script())
    assert body["playbook_id"] == REF.playbook_id
    assert sent == [("playbooks.embed", [str(REF)])]
    assert used.journal.jobs.recent() == [], "nobody asked for a job"


@pytest.mark.parametrize(
    "resolved", [script(source=Source.CACHE), script(Ref("mine", "1.0.0"))], ids=["cached", "own"]
)
def test_nothing_else_is(used: PlaybookService, sent: list[Any], resolved: ResolvedScript) -> None:
    jobs.script_resolved(used, resolved)
    used.index_refs([REF])
    jobs.script_resolved(used, script())
    assert sent == []


def test_without_workers_the_next_search_does_it(used: PlaybookService) -> None:
    jobs.script_resolved(used, script())
    assert [result.playbook_id for result in jobs.search(used, "escher stop").results] == [
        REF.playbook_id
    ]


def test_a_broker_that_goes_away_spoils_no_answer(
    used: PlaybookService, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise BrokerUnreachable("gone")

    monkeypatch.setattr(workflows, "dispatch", gone)
    assert jobs.script_resolved(used, script())["source"] == "download"
    assert used.sync.difference().embed == [REF], "the next sync"


def test_a_run_that_breaks_it_is_brought_to_its_point(
    used: PlaybookService, sent: list[Any]
) -> None:
    used.index_refs([REF])
    for _ in range(3):
        body = jobs.executed(used, used.executions.report(REF, success=False))
    assert (body["health"], body["execution_count"]) == ("broken", 3)
    assert sent == [("playbooks.embed", [str(REF)])]


def test_a_reindex_counts_it(used: PlaybookService) -> None:
    job = jobs.submit(used, "reindex", wait=True)
    assert (job.state, job.total) == (JobState.SUCCEEDED, 1)


def test_an_item_of_a_lost_message_ends_with_its_point(used: PlaybookService) -> None:
    job = jobs.submit(used, "embed", all_=True)
    close_settled(used)
    assert used.journal.jobs.get(job.job_id).state is JobState.QUEUED
    assert used.index_refs([REF]) == {REF: DONE}
    close_settled(used)
    assert used.journal.jobs.get(job.job_id).state is JobState.SUCCEEDED
