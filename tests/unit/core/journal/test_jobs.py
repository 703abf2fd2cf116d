from __future__ import annotations

import itertools

import pytest

from core.errors import NotFound, UsageError
from core.journal import JobState
from core.models import DONE, Outcome, OutcomeState

A, B, C = "a@1.0.0", "b@1.0.0", "c@1.0.0"
FAILED = Outcome(OutcomeState.FAILED, "StorageError", "The disk is full.")
DEFERRED = Outcome(OutcomeState.DEFERRED, "ServerBusy", "Busy.", 1234)
SKIPPED = Outcome(OutcomeState.SKIPPED)
WAITING = Outcome(OutcomeState.WAITING)


@pytest.fixture
def jobs(journal):
    return journal.jobs


@pytest.fixture
def publish(jobs):
    """``publish(refs…)`` makes a job and gives its id."""
    return lambda *refs: jobs.create("publish", {"refs": list(refs)}, list(refs))[0]


def states(jobs, job_id):
    return {item.ref: item.state.value for item in jobs.get(job_id).items}


def test_a_new_job_waits_with_all_its_refs(jobs, publish):
    job = jobs.get(publish(B, A))
    assert (job.kind, job.state, job.total) == ("publish", JobState.QUEUED, 2)
    assert job.request == {"refs": [B, A]}
    assert states(jobs, job.job_id) == {A: "queued", B: "queued"}
    assert not job.is_finished
    assert job.created_at
    assert job.started_at is job.finished_at is None


def test_what_is_not_there_is_not_found(jobs):
    for look in (jobs.get, jobs.summary, jobs.cancel, jobs.reopen):
        with pytest.raises(NotFound, match="no-such-job"):
            look("no-such-job")
    with pytest.raises(UsageError, match="dance"):
        jobs.create("dance", {})


class TestIdempotencyKey:
    def test_the_same_request_is_the_same_job(self, jobs):
        first = jobs.create("publish", {"refs": [A], "all": None}, [A], "key")
        again = jobs.create("publish", {"all": None, "refs": [A]}, [A], "key")
        assert first[1]
        assert again == (first[0], False)
        assert len(jobs.recent()) == 1

    def test_another_request_is_refused(self, jobs):
        jobs.create("publish", {"refs": [A]}, [A], "key")
        with pytest.raises(UsageError, match="Idempotency-Key"):
            jobs.create("publish", {"refs": [B]}, [B], "key")

    def test_without_a_key_every_request_is_a_job(self, jobs):
        assert jobs.create("sync", {})[0] != jobs.create("sync", {})[0]


