"""Submitting, running and retrying jobs; how they end is in test_job_endings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder

from core.errors import BrokerUnreachable, NotFound, Refused, UsageError
from core.journal import JobState
from core.journal.jobs import KINDS
from core.models import Ref, Strategy
from core.service import PlaybookService
from tasks import jobs, workflows
from tasks.job_kinds import JOB_KINDS

PUBLIC = {"strategy": Strategy.REVIEW}


@pytest.fixture
def ref(service: PlaybookService) -> Ref:
    return service.create(draft()).ref


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A broker that takes everything; what it was sent."""
    sent: list[Any] = []
    monkeypatch.setattr(jobs, "is_running", lambda _: True)
    monkeypatch.setattr(workflows, "dispatch", lambda signature, inline: sent.append(signature))
    return sent


class TestSubmit:
    @pytest.mark.parametrize(
        ("kind", "options", "error"),
        [
            ("dance", {}, UsageError),
            ("dance", {"refs": ["stop-idle-databases"]}, UsageError),
            ("publish", {}, UsageError),
            ("publish", {"refs": []}, UsageError),
            ("embed", {}, UsageError),
            ("delete", {}, UsageError),
            ("publish", {"refs": ["stop-idle-databases"], "as_": "dance"}, UsageError),
            ("publish", {"refs": ["nope"], "as_": "review"}, NotFound),
            ("publish", {"refs": ["stop-idle-databases@9.0.0"]}, NotFound),
            ("publish", {"refs": ["stop-idle-databases"]}, Refused),
            ("import", {}, UsageError),
            ("import", {"path": "/no/such/path"}, NotFound),
            ("import", {"path": "/", "from_": "chef"}, UsageError),
            ("download", {}, UsageError),
            ("download", {"refs": ["stop-idle-databases"], "format_": "cobol"}, UsageError),
        ],
        ids=str,
    )
    def test_a_wrong_request_makes_no_job(
        self, service, ref, kind: str, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            jobs.submit(service, kind, **options)
        assert service.journal.jobs.recent() == []

    def test_with_nothing_to_do_is_done(self, service, ref) -> None:
        job = jobs.submit(service, "publish", all_=True)
        assert (job.state, job.total) == (JobState.SUCCEEDED, 0)

    def test_of_several_publishes_what_may_be_and_leaves_out_the_rest(self, service, ref) -> None:
        public = service.create(draft("Rotate access keys"), **PUBLIC).ref
        job = jobs.submit(service, "publish", refs=[ref.playbook_id, public.playbook_id])
        assert [item.ref for item in service.journal.jobs.get(job.job_id).items] == [str(public)]

    def test_without_up_waits_in_the_journal(self, service, ref) -> None:
        job = jobs.submit(service, "embed", all_=True)
        assert (job.state, job.total) == (JobState.QUEUED, 1)
        assert service.journal.versions.unindexed() == [ref]

    def test_without_up_and_with_wait_runs_here(self, service, ref) -> None:
        told: list[int] = []
        job = jobs.submit(
            service, "embed", all_=True, wait=True, on_progress=lambda j: told.append(j.succeeded)
        )
        assert (job.state, job.succeeded) == (JobState.SUCCEEDED, 1)
        assert told[-1] == 1
        assert service.journal.versions.unindexed() == []

    def test_with_up_sends_batches(self, service, broker: list[Any]) -> None:
        for number in range(5):
            service.create(draft(f"Playbook {number}"))
        service.settings.publish_batch_size = 2
        job = jobs.submit(service, "embed", all_=True)
        assert [len(signature.args[0]) for signature in broker] == [2, 2, 1]
        assert {signature.args[1] for signature in broker} == {job.job_id}
        assert job.state is JobState.QUEUED

    def test_a_key_makes_one_job_of_two_requests(self, service, ref, broker: list[Any]) -> None:
        first = jobs.submit(service, "embed", all_=True, idempotency_key="k")
        again = jobs.submit(service, "embed", all_=True, idempotency_key="k")
        assert (again.job_id, len(broker)) == (first.job_id, 1)

    def test_a_deletion_asked_for_twice_under_a_key_is_one(self, service, ref) -> None:
        first = jobs.submit(service, "delete", refs=[ref.playbook_id], idempotency_key="k")
        assert first.state is JobState.SUCCEEDED, "what never left this machine is gone at once"
        again = jobs.submit(service, "delete", refs=[ref.playbook_id], idempotency_key="k")
        assert again.job_id == first.job_id

    def test_a_key_of_another_kind_is_another_request(self, service, broker: list[Any]) -> None:
        jobs.submit(service, "sync", idempotency_key="k")
        with pytest.raises(UsageError, match="Idempotency-Key"):
            jobs.submit(service, "verify", idempotency_key="k")

    def test_a_broker_that_goes_between_leaves_the_job_to_the_next_sync(
        self, service, ref, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(*_: object, **__: object) -> None:
            raise BrokerUnreachable("Gone.", "Start it.")

        monkeypatch.setattr(jobs, "is_running", lambda _: True)
        monkeypatch.setattr(workflows, "dispatch", gone)
        job = jobs.submit(service, "embed", all_=True)
        assert job.state is JobState.QUEUED
        with pytest.raises(BrokerUnreachable):
            jobs.submit(service, "embed", all_=True, wait=True)


class TestWholeJobs:
    def test_an_import_of_runbooks_tells_what_it_drops(self, service, tmp_path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("- {name: Restart it, retry: 2, sequence: {commands: [{exec: 'true'}]}}\n")
        job = jobs.submit(service, "import", path=str(path), from_="rundeck", wait=True)
        assert job.state is JobState.SUCCEEDED
        assert job.result is not None
        assert job.result["dropped"] == {"restart-it@1.0.0": ["the retries"]}
        assert job.request["from"] == "rundeck"

    def test_import_takes_in_and_embeds(self, service, tmp_path: Path) -> None:
        write_folder(tmp_path / "in" / "one", draft("One of them"))
        write_folder(tmp_path / "in" / "two", draft("Two of them", cloud_provider=["oracle"]))
        job = jobs.submit(service, "import", path=str(tmp_path / "in"), wait=True)
        assert job.state is JobState.PARTIAL
        assert job.result is not None
        assert (job.result["imported"], len(job.result["failed"])) == (1, 1)
        assert {j.kind: j.state.value for j in service.journal.jobs.recent()} == {
            "embed": "succeeded",
            "import": "partial",
        }

    def test_reindex_makes_every_point_again(self, service, ref) -> None:
        service.index_pending()
        job = jobs.submit(service, "reindex", wait=True)
        assert (job.state, job.succeeded) == (JobState.SUCCEEDED, 1)
        assert service.journal.versions.unindexed() == []

    def test_verify_fails_with_its_findings(self, service, ref) -> None:
        service.index_pending()
        assert jobs.submit(service, "verify", wait=True).state is JobState.SUCCEEDED
        (service.store.folder(ref) / "shell" / "main.sh").write_text("changed\n")
        job = jobs.submit(service, "verify", wait=True)
        assert job.state is JobState.FAILED
        assert job.result is not None
        assert job.result["problems"][0]["ref"] == str(ref)


class TestCancelAndRetry:
    def test_a_cancelled_publication_is_not_wanted_any_more(self, service) -> None:
        ref = service.create(draft(), **PUBLIC).ref
        job = jobs.submit(service, "publish", refs=[str(ref)])
        assert service.sync.difference().publish == [ref]
        assert jobs.cancel(service, job.job_id).state is JobState.CANCELLED
        assert service.sync.difference().publish == []

        again = jobs.retry(service, job.job_id)
        assert (again.state, again.cancelled) == (JobState.QUEUED, 0)
        assert service.sync.difference().publish == [ref]

    def test_what_succeeded_is_not_done_again(self, service, ref) -> None:
        job = jobs.submit(service, "embed", refs=[str(ref)], wait=True)
        again = jobs.retry(service, job.job_id, wait=True)
        assert (again.state, again.succeeded) == (JobState.SUCCEEDED, 1)

    def test_nothing_asked_for_again_is_still_done(self, service) -> None:
        job = jobs.submit(service, "publish", all_=True)
        assert jobs.retry(service, job.job_id, wait=True).state is JobState.SUCCEEDED


def test_a_search_without_up_indexes_first(service, ref) -> None:
    answer = jobs.search(service, "idle databases")
    assert not answer.degraded
    assert answer.results[0].playbook_id == ref.playbook_id


def test_waiting_has_an_end(service, ref, broker: list[Any]) -> None:
    job = jobs.submit(service, "embed", all_=True)
    assert jobs.wait_for(service, job.job_id, timeout=0).state is JobState.QUEUED


def test_the_journal_takes_the_kinds_that_there_are_workflows_for() -> None:
    assert set(JOB_KINDS) == set(KINDS)
