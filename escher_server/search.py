"""``POST /api/playbook/search``: the tenant space, the library and the connected clients."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field

from escher_server.search_merge import merge
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
async def search(body: SearchRequest, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """The best versions; clients are asked meanwhile, and no thread waits for them."""
    caller.require_tenant(body.tenant_id)
    filters = {name: sorted(values) for name, values in body.filters if values}
    own, answers = await asyncio.gather(
        run_in_threadpool(
            partial(
                services.search.search,
                body.tenant_id,
                body.query,
                clouds=body.filters.cloud_provider,
                resource_types=body.filters.resource_types,
            )
        ),
        services.links.ask(body.tenant_id, body.query, filters, body.limit),
    )
    results = await run_in_threadpool(
        merge, services.database, services.library, body.tenant_id, own, answers, body.limit
    )
    return JSONResponse({"results": results})
