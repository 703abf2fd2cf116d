"""What the supervisor promises, with real child processes of a few lines each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.backoff import Backoff
from core.errors import EscherError
from escher_playbooks.cli.processes import ProcessId
from escher_playbooks.cli.supervisor import Component, Supervisor
from escher_playbooks.cli.upstate import ComponentStatus, State

ROOT = Path(__file__).resolve().parents[4]
FOREVER = "import os, signal, time; signal.signal(15, lambda *_: os._exit(0)); open(%r, 'w'); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); open(%r, 'w'); time.sleep(60)"


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def python(run_path: Path, name: str, code: str, **options: object) -> Component:
    """A component that is ready when it has made the file ``<name>.up``."""
    mark = run_path / f"{name}.up"
    return Component(
        name=name,
        argv=(sys.executable, "-S", "-c", code % str(mark) if "%r" in code else code),
        env=dict(os.environ),
        ready=mark.exists,
        before_start=options.pop("before_start", lambda _alive: mark.unlink(missing_ok=True)),  # type: ignore[arg-type]  # a test's own
        **{"ready_timeout": 20, "stop_timeout": 10, **options},  # type: ignore[arg-type]  # a test's own
    )


class Watch:
    """Collects every change, and acts on some."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, State]] = []
        self.notes: list[str] = []
        self.pids: dict[str, list[int]] = {}

    def __call__(self, part: ComponentStatus, note: str) -> None:
        self.changes.append((part.name, part.state))
        self.notes.append(note)
        if part.process is not None and part.state is State.STARTING:
            self.pids.setdefault(part.name, []).append(part.process.pid)

    def of(self, state: State) -> list[str]:
        return [name for name, found in self.changes if found is state]


def gone(pid: int) -> bool:
    process = ProcessId.of(pid)
    return process is None or not process.alive


def test_each_waits_for_the_one_before_and_stops_before_it(run_path: Path) -> None:
    watch = Watch()
    seen: list[frozenset[str]] = []
    parts = [
        python(run_path, name, FOREVER, before_start=seen.append)
        for name in ("broker", "worker", "api")
    ]
    supervisor = Supervisor(parts, run_path, on_change=watch)
    supervisor._on_ready = supervisor.request_stop

    supervisor.run()

    up, down = watch.changes[:6], watch.changes[6:]
    assert up == [
        (name, state)
        for name in ("broker", "worker", "api")
        for state in (State.STARTING, State.RUNNING)
    ]
    assert down == [
        (name, state)
        for name in ("api", "worker", "broker")
        for state in (State.STOPPING, State.STOPPED)
    ]
    assert seen == [frozenset(), {"broker"}, {"broker", "worker"}]
    assert all(gone(pid) for pids in watch.pids.values() for pid in pids)
    assert not any(watch.notes), "all ended by themselves"


def test_those_that_do_not_need_each_other_start_together(run_path: Path) -> None:
    watch = Watch()
    parts = [
        python(run_path, "broker", FOREVER),
        python(run_path, "worker", FOREVER),
        python(run_path, "api", FOREVER, with_previous=True),
    ]
    supervisor = Supervisor(parts, run_path, on_change=watch)
    supervisor._on_ready = supervisor.request_stop

    supervisor.run()

    assert watch.changes[:4] == [
        ("broker", State.STARTING),
        ("broker", State.RUNNING),
        ("worker", State.STARTING),
        ("api", State.STARTING),
    ]
    assert watch.of(State.STOPPED) == ["api", "worker", "broker"]


def test_one_that_dies_is_started_again_and_the_others_stay(run_path: Path) -> None:
    watch = Watch()

    def on_change(part: ComponentStatus, note: str) -> None:
        watch(part, note)
        if part.name == "worker" and part.state is State.RUNNING and len(watch.pids["worker"]) == 2:
            supervisor.request_stop()

    parts = [python(run_path, "broker", FOREVER), python(run_path, "worker", FOREVER)]
    supervisor = Supervisor(parts, run_path, on_change=on_change)
    supervisor._on_ready = lambda: os.kill(watch.pids["worker"][0], signal.SIGKILL)

    supervisor.run()

    assert ("worker", State.RESTARTING) in watch.changes
    assert "was ended by SIGKILL" in watch.notes
    assert len(watch.pids["worker"]) == 2
    assert len(watch.pids["broker"]) == 1


