from __future__ import annotations

from typing import Any

import pytest

from core.journal import Job, JobItem, JobState
from escher_playbooks.cli.jobs_commands import SHOWN_REASONS, _report, exit_code


def job(*items: JobItem, **fields: Any) -> Job:
    """A publish job of these items, its counts and state derived as the journal does."""
    count = {state: sum(item.state is state for item in items) for state in JobState}
    values: dict[str, Any] = {
        "job_id": "j",
        "kind": "publish",
        "request": {},
        "state": JobState.PARTIAL,
        "total": len(items),
        "succeeded": count[JobState.SUCCEEDED],
        "failed": count[JobState.FAILED],
        "deferred": count[JobState.DEFERRED],
        "cancelled": count[JobState.CANCELLED],
        "created_at": 1,
        "items": items,
    }
    return Job(**{**values, **fields})


def item(state: JobState, error_type: str | None = None) -> JobItem:
    return JobItem(f"p-{id(state)}@1.0.0", state, error_type=error_type)


DONE = item(JobState.SUCCEEDED)
AWAY = item(JobState.DEFERRED, "ServerUnreachable")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (job(DONE, DONE, state=JobState.SUCCEEDED), 0),
        (job(AWAY, AWAY, state=JobState.QUEUED), 4),
        (job(DONE, AWAY), 4),
        (job(DONE, item(JobState.FAILED, "Refused")), 1),
        (job(AWAY, item(JobState.FAILED, "Refused")), 1),
        (job(item(JobState.FAILED, "Refused"), item(JobState.FAILED, "Conflict")), 5),
        (job(item(JobState.FAILED, "ServerRejected"), item(JobState.FAILED, "Conflict")), 1),
        (job(item(JobState.FAILED, "NoSuchError")), 1),
        (job(item(JobState.FAILED, None)), 1),
        (job(item(JobState.QUEUED), state=JobState.QUEUED), 0),
        (job(state=JobState.FAILED, kind="verify"), 1),
        (job(state=JobState.SUCCEEDED, kind="sync", result={"deferred": 3}), 4),
        (job(state=JobState.SUCCEEDED, kind="sync", result={"deferred": 0}), 0),
    ],
)
def test_the_exit_code_says_how_it_went(found, code):
    assert exit_code(found) == code


def test_a_sync_tells_what_it_decided_and_what_did_not_go(capsys):
    result = {
        "scanned": 3,
        "edits": {"kept_as": {"a@1.0.0": "a@1.0.1"}},
        "conflicts": [{"ref": "b@1.0.0", "kind": "open_conflict", "reason": "b@1.0.0 disagrees."}],
        "deferrals": {"c@1.0.0": "busy"},
        "failures": {f"/p/{number}": "no JSON" for number in range(SHOWN_REASONS)},
        "offline": "nobody answers",
    }
    _report(job(kind="sync", result=result, total=0, state=JobState.PARTIAL), "synced")
    said = capsys.readouterr()
    for words in (
        "the edit of a@1.0.0 is a@1.0.1 now", "b@1.0.0 disagrees.", "c@1.0.0: busy",
        "/p/0: no JSON", "and 3 more: jobs show j --json", "nobody answers",
    ):  # fmt: skip
        assert words in said.err
    assert "scanned 3" in said.out


def test_jobs_are_listed_shown_cancelled_and_retried(run, folder):
    run("create", folder, "--strategy", "keep")
    job_id = run("publish", "stop-idle-databases", "--as", "review", "--json").json["job_id"]
    assert job_id in run("jobs", "ls").out
    shown = run("jobs", "show", job_id)
    assert "stop-idle-databases@1.0.0" in shown.out
    assert "queued" in shown.out
    cancelled = run("jobs", "cancel", job_id, "--json").json
    assert cancelled["state"] == "cancelled"
    assert cancelled["items"][0]["state"] == "cancelled"
    state = run("show", "stop-idle-databases", "--json").json["sync"]["state"]
    assert state == "local"
    again = run("jobs", "retry", job_id, "--json").json
    assert again == {"job_id": job_id}
    assert run("jobs", "show", job_id, "--json").json["state"] == "queued"


def test_watching_ends_at_the_timeout_with_the_job_as_it_stands(run, folder):
    made = run("create", folder, "--strategy", "keep", "--json").json
    done = run("jobs", "watch", made["job_id"], "--timeout", "0", "--json")
    assert (done.code, done.json["state"]) == (0, "queued")


def test_an_unknown_job_is_not_found(run, home):
    for action in ("show", "watch", "cancel", "retry"):
        done = run("jobs", action, "nope", "--json")
        assert done.code == 3
        assert "nope" in done.error["detail"]
