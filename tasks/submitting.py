"""The doors for programs that speak Celery, and the jobs that are one task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.journal import JobState
from tasks.app import app
from tasks.base import ServiceTask, whole_job


@app.task(bind=True, base=ServiceTask, name="playbooks.submit")
def submit(
    self: ServiceTask,
    kind: str,
    refs: list[str] | None = None,
    all: bool = False,  # noqa: A002  the contract's name
    as_: str | None = None,
    path: str | None = None,
    format: str | None = None,  # noqa: A002  the contract's name
    from_: str | None = None,
    idempotency_key: str | None = None,
    secrets_gate: str | None = None,
    accept_findings: list[dict[str, str]] | None = None,
    accept_deletions: bool = False,
) -> str:
    """Make the same job as ``POST /v1/jobs``; its id."""
    from tasks import jobs

    # a message that is delivered twice makes one job
    key = idempotency_key or f"celery:{self.request.id}"
    job = jobs.submit(
        self.service,
        kind,
        refs=refs,
        all_=all,
        as_=as_,
        path=path,
        format_=format,
        from_=from_,
        secrets_gate=secrets_gate,
        accept_findings=[
            (str(i.get("key")), str(i.get("reason", ""))) for i in accept_findings or ()
        ],
        accepted_by="celery",
        accept_deletions=accept_deletions,
        idempotency_key=key,
        inline=bool(self.request.is_eager),
    )
    return job.job_id


@app.task(bind=True, base=ServiceTask, name="playbooks.import")
def import_(
    self: ServiceTask,
    path: str,
    job_id: str,
    strategy: str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Take in a folder or archive that this machine can read; what is there already stays.

    ``source``: the tool whose runbooks they are, where they are no playbooks.
    """
    from core.models import Strategy

    service = self.service
    journal_jobs = service.journal.jobs
    if journal_jobs.is_cancelled(job_id):
        return {"imported": 0, "failed": 0}
    with whole_job(service, job_id):
        report = service.import_path(
            Path(path),
            source=source,
            strategy=Strategy.parse(strategy) if strategy else None,
            gate=journal_jobs.summary(job_id).request.get("secrets_gate"),
        )
    state = JobState.SUCCEEDED
    if report.failed:
        state = JobState.PARTIAL if report.imported else JobState.FAILED
    journal_jobs.finish(job_id, state, result=report.as_json())
    from tasks import jobs

    jobs.changed(service, report.imported, inline=bool(self.request.is_eager))
    return {"imported": len(report.imported), "failed": len(report.failed)}
