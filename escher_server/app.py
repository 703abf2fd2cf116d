"""The application: everything is made here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from escher_server import (
    agent_link,
    changes,
    object_routes,
    problems,
    publishing,
    reference,
    review,
    scripts,
    search,
    uploads,
)
from escher_server.agent_link import AgentLinks
from escher_server.body_limit import BodyLimitMiddleware
from escher_server.config import S3Objects, ServerConfig
from escher_server.counters import Counters
from escher_server.database import open_database
from escher_server.fault_middleware import FaultMiddleware
from escher_server.faults import FaultPlan
from escher_server.library import Library
from escher_server.multipart import PartStore
from escher_server.objects import ObjectStore
from escher_server.objects_local import LocalObjectStore, make_folder
from escher_server.objects_s3 import S3ObjectStore
from escher_server.search_service import Embed, SearchService
from escher_server.services import Services
from escher_server.signing import UrlSigner, load_secret
from escher_server.tenants import Authenticator, add_token


def create_app(config: ServerConfig, *, embed: Embed | None = None) -> FastAPI:
    """The server for ``config``; ``embed`` turns texts into vectors for search.

    One process may serve a data directory. Its database is closed at the end of the lifespan.
    """
    services = _services(config, embed)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.counters.start()
        services.search.start()
        services.links.start()
        yield
        services.links.stop()
        services.search.stop()
        services.counters.stop()
        services.database.close()

    app = FastAPI(title="Escher reference server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.services = services
    problems.install(app)
    for module in (
        uploads, object_routes, publishing, review, changes, scripts, search, reference,
        agent_link,
    ):  # fmt: skip
        app.include_router(module.router)
    app.add_middleware(BodyLimitMiddleware, max_bytes=config.max_json_bytes)
    if config.faults_enabled:
        app.add_middleware(FaultMiddleware, plan=services.faults)  # last added: outermost
    return app


def _services(config: ServerConfig, embed: Embed | None) -> Services:
    database = open_database(config.data_dir)
    database.begin_life()
    for token in config.tokens:
        add_token(
            database, token.tenant_id, token.role, token.token.get_secret_value(), token.member
        )
    secret = (
        config.signing_secret.get_secret_value().encode()
        if config.signing_secret
        else load_secret(config.data_dir)
    )
    signer = UrlSigner(secret, config.public_url)
    store: ObjectStore = (
        S3ObjectStore(config.object_store)
        if isinstance(config.object_store, S3Objects)
        else LocalObjectStore(config.data_dir, signer)
    )
    parts = PartStore(config.data_dir, signer, config.part_bytes)
    parts.sweep()
    library = Library(config.library_dir)
    services = Services(
        config=config,
        database=database,
        authenticator=Authenticator(database),
        counters=Counters(database),
        signer=signer,
        store=store,
        parts=parts,
        library=library,
        search=SearchService(database, library, embed, config.embedding_model),
        faults=FaultPlan(),
        links=AgentLinks(database, config.agent_deadline_ms),
    )
    _sweep_incoming(services.incoming_dir)
    return services


def _sweep_incoming(folder: Path) -> None:
    """Bodies that a killed process was still receiving."""
    make_folder(folder)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
