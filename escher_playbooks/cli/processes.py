"""Processes of a home: known by pid *and* start time, started apart, ended for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.files import PRIVATE_FILE, UMASK

ROTATE_BYTES = 10 * 1024 * 1024
SAME_START_SECONDS = 2  # start times come from the boot time, which a clock adjustment can move
KILL_SECONDS = 5
_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid and when it started (Unix seconds), so a reused pid is never taken for ours."""

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has ``pid`` now, if any."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < SAME_START_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it is gone within ``seconds``; it need not be a child of ours."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)  # not our child: there is nothing to wait on
        return True


def end(process: ProcessId, seconds: float) -> bool:
    """SIGTERM, and SIGKILL after ``seconds``; whether it is gone."""
    process.signal(signal.SIGTERM)
    if process.wait(seconds):
        return True
    process.signal(signal.SIGKILL)
    return process.wait(KILL_SECONDS)


def log_end(path: Path) -> int:
    """Where in its log the next process that `start` starts begins to write, in bytes."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    return 0 if size > ROTATE_BYTES else size


def open_log(path: Path) -> int:
    """A descriptor that appends to ``path`` (0600); a large log makes way to ``<name>.1`` first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > ROTATE_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE)


def tail(path: Path, lines: int = 12, start: int = 0) -> str:
    """The last lines of a log, written from byte ``start`` on; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    tied: bool = True,
    death_signal: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with its output in ``log``.

    ``tied``: the kernel sends it ``death_signal`` when the *thread* that called this ends
    (Linux), so call it from the main thread.
    """
    if tied:
        wrapper = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), str(death_signal)]
        argv = [*wrapper, *argv]
    output = open_log(log)
    try:
        return subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=UMASK,  # what it writes is nobody else's, whoever started us
        )
    finally:
        os.close(output)
