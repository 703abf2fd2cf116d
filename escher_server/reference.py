"""What only the reference server has: counters, faults, and a health check."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from escher_server.faults import FaultRule
from escher_server.problems import Problem
from escher_server.services import CallerDep, Services, ServicesDep

router = APIRouter()


@router.get("/healthz")
def healthz(services: ServicesDep) -> JSONResponse:
    """Whether the server and its database answer."""
    services.database.read().execute("SELECT 1").fetchone()
    return JSONResponse({"status": "ok"})


@router.get("/api/reference/stats")
def stats(caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """The counters of the caller's tenant."""
    return JSONResponse({"tenants": {caller.tenant_id: services.counters.stats(caller.tenant_id)}})


@router.put("/api/reference/faults")
async def set_faults(
    rules: Annotated[list[FaultRule], Body()], _caller: CallerDep, services: ServicesDep
) -> JSONResponse:
    """Replace all fault rules; an empty list ends all faults."""
    _require_faults(services)
    services.faults.replace(rules)
    return JSONResponse({"rules": services.faults.shown()})


@router.get("/api/reference/faults")
async def get_faults(_caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """The rules, how often each acted, and how often it still will."""
    _require_faults(services)
    return JSONResponse({"rules": services.faults.shown()})


def _require_faults(services: Services) -> None:
    if not services.config.faults_enabled:
        raise Problem(404, "This server was not started with faults.")
