"""What must hold before anything is started; each failure names its setting and its remedy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.errors import BrokerUnreachable, SettingsError
from core.settings import LOOPBACK_HOSTS, Settings
from escher_playbooks.cli.broker import find_binary
from escher_playbooks.cli.components import server_address
from tasks.broker import broker_reachable


@dataclass(frozen=True, slots=True)
class Port:
    """An address that `up` is going to listen on, and the setting that chose it."""

    host: str
    number: int
    setting: str

    def problem(self) -> str | None:
        """Why it can't be listened on; None when it can."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.number))
                probe.listen(1)
            except OSError as error:
                return error.strerror or type(error).__name__
        return None

    def error(self, why: str) -> SettingsError:
        return SettingsError(
            f"Port {self.number} on {self.host} ({self.setting}) can't be used: {why}.",
            f"Stop the program that holds it, or set ESCHER_{self.setting.upper()} to another.",
        )


def ports(settings: Settings) -> Iterator[Port]:
    """Every port that `up` listens on with these settings."""
    if settings.embeds_server:
        yield Port(*server_address(settings), "server_url")
    yield Port(settings.api_host, settings.api_port, "api_port")
    yield Port("127.0.0.1", settings.flower_port, "flower_port")


def check_before_start(settings: Settings) -> None:
    """Raise for the first thing that would keep `up` from starting."""
    _check_embedded_server(settings)
    _check_journal(settings)
    taken: dict[int, str] = {}
    for port in ports(settings):
        if port.number in taken:
            raise port.error(f"{taken[port.number]} has the same number")
        taken[port.number] = port.setting
        why = port.problem()
        if why is not None:
            raise port.error(why)
    if settings.embeds_broker:
        find_binary()
    elif not broker_reachable(settings):
        raise BrokerUnreachable(
            "The broker of ESCHER_BROKER_URL does not answer.",
            "Start it or correct the URL; without the setting `up` starts a broker of its own.",
        )


def _check_journal(settings: Settings) -> None:
    """Open the journal once, so it is upgraded before many open it, or refused before any does."""
    from core.journal import Journal

    Journal(settings.effective_journal_url).close()


def _check_embedded_server(settings: Settings) -> None:
    parts = urlsplit(settings.server_url)
    if settings.embeds_server and (parts.scheme != "http" or parts.hostname not in LOOPBACK_HOSTS):
        raise SettingsError(
            f"The embedded server speaks plain http on loopback, and server_url is {settings.server_url}.",
            "Set ESCHER_SERVER_EMBEDDED=false for a server elsewhere, or take http://127.0.0.1:8788.",
        )
