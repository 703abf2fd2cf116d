"""Who runs a home's service: ``run/up.lock`` (held while it runs) and ``run/up.json``.

    run/up.lock   flock'ed by the supervisor for its whole life; the file itself stays
    run/up.json   {"format_version": 1, "state": "starting" | "running" | "stopping",
                   "supervisor": {"pid", "started_at"},
                   "components": [{"name", "state", "pid", "started_at"}]}

The lock says *whether* a supervisor lives; the file says who, and what it started, so that what
a killed supervisor left can be ended: a process only when pid and start time both match.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.bounded_json import read_object
from core.errors import HomeInUse, storage_error
from core.files import PRIVATE_FILE, atomic_write, json_bytes, make_private_dir
from core.permissions import why_not_ours
from escher_playbooks.cli.processes import ProcessId, end

if TYPE_CHECKING:
    from core.settings import Settings

FORMAT_VERSION = 1
LEFTOVER_SECONDS = 10
LOCK_SECONDS = 0.5


class State(StrEnum):
    """Where a component, or the service as a whole, is."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"  # it died and waits for its next start
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    name: str
    state: State
    process: ProcessId | None = None

    def as_json(self) -> dict[str, Any]:
        """``{name, state, pid}``, as `status` shows it."""
        pid = self.process.pid if self.process else None
        return {"name": self.name, "state": self.state.value, "pid": pid}


@dataclass(frozen=True, slots=True)
class UpState:
    state: State
    supervisor: ProcessId
    components: list[ComponentStatus] = field(default_factory=list)


def lock_path(settings: Settings) -> Path:
    return settings.run_path / "up.lock"


def state_path(settings: Settings) -> Path:
    return settings.run_path / "up.json"


def logs_path(settings: Settings) -> Path:
    return settings.run_path / "logs"


@contextlib.contextmanager
def hold_home(settings: Settings) -> Iterator[None]:
    """Be the home's one supervisor; `HomeInUse` names the other."""
    make_private_dir(settings.run_path)
    try:
        fd = os.open(lock_path(settings), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE)
    except OSError as error:
        raise storage_error(error, f"Opening {lock_path(settings)}") from error
    try:
        if not _lock(fd):
            raise home_in_use(settings, os.pread(fd, 20, 0).decode().strip())
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    # `running_pid` of another command holds the lock for a moment: not a reason to give up
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # the poll interval; the deadline is above
        else:
            return True


def home_in_use(settings: Settings, pid: str) -> HomeInUse:
    return HomeInUse(
        f"The service of {settings.home} already runs (pid {pid or 'unknown'}).",
        "`escher-playbooks status` shows it, `escher-playbooks down` stops it.",
    )


def running_pid(settings: Settings) -> int | None:
    """The pid of the supervisor that holds the home now; None when nobody does."""
    try:
        fd = os.open(lock_path(settings), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, f"Opening {lock_path(settings)}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 20, 0).decode().strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def write_state(settings: Settings, state: UpState) -> None:
    components = [
        status.as_json()
        | {"started_at": status.process.started_at if status.process is not None else None}
        for status in state.components
    ]
    body = {
        "format_version": FORMAT_VERSION,
        "state": state.state.value,
        "supervisor": {"pid": state.supervisor.pid, "started_at": state.supervisor.started_at},
        "components": components,
    }
    atomic_write(state_path(settings), json_bytes(body))


def read_state(settings: Settings) -> UpState | None:
    """What the last supervisor wrote; None when there is none, or it can't be understood."""
    try:
        body = read_object(state_path(settings).read_bytes())
        components = [
            ComponentStatus(item["name"], State(item["state"]), _process(item))
            for item in body["components"]
        ]
        supervisor = _process(body["supervisor"])
        if body["format_version"] != FORMAT_VERSION or supervisor is None:
            return None
        return UpState(State(body["state"]), supervisor, components)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # another version's, or damaged: nothing in it can be trusted
    except OSError as error:
        raise storage_error(error, f"Reading {state_path(settings)}") from error


def _process(item: dict[str, Any]) -> ProcessId | None:
    if item["pid"] is None:
        return None
    return ProcessId(int(item["pid"]), float(item["started_at"]))


def clear_leftovers(settings: Settings) -> list[str]:
    """End what a dead supervisor left, last started first, and remove its traces.

    Only while holding the home (`hold_home`). Returns the names of the components ended.
    """
    state = read_state(settings)
    ended = []
    for status in reversed(state.components if state else []):
        if status.process is not None and status.process.alive:
            end(status.process, LEFTOVER_SECONDS)
            ended.append(status.name)
    remove_traces(settings)
    return ended


def remove_traces(settings: Settings) -> None:
    """Remove what only a running service has: state, socket, ready and pid files."""
    with contextlib.suppress(OSError):  # not there, or not empty: then it is not only ours
        within = settings.socket_dir == settings.run_path
        if within or why_not_ours(settings.socket_dir) is None:
            settings.broker_socket.unlink(missing_ok=True)
        if not within:
            settings.socket_dir.rmdir()
    for pattern in ("*.ready", "*.pid"):
        for path in settings.run_path.glob(pattern):
            path.unlink(missing_ok=True)
    state_path(settings).unlink(missing_ok=True)
