"""Flow 3 as tasks: bytes into staging, hashed again and promoted by a task of its own, evicted.

The eviction keeps the cache within its size and age: hourly by beat, and at the end of a download.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Signature

from core.journal import JobState
from core.models import RESERVED_PREFIX
from tasks import jobs, workflows
from tasks.app import app
from tasks.base import ServiceTask, logger, run_step, still_waiting, whole_job


@app.task(bind=True, base=ServiceTask, name="playbooks.download")
def download(
    self: ServiceTask,
    refs: list[str],
    job_id: str | None = None,
    format: str | None = None,  # noqa: A002  the contract's name
) -> dict[str, Any]:
    """Bring the scripts of these versions (one format, or all) into the cache's staging."""
    scripts = self.service.scripts
    return run_step(
        self.service,
        "download",
        refs,
        job_id,
        lambda batch: scripts.download(batch, format),
        own_job_only=True,
    )


@app.task(bind=True, base=ServiceTask, name="playbooks.verify")
def verify(
    self: ServiceTask,
    refs: list[str],
    job_id: str | None = None,
    format: str | None = None,  # noqa: A002  as above
    again: int = 0,
) -> dict[str, Any]:
    """Hash the staged bytes again; what is right, and only that, is promoted into the cache."""
    scripts = self.service.scripts
    outcomes = run_step(
        self.service,
        "verify",
        refs,
        job_id,
        lambda batch: scripts.verify(batch, format),
        own_job_only=True,
    )
    if not self.request.is_eager:
        if any(ref.startswith(RESERVED_PREFIX) for ref in refs):
            jobs.library_changed(self.service)
        # a resolve may have one of them in hand

        def make(waiting: Sequence[str], job: str | None, times: int) -> Signature:
            return workflows.download(waiting, job, format, times)

        workflows.go_again(make, still_waiting(outcomes), job_id, again=again)
    return outcomes


@app.task(bind=True, base=ServiceTask, name="playbooks.evict")
def evict(
    self: ServiceTask, refs: list[str] | None = None, job_id: str | None = None
) -> dict[str, Any]:
    """Evict what is over the age or the size, and put the index right.

    ``refs`` is what a chain brought here; which scripts go is the cache's choice alone. ``job_id``
    is given only when the eviction is what the job is about.
    """
    del refs
    service = self.service
    if job_id is None:
        report = service.script_manager.evict().as_json()
    else:
        if service.journal.jobs.is_cancelled(job_id):
            return {"bytes_freed": 0}
        with whole_job(service, job_id):
            report = service.script_manager.evict().as_json()
        service.journal.jobs.finish(job_id, JobState.SUCCEEDED, result=report)
    logger.info("evict: %s", report)
    return report
