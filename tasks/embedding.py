"""The tasks of the one process that holds the model and the embedded collection."""

from __future__ import annotations

from typing import Any

from core.journal import JobState
from core.models import DONE
from tasks.app import app
from tasks.base import ServiceTask, logger, run_step, whole_job


@app.task(bind=True, base=ServiceTask, name="playbooks.embed")
def embed(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Bring the points of these versions up to date; what is up to date costs nothing."""
    service = self.service
    return run_step(service, "embed", refs, job_id, service.index_refs)


@app.task(bind=True, base=ServiceTask, name="playbooks.unindex")
def unindex(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Remove the points of versions that are gone; those that are (again) there stay."""
    logger.info("job %s unindex: %d versions", job_id, len(refs))
    self.service.indexing.tidy()
    return {ref: DONE.as_json() for ref in refs}


@app.task(bind=True, base=ServiceTask, name="playbooks.reindex")
def reindex(self: ServiceTask, job_id: str) -> dict[str, Any]:
    """Drop the collection and queue every version of the home for embedding."""
    from tasks import workflows

    service = self.service
    if service.journal.jobs.is_cancelled(job_id):
        return {"versions": 0}
    with whole_job(service, job_id):
        service.indexing.drop()
        refs = [str(ref) for ref in service.indexing.sources.refs()]
        service.journal.jobs.add_items(job_id, refs)
    batches = list(workflows.batched(refs, service.settings.publish_batch_size))
    for batch in batches:
        workflows.dispatch(workflows.embed(batch, job_id), inline=bool(self.request.is_eager))
    return {"versions": len(refs)}


@app.task(bind=True, base=ServiceTask, name="playbooks.audit")
def audit(self: ServiceTask, job_id: str) -> dict[str, Any]:
    """Check every file, row and point against each other (the job kind ``verify``)."""
    service = self.service
    if service.journal.jobs.is_cancelled(job_id):
        return {"problems": 0}
    with whole_job(service, job_id):
        report = service.verify()
    state = JobState.SUCCEEDED if report.clean else JobState.FAILED
    service.journal.jobs.finish(job_id, state, result=report.as_json())
    return {"problems": len(report.problems)}


@app.task(bind=True, base=ServiceTask, name="playbooks.search")
def search(
    self: ServiceTask, query: str, filters: dict[str, Any] | None = None, limit: int = 10
) -> dict[str, Any]:
    """Search the collection: metadata and scores, never script text."""
    answer = self.service.indexing.search(query, filters or {}, limit)
    logger.info("search answered with %d results", len(answer.results))
    return answer.as_json()
