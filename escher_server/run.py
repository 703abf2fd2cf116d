"""Runs the server in this process, under uvicorn."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from escher_server.agent_frames import MAX_FRAME_BYTES
from escher_server.app import create_app
from escher_server.config import ServerConfig
from escher_server.search_service import Embed
from escher_server.tenants import ensure_tenant

__all__ = ["ensure_tenant", "serve", "uvicorn_config"]

_KEEP_ALIVE_SECONDS = 75  # longer than a client's idle connection is worth to it
_SHUTDOWN_SECONDS = 5


def uvicorn_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """How the server is run. The access log is off: it would write pre-signed URLs down."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ws_max_size=MAX_FRAME_BYTES,  # over it: 1009
        ws_ping_interval=None,  # the agent link has pings of its own
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,  # who throttled addresses are is not for a header to say
    )


def serve(config: ServerConfig, host: str, port: int, *, embed: Embed | None = None) -> None:
    """Serve until SIGTERM or SIGINT; ``config.public_url`` must lead to ``host:port``."""
    uvicorn.Server(uvicorn_config(create_app(config, embed=embed), host, port)).run()
