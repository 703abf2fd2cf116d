"""Jobs: ask for work, and see how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from core.models import Ref
from core.secrets import SecretFinding, findings_json
from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.events import job_events
from escher_playbooks.api.schemas import JobBody
from tasks import jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=BoundedRoute)
Json = dict[str, Any]


@router.post("", status_code=HTTPStatus.ACCEPTED)
def submit(
    body: JobBody,
    service: Service,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Json:
    """Make a job. The same Idempotency-Key and body again: the same job again.

    ``findings`` of a ``publish``: what looks like a secret in the versions that are queued by it.
    """
    found: dict[Ref, Sequence[SecretFinding]] = {}
    job = jobs.submit(
        service,
        body.kind,
        refs=body.refs,
        all_=body.all_,
        as_=body.as_,
        path=body.path,
        format_=body.format,
        from_=body.from_,
        secrets_gate=body.secrets_gate,
        accept_findings=[(item.key, item.reason) for item in body.accept_findings],
        on_findings=found.update,
        accept_deletions=body.accept_deletions,
        idempotency_key=idempotency_key,
    )
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return {"job_id": job.job_id, **({"findings": findings_json(found)} if found else {})}


@router.get("")
def list_jobs(service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Json:
    """The newest jobs first, without their items."""
    return {"items": [job.as_json(with_items=False) for job in service.journal.jobs.recent(limit)]}


@router.get("/{job_id}")
def show(job_id: str, service: Service) -> Json:
    """One job with each of its items."""
    return service.journal.jobs.get(job_id).as_json()


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(job_id: str, service: Service) -> EventSourceResponse:
    """Server-Sent Events: ``progress`` whenever the counts change, and a last ``done``."""
    summary = service.journal.jobs.summary
    await run_in_threadpool(summary, job_id)  # an unknown job is a 404, not a broken stream
    return EventSourceResponse(job_events(lambda: summary(job_id)))


@router.delete("/{job_id}")
def cancel(job_id: str, service: Service) -> Json:
    """Stop what has not been done; what is published stays published."""
    return jobs.cancel(service, job_id).as_json()


@router.post("/{job_id}/retry", status_code=HTTPStatus.ACCEPTED)
def retry(job_id: str, service: Service, response: Response) -> Json:
    """Queue the failed, deferred and cancelled items again."""
    job = jobs.retry(service, job_id)
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return {"job_id": job.job_id}