def test_one_that_keeps_dying_ends_the_start_with_the_tail_of_its_log(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escher_playbooks.cli.supervisor.RESTART", Backoff(0.01, 30.0))
    watch = Watch()
    parts = [
        python(run_path, "broker", FOREVER),
        python(
            run_path, "api", "print('port taken'); raise SystemExit(3)", remedy="Free the port."
        ),
    ]

    with pytest.raises(EscherError) as failure:
        Supervisor(parts, run_path, on_change=watch).run()

    assert "api ended 5 times" in failure.value.detail
    assert "exited with 3" in failure.value.detail
    assert "port taken" in failure.value.detail
    assert "Free the port." in failure.value.remedy
    assert str(run_path / "logs" / "api.log") in failure.value.remedy
    assert all(gone(pid) for pids in watch.pids.values() for pid in pids)
    assert len(watch.pids["api"]) == 5


def test_one_that_is_never_ready_ends_the_start_at_its_deadline(run_path: Path) -> None:
    watch = Watch()
    part = python(run_path, "api", "import time; time.sleep(60)", ready_timeout=0.5)

    with pytest.raises(EscherError, match=r"api is not ready after 0\.5 s"):
        Supervisor([part], run_path, on_change=watch).run()

    assert all(gone(pid) for pid in watch.pids["api"])


def test_the_service_is_up_without_a_part_that_is_not_critical(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escher_playbooks.cli.supervisor.RESTART", Backoff(0.01, 30.0))
    parts = [
        python(run_path, "flower", "raise SystemExit(1)", critical=False),
        python(run_path, "api", FOREVER),
    ]
    supervisor = Supervisor(parts, run_path)
    states: list[State] = []

    def on_ready() -> None:
        states.extend(part.state for part in supervisor.statuses)
        supervisor.request_stop()

    supervisor._on_ready = on_ready
    supervisor.run()

    assert states[1] is State.RUNNING
    assert states[0] is not State.RUNNING


def test_a_failing_preparation_counts_as_a_failed_start(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escher_playbooks.cli.supervisor.RESTART", Backoff(0.01, 30.0))

    def fail(_alive: frozenset[str]) -> None:
        raise EscherError("the broker does not answer")

    with pytest.raises(EscherError, match="the broker does not answer"):
        Supervisor([python(run_path, "worker", FOREVER, before_start=fail)], run_path).run()


def test_one_that_does_not_heed_sigterm_is_killed_at_its_deadline(run_path: Path) -> None:
    watch = Watch()
    part = python(run_path, "worker", DEAF, stop_timeout=0.3)
    supervisor = Supervisor([part], run_path, on_change=watch)
    supervisor._on_ready = supervisor.request_stop

    supervisor.run()

    assert watch.notes[-1] == "killed, as it did not end in time"
    assert gone(watch.pids["worker"][0])


def test_asked_twice_it_no_longer_waits(run_path: Path) -> None:
    watch = Watch()
    supervisor = Supervisor(
        [python(run_path, "worker", DEAF, stop_timeout=60)], run_path, on_change=watch
    )

    def ask_twice() -> None:
        supervisor.request_stop()
        supervisor.request_stop()

    supervisor._on_ready = ask_twice
    started = time.monotonic()
    supervisor.run()

    assert time.monotonic() - started < 20
    assert gone(watch.pids["worker"][0])


# -- as a process of its own ---------------------------------------------------------------

SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from escher_playbooks.cli.supervisor import Component, Supervisor
run_path = Path({run_path!r})
def part(name, code):
    mark = run_path / (name + ".up")
    return Component(name=name, argv=(sys.executable, "-S", "-c", code % str(mark)), env=dict(os.environ),
                     ready=mark.exists, ready_timeout=20, stop_timeout=10)
def on_ready():
    (run_path / "pids").write_text(" ".join(str(s.process.pid) for s in supervisor.statuses))
    (run_path / "pids").rename(run_path / "all.up")
supervisor = Supervisor([part("one", {code!r}), part("two", {code!r})], run_path, on_ready=on_ready)
supervisor.run()
"""


@pytest.fixture
def supervisor_process(
    run_path: Path, until: Callable[..., None]
) -> Iterator[subprocess.Popen[bytes]]:
    code = SCRIPT.format(root=str(ROOT), run_path=str(run_path), code=FOREVER)
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        until((run_path / "all.up").exists, 30)
        yield process
    finally:
        process.kill()
        process.wait()


def child_pids(run_path: Path) -> list[int]:
    return [int(pid) for pid in (run_path / "all.up").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything(
    run_path: Path, supervisor_process: subprocess.Popen[bytes], number: int
) -> None:
    pids = child_pids(run_path)

    supervisor_process.send_signal(number)

    assert supervisor_process.wait(20) == 0
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_killing_the_supervisor_leaves_nothing_behind(
    run_path: Path, supervisor_process: subprocess.Popen[bytes], until: Callable[..., None]
) -> None:
    pids = child_pids(run_path)

    supervisor_process.kill()
    supervisor_process.wait()

    until(lambda: all(gone(pid) for pid in pids))


def test_each_child_has_a_session_of_its_own_and_a_private_log(
    run_path: Path, supervisor_process: subprocess.Popen[bytes]
) -> None:
    assert supervisor_process.poll() is None
    assert [os.getsid(pid) for pid in child_pids(run_path)] == child_pids(run_path)
    assert (run_path / "logs" / "one.log").stat().st_mode & 0o777 == 0o600
