"""The cache of downloaded scripts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service

router = APIRouter(prefix="/v1/cache", tags=["scripts"], route_class=BoundedRoute)


@router.get("")
def usage(
    service: Service,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Entries, the latest used.")] = 100,
) -> dict[str, Any]:
    """Use, hits, misses, entries and the next expiry; sizes in bytes, times in Unix seconds."""
    return service.script_manager.usage(limit=limit)
