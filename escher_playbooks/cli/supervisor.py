"""Starts components in order, restarts those that die, stops them in reverse order.

Each start waits until what it needs is ready, so nothing meets a neighbour that is not there yet;
stopping goes the other way, so workers still have their broker while they finish a task.
One thread does it all: the kernel ties a child to the *thread* that started it (`escher_playbooks.cli.child`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.backoff import Backoff
from core.errors import EscherError
from escher_playbooks.cli import processes
from escher_playbooks.cli.processes import ProcessId
from escher_playbooks.cli.upstate import ComponentStatus, State
from escher_playbooks.cli.wakeup import Wakeup

CRASHES = 5
CRASH_WINDOW_SECONDS = 60
RESTART = Backoff(0.5, 30.0)
STEADY_SECONDS = 60  # alive this long, a component starts its back-off anew
POLL_STARTING_SECONDS = 0.1
POLL_RUNNING_SECONDS = 1


def _nothing(_alive: frozenset[str]) -> None:
    return


@dataclass(frozen=True)
class Component:
    """What to start, how to know it is there, and how long it may take."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    """Asked several times a second while it starts; answers within a few seconds, never raises."""
    ready_timeout: float = 60
    stop_timeout: float = 20
    with_previous: bool = False
    """True: it starts together with the one before it, which it does not need."""
    critical: bool = True
    """False: the service is up without it; it is tried again in the background."""
    before_start: Callable[[frozenset[str]], None] = _nothing
    """Called with the names of the living components before each start; an `EscherError` counts
    as a failed start."""
    remedy: str = ""
    """What to do when it keeps dying."""
    death_signal: int = signal.SIGTERM
    """What it gets when the supervisor is killed."""


@dataclass(eq=False)
class _Managed:
    component: Component
    state: State = State.STOPPED
    process: subprocess.Popen[bytes] | None = None
    identity: ProcessId | None = None
    started: float = 0
    log_start: int = 0
    next_start: float = 0
    failures: int = 0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=CRASHES))

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def status(self) -> ComponentStatus:
        return ComponentStatus(self.name, self.state, self.identity)


class Supervisor:
    """Runs ``components``.

    ``on_change`` hears of each new state and why, ``on_ready`` of all being up; they never raise,
    as a supervisor that fails to report must still stop what it started.
    """

    def __init__(
        self,
        components: Sequence[Component],
        run_path: Path,
        *,
        on_change: Callable[[ComponentStatus, str], None] = lambda _status, _note: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._all = [_Managed(component) for component in components]
        self._run_path = run_path
        self._on_change = on_change
        self._on_ready = on_ready
        self._starting = True
        self._stop_requests = 0
        self._wakeup = Wakeup(self.request_stop)

    @property
    def statuses(self) -> list[ComponentStatus]:
        return [managed.status for managed in self._all]

    def request_stop(self) -> None:
        """Ask `run` to stop; asked twice, it no longer waits for warm shutdowns."""
        self._stop_requests += 1

    def run(self) -> None:
        """Start everything, keep it running until asked to stop, then stop everything.

        Raises `EscherError`, after stopping what was started, when a critical component does not
        come up.
        """
        with self._wakeup.listening():
            try:
                for group in self._groups():
                    if not self._bring_up(group):
                        return
                self._starting = False
                self._on_ready()
                while not self._stop_requests:
                    self._tick()
                    self._wakeup.wait(POLL_RUNNING_SECONDS)
            finally:
                for managed in reversed(self._all):
                    self._stop(managed)

    # -- up ---------------------------------------------------------------------------------
    def _groups(self) -> list[list[_Managed]]:
        """The components in order, those that start together side by side."""
        groups: list[list[_Managed]] = []
        for managed in self._all:
            if groups and managed.component.with_previous:
                groups[-1].append(managed)
            else:
                groups.append([managed])
        return groups

    def _bring_up(self, group: list[_Managed]) -> bool:
        """Start a group and wait for all of it; False when asked to stop meanwhile."""
        began = time.monotonic()
        for managed in group:
            self._launch(managed)
        while not self._stop_requests:
            self._tick()
            if all(self._is_settled(managed, began) for managed in group):
                return True
            self._wakeup.wait(POLL_STARTING_SECONDS)
        return False

    def _is_settled(self, managed: _Managed, began: float) -> bool:
        """Whether the start need not wait for it any longer; raises when it waited in vain."""
        if managed.state == State.RUNNING:
            return True
        late = time.monotonic() > began + managed.component.ready_timeout
        if not managed.component.critical:
            return late or len(self._recent_deaths(managed)) >= CRASHES
        if late:
            seconds = managed.component.ready_timeout
            raise self._did_not_start(managed, f"is not ready after {seconds:g} s")
        return False

    def _tick(self) -> None:
        """Look at every component that was started once, and do what its state asks for."""
        now = time.monotonic()
        for managed in self._all:
            if managed.state == State.RESTARTING and now >= managed.next_start:
                self._launch(managed)
            if managed.process is None:
                continue
            code = managed.process.poll()
            if code is not None:
                self._note_death(managed, _how_it_ended(code))
            elif managed.state == State.STARTING:
                if managed.component.ready():
                    self._change(managed, State.RUNNING)
                elif now > managed.started + managed.component.ready_timeout:
                    self._kill(managed)
                    self._note_death(managed, "was not ready in time")

    def _launch(self, managed: _Managed) -> None:
        component = managed.component
        managed.started = time.monotonic()
        managed.log_start = processes.log_end(self._log(managed))
        alive = frozenset(m.name for m in self._all if m.process is not None)
        try:
            component.before_start(alive)
            managed.process = processes.start(
                component.argv,
                env=component.env,
                cwd=self._run_path,
                log=self._log(managed),
                death_signal=component.death_signal,
            )
        except EscherError as error:
            self._note_death(managed, str(error))
        except OSError as error:
            self._note_death(managed, f"can't be started: {error.strerror}")
        else:
            managed.identity = ProcessId.of(managed.process.pid)
            self._change(managed, State.STARTING)

    def _note_death(self, managed: _Managed, how: str) -> None:
        now = time.monotonic()
        managed.process = managed.identity = None
        managed.deaths.append(now)
        looping = len(self._recent_deaths(managed)) >= CRASHES
        if self._starting and looping and managed.component.critical:
            raise self._did_not_start(managed, f"ended {CRASHES} times, last: {how}")
        steady = now - managed.started > STEADY_SECONDS
        managed.failures = 1 if steady else managed.failures + 1
        managed.next_start = now + RESTART.seconds(managed.failures - 1)
        self._change(managed, State.RESTARTING, how)

    def _recent_deaths(self, managed: _Managed) -> list[float]:
        since = time.monotonic() - CRASH_WINDOW_SECONDS
        return [death for death in managed.deaths if death >= since]

    def _did_not_start(self, managed: _Managed, what: str) -> EscherError:
        log = self._log(managed)
        lines = processes.tail(log, start=managed.log_start)
        said = f" Its last words:\n{lines}\n" if lines else ""
        remedy = " ".join(filter(None, [managed.component.remedy, f"Its log is {log}."]))
        return EscherError(f"{managed.name} {what}.{said}", remedy)

    # -- down -------------------------------------------------------------------------------
    def _stop(self, managed: _Managed) -> None:
        if managed.process is None:
            if managed.state != State.STOPPED:
                self._change(managed, State.STOPPED)
            return
        self._change(managed, State.STOPPING)
        managed.process.terminate()
        deadline = time.monotonic() + managed.component.stop_timeout
        note = ""
        while managed.process.poll() is None:
            if time.monotonic() > deadline or self._stop_requests > 1:
                self._kill(managed)
                note = "killed, as it did not end in time"
                break
            self._wakeup.wait(POLL_STARTING_SECONDS)
        managed.process = managed.identity = None
        self._change(managed, State.STOPPED, note)

    def _kill(self, managed: _Managed) -> None:
        if managed.process is not None:
            # Its whole session: not reaped yet, so the number can't have passed to another.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(managed.process.pid, signal.SIGKILL)
            managed.process.wait()

    # -- the rest ---------------------------------------------------------------------------
    def _log(self, managed: _Managed) -> Path:
        return self._run_path / "logs" / f"{managed.name}.log"

    def _change(self, managed: _Managed, state: State, note: str = "") -> None:
        managed.state = state
        self._on_change(managed.status, note)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
