"""Conflicts with the server: what was set aside, and what waits for a decision."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.names import known_ref
from escher_playbooks.api.schemas import ResolutionBody
from tasks import jobs

router = APIRouter(prefix="/v1/conflicts", tags=["conflicts"], route_class=BoundedRoute)
Json = dict[str, Any]


@router.get("")
def list_conflicts(
    service: Service,
    everything: Annotated[
        bool, Query(alias="all", description="Also what was settled and left no copy.")
    ] = False,
) -> Json:
    """Open decisions and kept copies, the oldest first."""
    return {
        "items": [
            item.as_json() for item in service.journal.conflicts.entries(everything=everything)
        ]
    }


@router.post("/{playbook_id}/{version}/resolution")
def resolve(playbook_id: str, version: str, body: ResolutionBody, service: Service) -> Json:
    """Settle an open conflict: ours as another version, under another id, or theirs."""
    resolution = service.resolve_conflict(
        known_ref(playbook_id, version),
        as_version=body.as_version,
        rename=body.rename,
        take=body.take,
    )
    return jobs.resolved(service, resolution)
