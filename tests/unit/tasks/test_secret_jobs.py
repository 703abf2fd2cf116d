"""The caller's secrets gate travels with jobs, and a sync tells of edits before it queues."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder

from core.errors import NotFound, Refused, UsageError
from core.journal import JobState
from core.journal.leases import SYNC
from core.models import Ref, Strategy
from core.service import PlaybookService
from tasks import broker, jobs, sync_round, workflows
from tasks.submitting import import_
from tasks.submitting import submit as submit_task

LEAK = b"export AWS_ACCESS_KEY_ID=" + b"AKIA" + b"Q3EGZ7XN5LWTM2RB\n"
LEAKY = Ref("leaky-thing", "1.0.0")


@pytest.fixture
def leaky(service: PlaybookService) -> Ref:
    return service.create(
        draft("Leaky thing", files={"shell/main.sh": LEAK}), strategy=Strategy.LOCAL_ONLY
    ).ref


def gate_of(service: PlaybookService, ref: Ref) -> str | None:
    record = service.journal.versions.get(ref)
    assert record is not None
    return record.publish_gate


class TestPublish:
    def test_the_askers_setting_is_kept_with_the_version(self, service, leaky) -> None:
        clean = service.create(draft("Clean thing")).ref
        jobs.submit(service, "publish", refs=[str(clean)], as_="review", secrets_gate="block")
        assert gate_of(service, clean) == "block"
        with pytest.raises(Refused, match="AWS Access Key"):
            jobs.submit(service, "publish", refs=[str(leaky)], as_="review", secrets_gate="block")

    def test_a_program_that_speaks_celery_has_one_too(self, service, leaky) -> None:
        with pytest.raises(Refused, match="AWS Access Key"):
            submit_task.apply(
                args=["publish"],
                kwargs={"refs": [str(leaky)], "as_": "review", "secrets_gate": "block"},
                throw=True,
            )
        with pytest.raises(UsageError, match="secrets_gate"):
            jobs.submit(service, "publish", refs=[str(leaky)], secrets_gate="strict")

    def test_nothing_laxer_than_the_workers_own_is_kept(self, service, leaky) -> None:
        service.settings.secrets_gate = "warn"
        jobs.submit(service, "publish", refs=[str(leaky)], as_="review", secrets_gate="off")
        assert gate_of(service, leaky) == "warn"

    def test_a_retry_keeps_the_first_askers(self, service) -> None:
        clean = service.create(draft("Clean thing")).ref
        job = jobs.submit(service, "publish", refs=[str(clean)], as_="review", secrets_gate="block")
        jobs.cancel(service, job.job_id)
        assert gate_of(service, clean) is None  # the wish was taken back
        service.publisher.request([clean], Strategy.REVIEW, gate="block")
        service.sync.retry_set_aside()
        assert gate_of(service, clean) == "block"

    def test_findings_are_accepted_with_the_job(self, service, leaky) -> None:
        service.settings.secrets_gate = "block"
        [finding] = service.findings(leaky)
        accept = [(finding.key, "AWS's own example")]
        with pytest.raises(NotFound):
            jobs.submit(service, "publish", refs=[str(leaky)], accept_findings=[("no", "x")])
        with pytest.raises(UsageError):
            jobs.submit(service, "publish", all_=True, accept_findings=accept)
        with pytest.raises(UsageError):
            jobs.submit(service, "embed", refs=[str(leaky)], accept_findings=accept)
        job = jobs.submit(
            service, "publish", refs=[str(leaky)], as_="review", accept_findings=accept
        )
        assert job.total == 1
        assert job.request["accept_findings"] == [finding.key]


def test_an_import_job_keeps_its_askers_setting(service, tmp_path: Path) -> None:
    write_folder(tmp_path / "many/one", draft("Leaky thing", files={"shell/main.sh": LEAK}))
    job_id, _ = service.journal.jobs.create("import", {"secrets_gate": "block"})
    import_.apply(args=[str(tmp_path / "many"), job_id, "review"], throw=True)
    job = service.journal.jobs.summary(job_id)
    assert [(f["playbook_id"], f["line"]) for f in job.result["findings"]] == [("leaky-thing", 1)]
    record = service.journal.versions.get(LEAKY)
    assert (record.publish_gate, record.revision) == ("block", None)


def test_a_sync_writes_the_findings_of_edits_down_before_it_queues(
    service, leaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.settings.edit_quiet_seconds = 0
    folder = service.store.folder(leaky)
    (folder / "shell/main.sh").write_bytes(b"\n\n" + LEAK)
    job_id = service.journal.jobs.create(SYNC, {"secrets_gate": "block"})[0]
    seen: list[Any] = []

    def dispatch(signature: Any, *, inline: bool, countdown: float | None = None) -> None:
        if not seen:
            job = service.journal.jobs.summary(job_id)
            seen.append((job.state, job.result))

    monkeypatch.setattr(workflows, "dispatch", dispatch)
    time.sleep(0.01)
    sync_round.run(service, job_id, lambda: broker.UnderWay(frozenset(), {}))
    [(state, result)] = seen
    assert state is JobState.RUNNING
    assert [(f["playbook_id"], f["line"]) for f in result["findings"]] == [("leaky-thing", 3)]
    report = service.journal.jobs.summary(job_id).result
    assert report["findings"] == result["findings"]
