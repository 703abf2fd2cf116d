"""Flow 2, behind the embedding: upload scripts, publish metadata, settle; and delete."""

from __future__ import annotations

from typing import Any

from core.models import OutcomeState
from tasks import workflows
from tasks.app import app
from tasks.base import ServiceTask, run_step


@app.task(bind=True, base=ServiceTask, name="playbooks.upload")
def upload(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Bring the files of these versions to the tenant space."""
    service = self.service
    return run_step(service, "upload", refs, job_id, service.publisher.upload)


@app.task(bind=True, base=ServiceTask, name="playbooks.publish")
def publish(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Commit the metadata of these versions at the server."""
    service = self.service
    return run_step(service, "publish", refs, job_id, service.publisher.publish)


@app.task(bind=True, base=ServiceTask, name="playbooks.settle")
def settle(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Move published versions to ``synced/`` and have their points follow."""
    service = self.service
    outcomes = run_step(service, "settle", refs, job_id, service.publisher.settle)
    settled = [ref for ref, outcome in outcomes.items() if outcome["state"] == OutcomeState.DONE]
    if settled:
        # the status has changed and with it the payload; the vector is known, so this is cheap
        refresh = workflows.embed(settled, job_id)
        workflows.dispatch(refresh, inline=bool(self.request.is_eager))
    return outcomes


@app.task(bind=True, base=ServiceTask, name="playbooks.delete")
def delete(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Delete these versions on the server, and here once it has confirmed."""
    service = self.service
    outcomes = run_step(service, "delete", refs, job_id, service.publisher.delete)
    workflows.dispatch(workflows.unindex(refs, job_id), inline=bool(self.request.is_eager))
    return outcomes
