"""The HTTP application, made here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry

from core.settings import Settings
from escher_playbooks.api import (
    docs_page,
    problems,
    routes_cache,
    routes_conflicts,
    routes_decisions,
    routes_executions,
    routes_health,
    routes_jobs,
    routes_playbooks,
    routes_search,
    routes_trash,
)
from escher_playbooks.api.auth import Gate, check_exposure, load_token
from escher_playbooks.api.body_limit import BodyLimit
from escher_playbooks.api.dependencies import Home
from escher_playbooks.api.metrics import JournalCollector, Observer, RequestMetrics

MEBIBYTE = 1 << 20
BODY_FACTOR = 2  # base64 makes a third more of a script, and there may be several


def create_app(settings: Settings) -> FastAPI:
    """The API of the settings' home. Its service opens with the first request that needs it."""
    check_exposure(settings)
    token = load_token(settings)
    home = Home(settings)
    registry = CollectorRegistry()
    registry.register(JournalCollector(home))
    request_metrics = RequestMetrics(registry)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        home.close()

    app = FastAPI(
        title="Escher Playbook Service",
        description="Keeps, publishes and searches cloud-operations playbooks.",
        lifespan=lifespan,
        docs_url=None,  # our own page, below: it needs nothing from elsewhere
        redoc_url=None,
        # The gate does the checking; this tells OpenAPI about it.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="<home>/api.token"))],
        responses=problems.RESPONSES,
    )
    app.state.home = home
    app.state.registry = registry
    problems.install(app)
    for module in (
        routes_playbooks,
        routes_executions,
        routes_decisions,
        routes_conflicts,
        routes_trash,
        routes_jobs,
        routes_search,
        routes_cache,
        routes_health,
    ):
        app.include_router(module.router)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return docs_page.render(app.openapi())

    app.add_middleware(
        BodyLimit, max_bytes=int(settings.max_script_size_mb * BODY_FACTOR * MEBIBYTE)
    )
    app.add_middleware(Gate, token=token, api_host=settings.api_host)
    app.add_middleware(Observer, metrics=request_metrics)  # last added: outermost
    return app
