"""Keeping the script cache within its size and age: hourly by beat, and at the end of a download."""

from __future__ import annotations

from typing import Any

from core.journal import JobState
from tasks.app import app
from tasks.base import ServiceTask, logger, whole_job


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
        report = service.evict_cache().as_json()
    else:
        if service.journal.jobs.is_cancelled(job_id):
            return {"bytes_freed": 0}
        with whole_job(service, job_id):
            report = service.evict_cache().as_json()
        service.journal.jobs.finish(job_id, JobState.SUCCEEDED, result=report)
    logger.info("evict: %s", report)
    return report
