"""Search, and the scripts of what was found."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.names import known_id, known_ref
from escher_playbooks.api.schemas import RunQuery, SearchBody
from tasks import jobs

router = APIRouter(prefix="/v1", tags=["search"], route_class=BoundedRoute)
Json = dict[str, Any]
LATEST = "latest"


@router.post("/search")
def search(body: SearchBody, service: Service) -> Json:
    """The best playbooks for a query, best first; ``degraded`` when found by words alone."""
    filters = body.filters.model_dump(exclude_none=True)
    return jobs.search(service, body.query, filters, body.limit).as_json()


@router.get("/scripts/{playbook_id}/{version}/{format}")
def script(
    playbook_id: str,
    version: str,
    format: str,  # noqa: A002  the contract's name
    service: Service,
    allow: Annotated[RunQuery, Query()],
) -> Json:
    """Where the verified entry script of a version that may be run stands; it may be ``latest``.

    409 ``not-runnable`` lists each version with the reason why it may not be run here.
    """
    target = known_id(playbook_id)
    if version != LATEST:
        target = str(known_ref(playbook_id, version))
    found = service.locate_script(target, format, **allow.model_dump(by_alias=True))
    return jobs.script_resolved(service, found)
