"""``POST /api/playbook/search``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field

from escher_server.services import CallerDep, ServicesDep

router = APIRouter()
_Names = Annotated[
    frozenset[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class Filters(BaseModel):
    """Any of the named values will do; one may stand without a list."""

    cloud_provider: _Names = frozenset()
    resource_types: _Names = frozenset()


class SearchRequest(BaseModel):
    """The body of a search."""

    tenant_id: str
    query: Annotated[str, Field(min_length=1, max_length=2000)]
    filters: Filters = Filters()
    limit: Annotated[int, Field(ge=1, le=100)] = 10


@router.post("/api/playbook/search")
def search(body: SearchRequest, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """The best versions of the tenant space and of the library."""
    caller.require_tenant(body.tenant_id)
    found = services.search.search(
        body.tenant_id,
        body.query,
        clouds=body.filters.cloud_provider,
        resource_types=body.filters.resource_types,
        limit=body.limit,
    )
    results = [
        {
            "playbook_id": hit.document.key[0],
            "version": hit.document.key[1],
            "source": source,
            "score": round(hit.score, 6),
            "status": hit.document.status,
            "warning": hit.document.warning,
        }
        for source, hit in found
    ]
    return JSONResponse({"results": results})
