"""The reference server on its own, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cli import options, output

if TYPE_CHECKING:
    from core.settings import Settings
    from escher_server.config import TenantToken
    from escher_server.search_service import Embed


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(server)


def server(
    host: Annotated[str | None, typer.Option("--host", help="Else that of server_url.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Else that of server_url.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Else <home>/server.")] = None,
    library_dir: Annotated[
        Path | None,
        typer.Option("--library-dir", help="Escher Library: <escher-id>/v<version>/…", exists=True),
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Offer PUT /api/reference/faults, for tests.")
    ] = False,
    role: Annotated[
        str, typer.Option("--role", help="This home's role there: reviewer or member.")
    ] = "reviewer",
    token: Annotated[
        list[str] | None,
        typer.Option(
            "--token",
            metavar="TENANT:ROLE:TOKEN",
            help="One more token, for tests: other users of this machine can read it. Repeatable.",
        ),
    ] = None,
    semantic: Annotated[
        bool,
        typer.Option(help="Search by meaning; the model is loaded at the first search."),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Run the reference server until it is stopped."""
    from cli.tokens import server_token
    from core.files import make_private_dir
    from core.home_modes import mend
    from core.settings import load_settings
    from escher_server.config import ServerConfig
    from escher_server.run import serve

    settings = load_settings()
    url = urlsplit(settings.server_url)
    # a server_url elsewhere says nothing about where this one is to listen
    local = settings.embeds_server
    listen_host = host or (url.hostname if local and url.hostname else "127.0.0.1")
    listen_port = port or (url.port if local and url.port else 8788)
    make_private_dir(settings.home)
    mend(settings)
    shown_host = f"[{listen_host}]" if ":" in listen_host else listen_host
    address = f"http://{shown_host}:{listen_port}"
    tokens = [_token(settings.tenant_id, role, server_token(settings))]
    tokens += [_parse_token(text) for text in token or ()]
    config = ServerConfig(
        data_dir=data_dir or settings.server_data_path,
        public_url=address,
        tokens=tuple(tokens),
        faults_enabled=faults or settings.server_faults,
        library_dir=library_dir,
        embedding_model=settings.embedding_model if semantic else None,
    )
    if as_json:
        output.print_json({"url": address, "data_dir": str(config.data_dir)})
    else:
        output.note(f"reference server at {address}, data in {config.data_dir}")
    serve(config, listen_host, listen_port, embed=_embedder(settings) if semantic else None)


def _parse_token(text: str) -> TenantToken:
    from core.errors import UsageError

    tenant_id, _, rest = text.partition(":")
    role, _, token = rest.partition(":")
    if not (tenant_id and role and token):
        raise UsageError("--token is not TENANT:ROLE:TOKEN.", "Such as acme:member:s3cret.")
    return _token(tenant_id, role, token)


def _token(tenant_id: str, role: str, token: str) -> TenantToken:
    from pydantic import ValidationError

    from core.errors import UsageError
    from escher_server.config import TenantToken

    try:
        return TenantToken.model_validate({"tenant_id": tenant_id, "token": token, "role": role})
    except ValidationError as error:
        raise UsageError(
            f"Tenant {tenant_id!r} with role {role!r} can't be served.",
            "A tenant is letters, digits, - and _; a role is member or reviewer.",
        ) from error


def _embedder(settings: Settings) -> Embed:
    from core.rag.embedding import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder(settings.embedding_model)
    return embedder.encode
