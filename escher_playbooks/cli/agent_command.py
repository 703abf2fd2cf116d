"""The agent link on its own, in the foreground; a part of `up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from escher_playbooks.cli import options, output

if TYPE_CHECKING:
    from core.server.agent_link import AgentLink

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(agent)


def agent(
    pidfile: Annotated[
        Path | None, typer.Option("--pidfile", help="Hold this process' id here while it runs.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Answer searches of the Escher server, and sync when something changes there."""
    from core.server.agent_link import AgentLink, link_url
    from core.service import PlaybookService
    from core.settings import load_settings
    from core.terminal import set_up_logging
    from tasks.agent import LocalSearch, SyncOnChange

    set_up_logging()
    settings = load_settings()
    if as_json:
        output.print_json({"url": link_url(settings)})
    # not `open`: what a crash left half-done is the workers' to finish, who hold every key
    with PlaybookService(settings) as service:
        on_change = SyncOnChange(service)
        link = AgentLink(
            settings,
            # the same after a reconnect, so that the server drops the connection before
            f"{service.journal.home_id}.{secrets.token_hex(4)}",
            search=LocalSearch(service),
            changed=on_change.changed if settings.sync_enabled else lambda *_: None,
            reconnected=on_change.missed if settings.sync_enabled else lambda: None,
        )
        on_change.start()
        try:
            with _pid_in(pidfile):
                asyncio.run(_until_stopped(link))
        finally:
            on_change.stop()


async def _until_stopped(link: AgentLink) -> None:
    """Keep the link up until a signal comes."""
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(link.run())
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


@contextlib.contextmanager
def _pid_in(path: Path | None) -> Iterator[None]:
    """Hold this process' id in ``path``."""
    from core.files import atomic_write

    if path is None:
        yield
        return
    atomic_write(path, f"{os.getpid()}\n".encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
