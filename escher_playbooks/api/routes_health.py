"""Whether the service is there, able, and how it fares."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from core.errors import EscherError, NotFound
from core.service.sync import read_report
from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import HomeOf, Service
from tasks import jobs

router = APIRouter(route_class=BoundedRoute)
Json = dict[str, Any]


@router.get("/healthz", tags=["health"], response_class=PlainTextResponse)
async def healthz() -> PlainTextResponse:
    """The process answers. The only path without a token."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", tags=["health"])
def readyz(home: HomeOf) -> Response:
    """200 when the journal opens and the broker answers, else 503 and which does not."""
    checks: dict[str, str] = {}
    try:
        home.service.journal.versions.counts()
        checks["journal"] = "ok"
    except EscherError as error:
        checks["journal"] = str(error)
    try:
        checks["broker"] = "ok" if jobs.is_running(home.settings) else "does not answer"
    except EscherError as error:  # somebody else's stands there
        checks["broker"] = str(error)
    ready = all(state == "ok" for state in checks.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"ready": ready, "checks": checks}, status)


@router.get("/metrics", tags=["health"], response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Prometheus text: playbooks, versions by sync state, jobs by state, requests."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/sync", tags=["sync"])
def last_sync(service: Service) -> Json:
    """The last SyncReport."""
    report = read_report(service.settings)
    if report is None:
        raise NotFound("There was no sync yet.", 'POST /v1/jobs with {"kind": "sync"} makes one.')
    return report