class TestProgress:
    def test_an_item_is_done_with_its_kinds_last_step(self, jobs, publish):
        job_id = publish(A)
        for step in ("embed", "upload", "publish"):
            assert jobs.note(step, {A: DONE}) == [job_id]
            job = jobs.get(job_id)
            assert (job.state, job.items[0].step) == (JobState.RUNNING, step)
        jobs.note("settle", {A: DONE})
        job = jobs.get(job_id)
        assert (job.state, job.succeeded, job.is_finished) == (JobState.SUCCEEDED, 1, True)
        assert job.started_at is not None
        assert job.finished_at is not None

    def test_whatever_task_brings_a_ref_forward_every_job_of_it_moves(self, jobs, publish):
        first, second = publish(A, B), publish(A)
        embed = jobs.create("embed", {}, [A])[0]
        assert set(jobs.note("embed", {A: DONE})) == {first, second, embed}
        assert jobs.get(embed).state is JobState.SUCCEEDED
        assert states(jobs, first) == {A: "running", B: "queued"}
        assert set(jobs.note("settle", {A: DONE})) == {first, second}
        assert jobs.get(second).state is JobState.SUCCEEDED
        assert jobs.get(first).state is JobState.RUNNING

    def test_what_is_at_its_end_is_not_moved_again(self, jobs, publish):
        job_id = publish(A, B)
        jobs.note("settle", {A: DONE})
        jobs.note("upload", {B: FAILED})
        assert jobs.note("embed", {A: FAILED, B: DONE}) == []
        assert states(jobs, job_id) == {A: "succeeded", B: "failed"}

    def test_a_failure_is_kept_where_the_user_looks(self, jobs, publish):
        job_id = publish(A)
        jobs.note("upload", {A: FAILED})
        item = jobs.get(job_id).items[0]
        assert (item.step, item.error_type, item.error) == (
            "upload",
            "StorageError",
            "The disk is full.",
        )
        assert item.attempts == 1

    def test_a_deferred_item_waits_and_is_not_reopened_by_an_earlier_step(self, jobs, publish):
        job_id = publish(A)
        jobs.note("publish", {A: DEFERRED})
        jobs.note("embed", {A: DONE})  # a later sync runs the whole chain again
        item = jobs.get(job_id).items[0]
        assert (item.state, item.step, item.next_attempt_at) == ("deferred", "publish", 1234)
        assert jobs.get(job_id).is_finished, "no worker has anything left to do for it now"

        jobs.note("publish", {A: DEFERRED})
        assert jobs.get(job_id).items[0].attempts == 2
        jobs.note("settle", {A: DONE})
        item = jobs.get(job_id).items[0]
        assert (item.state, item.error, item.next_attempt_at) == ("succeeded", None, None)

    def test_one_that_waits_for_another_worker_says_nothing(self, jobs, publish):
        job_id = publish(A)
        assert jobs.note("upload", {A: WAITING}) == []
        assert jobs.note("upload", {}) == []
        assert states(jobs, job_id) == {A: "queued"}

    def test_many_refs_at_once(self, jobs):
        refs = [f"p{n}@1.0.0" for n in range(1001)]
        job_id = jobs.create("embed", {}, refs)[0]
        jobs.note("embed", dict.fromkeys(refs, DONE))
        assert (jobs.summary(job_id).succeeded, jobs.summary(job_id).state) == (1001, "succeeded")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([DONE, DONE, DONE], "succeeded"),
        ([DONE, DONE, None], "running"),
        ([FAILED, DEFERRED, None], "running"),
        ([DONE, FAILED, DONE], "partial"),
        ([DONE, DEFERRED, DEFERRED], "partial"),
        ([DONE, SKIPPED, SKIPPED], "partial"),
        ([FAILED, FAILED, DEFERRED], "failed"),
        ([DEFERRED, DEFERRED, DEFERRED], "queued"),
        ([SKIPPED, SKIPPED, SKIPPED], "cancelled"),
    ],
    ids=str,
)
def test_a_jobs_state_is_its_items(jobs, publish, outcomes, expected):
    names = {DONE: "done", FAILED: "failed"}
    for order in {tuple(order) for order in itertools.permutations(outcomes)}:
        job_id = publish(A, B, C)
        noted = {ref: outcome for ref, outcome in zip((A, B, C), order, strict=True) if outcome}
        jobs.note("settle", noted)
        assert jobs.summary(job_id).state == expected, [names.get(item, item) for item in order]
        jobs.cancel(job_id)


