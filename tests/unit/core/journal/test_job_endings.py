"""What a job may say of its items, whoever did the work."""

from __future__ import annotations

import pytest

from core.errors import UsageError
from core.journal import JobState, Journal
from core.journal.jobs import Jobs
from core.models import DONE, Outcome, OutcomeState

REF = "stop-rds@1.0.0"


@pytest.fixture
def jobs(journal: Journal) -> Jobs:
    return journal.jobs


def state_of(jobs: Jobs, job_id: str) -> JobState:
    return jobs.get(job_id).items[0].state


def test_a_deletion_is_not_ended_by_a_publication_that_skips_the_version(jobs: Jobs) -> None:
    publication, _ = jobs.create("publish", {}, [REF])
    deletion, _ = jobs.create("delete", {}, [REF])
    jobs.note("publish", {REF: Outcome(OutcomeState.SKIPPED)})
    assert state_of(jobs, publication) is JobState.CANCELLED
    assert state_of(jobs, deletion) is JobState.QUEUED
    jobs.note("delete", {REF: DONE})
    assert jobs.get(deletion).state is JobState.SUCCEEDED


def test_an_upload_that_fails_says_nothing_of_an_indexing(jobs: Jobs) -> None:
    indexing, _ = jobs.create("embed", {}, [REF])
    jobs.note("upload", {REF: Outcome(OutcomeState.FAILED, "ServerRejected", "403")})
    assert state_of(jobs, indexing) is JobState.QUEUED


def test_trying_again_what_succeeded_opens_nothing(jobs: Jobs) -> None:
    job_id, _ = jobs.create("embed", {}, [REF])
    jobs.note("embed", {REF: DONE})
    assert jobs.reopen(job_id) == []
    assert jobs.get(job_id).state is JobState.SUCCEEDED


def test_what_was_cancelled_is_not_finished_afterwards(jobs: Jobs) -> None:
    job_id, _ = jobs.create("import", {"path": "x"})
    jobs.cancel(job_id)
    jobs.finish(job_id, JobState.SUCCEEDED)
    assert jobs.get(job_id).state is JobState.CANCELLED


def test_an_idempotency_key_is_known_with_its_request_only(jobs: Jobs) -> None:
    job_id, _ = jobs.create("publish", {"refs": ["a"]}, [], "key")
    assert jobs.known("key", "publish", {"refs": ["a"]}) == job_id
    assert jobs.known("other", "publish", {"refs": ["a"]}) is None
    with pytest.raises(UsageError):
        jobs.known("key", "publish", {"refs": ["b"]})
