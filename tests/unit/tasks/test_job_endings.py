"""Jobs without a broker: what is journalled ends, whoever does the work in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.playbooks import draft

from core.errors import ModelUnavailable
from core.journal import JobState
from core.models import Outcome, Ref, Strategy, SyncState
from core.service import PlaybookService
from core.settings import Settings
from tasks import jobs, sync_round
from tasks.base import run_step
from tasks.sync_round import close_settled

REF = Ref("stop-idle-databases", "1.0.0")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PlaybookService]:
    # nothing listens at port 1: the server is away
    settings = Settings(_env_file=None, home=tmp_path / "home", server_url="http://127.0.0.1:1")  # type: ignore[call-arg]  # pydantic-settings' own argument
    with PlaybookService.open(settings) as opened:
        yield opened


def state(service: PlaybookService, job_id: str) -> JobState:
    return service.journal.jobs.get(job_id).state


def indexed(service: PlaybookService, ref: Ref) -> None:
    record = service.journal.versions.get(ref)
    assert record is not None
    service.journal.versions.set(ref, indexed_digest=record.index_digest)


def test_an_indexing_that_another_process_did_is_done(service: PlaybookService) -> None:
    service.create(draft())
    job = jobs.changed(service, [REF])
    indexed(service, REF)  # as `search` without `up` does
    close_settled(service)
    assert state(service, job.job_id) is JobState.SUCCEEDED


def test_what_is_still_to_be_done_stays_open(service: PlaybookService) -> None:
    service.create(draft(), strategy=Strategy.parse("review"))
    job = jobs.changed(service, [REF])
    close_settled(service)
    assert state(service, job.job_id) is JobState.QUEUED


def test_a_publication_ends_with_its_version(service: PlaybookService) -> None:
    service.create(draft(), strategy=Strategy.parse("review"))
    job = jobs.changed(service, [REF])
    service.delete(str(REF))
    close_settled(service)
    assert state(service, job.job_id) is JobState.CANCELLED


def test_a_sync_does_what_earlier_syncs_were_asked_for(service: PlaybookService) -> None:
    asked = jobs.submit(service, "sync")
    assert asked.state is JobState.QUEUED
    sync_round.run(service, None, lambda: None)
    assert state(service, asked.job_id) is JobState.SUCCEEDED


def test_the_same_request_again_is_the_same_job_even_when_it_is_done(
    service: PlaybookService,
) -> None:
    service.create(draft())
    first = jobs.submit(service, "publish", refs=[str(REF)], as_="review", idempotency_key="k")
    service.delete(str(REF))
    again = jobs.submit(service, "publish", refs=[str(REF)], as_="review", idempotency_key="k")
    assert again.job_id == first.job_id


def test_a_cancelled_publication_tried_again_keeps_the_users_choice(
    service: PlaybookService,
) -> None:
    service.create(draft(), strategy=Strategy.parse("keep"))
    job = jobs.submit(service, "publish", refs=[str(REF)], as_="review")
    jobs.cancel(service, job.job_id)
    jobs.retry(service, job.job_id)
    record = service.journal.versions.get(REF)
    assert record is not None
    assert record.sync_state is SyncState.PENDING
    assert record.publish_as == Strategy.parse("review")


def test_a_step_that_can_not_work_for_anyone_fails_its_items(service: PlaybookService) -> None:
    service.create(draft())
    job = jobs.changed(service, [REF])

    def no_model(_refs: object) -> dict[Ref, Outcome]:
        raise ModelUnavailable("No model.", "Install it.")

    with pytest.raises(ModelUnavailable):
        run_step(service, "embed", [str(REF)], job.job_id, no_model)
    found = service.journal.jobs.get(job.job_id)
    assert found.state is JobState.FAILED
    assert found.items[0].error_type == "ModelUnavailable"
