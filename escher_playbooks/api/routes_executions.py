"""What an execution engine reports."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.names import known_ref
from escher_playbooks.api.schemas import ExecutionBody
from tasks import jobs

router = APIRouter(prefix="/v1/playbooks", tags=["executions"], route_class=BoundedRoute)


@router.post("/{playbook_id}/versions/{version}/executions")
def report(
    playbook_id: str, version: str, body: ExecutionBody, service: Service
) -> dict[str, Any]:  # fmt: skip
    """Count a run; three failures in a row mark the version as broken, a success clears that.

    The same `execution_id` again counts nothing, so a report may be sent again.
    """
    run = body.model_dump()
    counted = service.executions.report(known_ref(playbook_id, version), **run)
    return jobs.executed(service, counted)
