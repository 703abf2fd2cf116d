"""Flow 2, behind the embedding: upload scripts, publish metadata, settle; and delete."""

from __future__ import annotations

from typing import Any

from core.models import OutcomeState, Ref, SyncState
from tasks import workflows
from tasks.app import app
from tasks.base import ServiceTask, run_step, still_waiting


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
def settle(
    self: ServiceTask, refs: list[str], job_id: str | None = None, again: int = 0
) -> dict[str, Any]:
    """Move published versions to ``synced/`` and have their points follow.

    Two chains may meet at one version, and each find it leased by the other at another step: what
    still waits at the end is gone through once more, soon.
    """
    service = self.service
    outcomes = run_step(service, "settle", refs, job_id, service.publisher.settle)
    settled = [ref for ref, outcome in outcomes.items() if outcome["state"] == OutcomeState.DONE]
    if settled:
        # the status has changed and with it the payload; the vector is known, so this is cheap
        refresh = workflows.embed(settled, job_id)
        workflows.dispatch(refresh, inline=bool(self.request.is_eager))
    if not self.request.is_eager:
        waiting = [Ref.parse(ref) for ref in still_waiting(outcomes)]
        rows = service.journal.versions.get_many(waiting)
        held = [str(ref) for ref, row in rows.items() if row.sync_state is SyncState.PENDING]
        workflows.go_again(workflows.publish, held, job_id, again=again)
    return outcomes


@app.task(bind=True, base=ServiceTask, name="playbooks.delete")
def delete(self: ServiceTask, refs: list[str], job_id: str | None = None) -> dict[str, Any]:
    """Delete these versions on the server, and here once it has confirmed."""
    service = self.service
    outcomes = run_step(service, "delete", refs, job_id, service.publisher.delete)
    workflows.dispatch(workflows.unindex(refs, job_id), inline=bool(self.request.is_eager))
    return outcomes