class TestCancel:
    def test_stops_what_is_not_done_and_keeps_what_is(self, jobs, publish):
        job_id = publish(A, B, C)
        jobs.note("settle", {A: DONE, B: DEFERRED})
        job = jobs.cancel(job_id)
        assert states(jobs, job_id) == {A: "succeeded", B: "cancelled", C: "cancelled"}
        assert (job.state, job.is_finished) == (JobState.CANCELLED, True)
        assert jobs.is_cancelled(job_id)
        assert not jobs.is_cancelled(None)

    def test_a_message_that_still_comes_changes_nothing(self, jobs, publish):
        job_id = publish(A)
        jobs.cancel(job_id)
        jobs.start(job_id)
        jobs.note("settle", {A: DONE})
        assert jobs.get(job_id).state is JobState.CANCELLED
        assert states(jobs, job_id) == {A: "cancelled"}

    def test_what_has_ended_stays_as_it_ended(self, jobs, publish):
        job_id = publish(A)
        jobs.note("settle", {A: DONE})
        assert jobs.cancel(job_id).state is JobState.SUCCEEDED

    def test_other_jobs_of_the_same_ref_go_on(self, jobs, publish):
        cancelled, other = publish(A), publish(A)
        jobs.cancel(cancelled)
        jobs.note("settle", {A: DONE})
        assert jobs.get(other).state is JobState.SUCCEEDED


class TestReopen:
    def test_queues_what_failed_waited_or_was_cancelled(self, jobs, publish):
        job_id = publish(A, B, C)
        jobs.note("settle", {A: DONE, B: FAILED})
        jobs.cancel(job_id)
        assert set(jobs.reopen(job_id)) == {B, C}
        job = jobs.get(job_id)
        assert (job.state, job.finished_at) == (JobState.QUEUED, None)
        assert states(jobs, job_id) == {A: "succeeded", B: "queued", C: "queued"}
        assert [item.error for item in job.items] == [None] * 3
        assert not jobs.is_cancelled(job_id)

        jobs.note("settle", {B: DONE, C: DONE})
        assert jobs.get(job_id).state is JobState.SUCCEEDED

    def test_leaves_a_job_with_nothing_to_do_again_as_it_is(self, jobs, publish):
        job_id = publish(A)
        jobs.note("settle", {A: DONE})
        assert jobs.reopen(job_id) == []
        assert jobs.get(job_id).state is JobState.SUCCEEDED


class TestJobsThatAreOneTask:
    def test_are_closed_by_it(self, jobs):
        job_id = jobs.create("verify", {})[0]
        jobs.start(job_id)
        assert jobs.get(job_id).state is JobState.RUNNING
        jobs.finish(job_id, JobState.FAILED, result={"problems": []}, error="Too bad.")
        job = jobs.get(job_id)
        assert (job.state, job.result, job.error) == ("failed", {"problems": []}, "Too bad.")

    def test_may_learn_their_refs_late_and_twice(self, jobs):
        job_id = jobs.create("reindex", {})[0]
        jobs.start(job_id)
        jobs.add_items(job_id, [A, B])
        jobs.note("embed", {A: DONE})
        jobs.add_items(job_id, [A, B])  # the message was delivered again
        assert states(jobs, job_id) == {A: "succeeded", B: "queued"}
        assert jobs.get(job_id).total == 2
        jobs.note("embed", {B: DONE})
        assert jobs.get(job_id).state is JobState.SUCCEEDED

    def test_without_any_ref_are_done(self, jobs):
        job_id = jobs.create("reindex", {})[0]
        jobs.add_items(job_id, [])
        assert jobs.get(job_id).state is JobState.SUCCEEDED


def test_the_newest_come_first_even_within_a_second(jobs, publish):
    made = [publish(A) for _ in range(20)]
    assert [job.job_id for job in jobs.recent(15)] == made[::-1][:15]
    assert [job.job_id for job in jobs.unfinished()] == made, "the oldest is worked on first"
    assert jobs.recent(1)[0].total == 1
    assert jobs.counts() == {"queued": 20}


def test_a_summary_counts_as_the_whole_job_does(jobs, publish):
    job_id = publish(A, B, C)
    jobs.note("settle", {A: DONE, B: FAILED, C: DEFERRED})
    whole, summary = jobs.get(job_id).as_json(), jobs.summary(job_id).as_json()
    assert {**whole, "items": []} == summary
    assert (whole["succeeded"], whole["failed"], whole["deferred"]) == (1, 1, 1)
    assert [item["ref"] for item in whole["items"]] == [A, B, C]
