"""What the routes work with, and how they get it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Header, Request

from escher_server.agent_link import AgentLinks
from escher_server.config import ServerConfig
from escher_server.counters import Counters
from escher_server.database import Database
from escher_server.faults import FaultPlan
from escher_server.library import Library
from escher_server.multipart import PartStore
from escher_server.objects import ObjectStore
from escher_server.search_service import SearchService
from escher_server.signing import UrlSigner
from escher_server.tenants import Authenticator, Caller

EXPIRE_URLS = "escher.expire_urls"  # set in the ASGI scope by the fault of that name


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by `escher_server.app.create_app`; everything in it is safe between threads."""

    config: ServerConfig
    database: Database
    authenticator: Authenticator
    counters: Counters
    signer: UrlSigner
    store: ObjectStore
    parts: PartStore
    library: Library
    search: SearchService
    faults: FaultPlan
    links: AgentLinks

    @property
    def incoming_dir(self) -> Path:
        """Where bodies are written until they are verified; on the objects' file system."""
        return self.config.data_dir / "incoming"


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def _caller(
    request: Request, services: ServicesDep, authorization: Annotated[str | None, Header()] = None
) -> Caller:
    peer = request.client.host if request.client is not None else None
    caller = services.authenticator.caller(authorization, peer)
    services.counters.add(caller.tenant_id, requests=1)
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


def expiry(request: Request, ttl_seconds: int) -> int:
    """When a URL issued now expires; in the past while the fault ``expire_urls`` is at work."""
    return int(time.time()) + (-1 if urls_expired(request) else ttl_seconds)


def urls_expired(request: Request) -> bool:
    """Whether a fault has this request see every URL as expired."""
    return bool(request.scope.get(EXPIRE_URLS))
