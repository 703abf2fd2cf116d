"""The reference server on its own, in the foreground; and the tokens that it lets in.

`server tokens` works on the data directory, so whether or not the server runs: a token that is revoked
is refused from its next request on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from escher_playbooks.cli import options, output

if TYPE_CHECKING:
    from core.errors import EscherError
    from core.settings import Settings
    from escher_server.config import TenantToken
    from escher_server.database import Database
    from escher_server.search_service import Embed


HOME_MEMBER = "owner"  # as whom the home's own token publishes
server_app = typer.Typer(help="The reference server.", invoke_without_command=True)
tokens_app = typer.Typer(help="Who is let in, and as whom.", no_args_is_help=True)
server_app.add_typer(tokens_app, name="tokens")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Else <home>/server.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Else tenant_id of this home.")]


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(server_app, name="server")


@server_app.callback()
def server(
    context: typer.Context,
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
    if context.invoked_subcommand is not None:
        return
    from core.permissions import take_home
    from core.settings import load_settings
    from escher_playbooks.cli.tokens import server_token
    from escher_server.config import MEBIBYTE, ServerConfig
    from escher_server.run import serve

    settings = load_settings()
    url = urlsplit(settings.server_url)
    # a server_url elsewhere says nothing about where this one is to listen
    local = settings.embeds_server
    listen_host = host or (url.hostname if local and url.hostname else "127.0.0.1")
    listen_port = port or (url.port if local and url.port else 8788)
    take_home(settings)
    shown_host = f"[{listen_host}]" if ":" in listen_host else listen_host
    address = f"http://{shown_host}:{listen_port}"
    tokens = [_token(settings.tenant_id, role, server_token(settings), HOME_MEMBER)]
    tokens += [_parse_token(text) for text in token or ()]
    config = ServerConfig(
        data_dir=data_dir or settings.server_data_path,
        public_url=address,
        tokens=tuple(tokens),
        faults_enabled=faults or settings.server_faults,
        library_dir=library_dir,
        max_file_bytes=int(settings.max_script_size_mb * MEBIBYTE),
        embedding_model=settings.embedding_model if semantic else None,
    )
    if as_json:
        output.print_json({"url": address, "data_dir": str(config.data_dir)})
    else:
        output.note(f"reference server at {address}, data in {config.data_dir}")
    from escher_server.migrations import NewerData

    try:
        serve(config, listen_host, listen_port, embed=_embedder(settings) if semantic else None)
    except NewerData as error:
        raise _newer(error) from error


@tokens_app.command("ls")
def list_tokens(data_dir: DataDir = None, as_json: options.Json = False) -> None:
    """Every token, by tenant and member; only the beginning of its hash is known."""
    from dataclasses import asdict

    from escher_server.tenants import list_tokens as listed

    with _database(data_dir) as database:
        tokens = [asdict(record) for record in listed(database)]
    if as_json:
        output.print_json({"tokens": tokens})
        return
    output.table(
        ("TOKEN", "TENANT", "MEMBER", "ROLE", "SINCE", "REVOKED"),
        (
            (
                token["token_id"],
                token["tenant_id"],
                token["member"],
                token["role"],
                output.moment(token["created_at"]) if token["created_at"] else "-",
                output.moment(token["revoked_at"]) if token["revoked_at"] else "-",
            )
            for token in tokens
        ),
    )


@tokens_app.command("add")
def add_token(
    member: Annotated[str, typer.Argument(help="Whose it is: what is published says so.")],
    role: Annotated[str, typer.Option("--role", help="member or reviewer.")] = "member",
    tenant: Tenant = None,
    data_dir: DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a token for a member, who may have several; it is shown once."""
    from core.errors import UsageError
    from core.settings import load_settings
    from escher_server.tenants import new_token

    tenant_id = tenant or load_settings().tenant_id
    if role not in {"member", "reviewer"}:
        raise UsageError(f"There is no role {role!r}.", "A role is member or reviewer.")
    with _database(data_dir) as database:
        try:
            token = new_token(
                database, tenant_id, "member" if role == "member" else "reviewer", member
            )
        except ValueError as error:
            raise UsageError(
                f"There can be no member {member!r} of {tenant_id!r}.",
                "A member is 1-64 letters, digits and . _ @ -; a tenant letters, digits, - and _.",
            ) from error
    if as_json:
        output.print_json({"token": token, "tenant_id": tenant_id, "member": member, "role": role})
    else:
        output.say(token)
        output.note(f"Set it as ESCHER_SERVER_TOKEN of {member}'s home; it is not shown again.")


@tokens_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="As `tokens ls` shows it.")],
    data_dir: DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Let a token in no more; what its member published stays the member's."""
    from dataclasses import asdict

    from core.errors import NotFound
    from escher_server.tenants import revoke_token as revoke

    with _database(data_dir) as database:
        try:
            record = revoke(database, token_id)
        except ValueError as error:
            raise NotFound(str(error), "`escher-playbooks server tokens ls` shows them.") from error
    if as_json:
        output.print_json(asdict(record))
    else:
        output.say(f"revoked {record.token_id}, a {record.role}'s token of {record.member}")


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Database]:
    """The database of a server that has been started once, running or not."""
    from core.errors import NotFound
    from core.settings import load_settings
    from escher_server.database import open_database
    from escher_server.migrations import NewerData

    folder = data_dir or load_settings().server_data_path
    if not (folder / "escher.db").is_file():
        raise NotFound(f"No server has kept data in {folder} yet.", "Start it once, or --data-dir.")
    try:
        database = open_database(folder)
    except NewerData as error:
        raise _newer(error) from error
    try:
        yield database
    finally:
        database.close()


def _newer(error: Exception) -> EscherError:
    from core.errors import SettingsError

    return SettingsError(str(error), "Install the newer escher-playbook-service again.")


def _parse_token(text: str) -> TenantToken:
    from core.errors import UsageError

    tenant_id, _, rest = text.partition(":")
    role, _, token = rest.partition(":")
    if not (tenant_id and role and token):
        raise UsageError("--token is not TENANT:ROLE:TOKEN.", "Such as acme:member:s3cret.")
    return _token(tenant_id, role, token)


def _token(tenant_id: str, role: str, token: str, member: str | None = None) -> TenantToken:
    from pydantic import ValidationError

    from core.errors import UsageError
    from escher_server.config import TenantToken

    try:
        return TenantToken.model_validate(
            {"tenant_id": tenant_id, "token": token, "role": role, "member": member}
        )
    except ValidationError as error:
        raise UsageError(
            f"Tenant {tenant_id!r} with role {role!r} can't be served.",
            "A tenant is letters, digits, - and _; a role is member or reviewer.",
        ) from error


def _embedder(settings: Settings) -> Embed:
    from core.rag.embedding import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder(settings.embedding_model)
    return embedder.encode
