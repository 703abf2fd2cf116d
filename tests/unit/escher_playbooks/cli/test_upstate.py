"""Who holds a home, and what a dead supervisor left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import HomeInUse
from core.settings import Settings, load_settings
from escher_playbooks.cli.processes import ProcessId
from escher_playbooks.cli.upstate import (
    ComponentStatus,
    State,
    UpState,
    clear_leftovers,
    hold_home,
    read_state,
    running_pid,
    state_path,
    write_state,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path / "home")
    settings.run_path.mkdir(parents=True)
    return settings


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def known(pid: int) -> ProcessId:
    found = ProcessId.of(pid)
    assert found is not None
    return found


def test_one_supervisor_a_home(settings: Settings) -> None:
    assert running_pid(settings) is None
    with hold_home(settings):
        assert running_pid(settings) == os.getpid()
        with pytest.raises(HomeInUse) as failure, hold_home(settings):
            pass
        assert str(os.getpid()) in failure.value.detail
        assert "escher-playbooks down" in failure.value.remedy
    assert running_pid(settings) is None
    with hold_home(settings):
        pass  # free again


def test_what_is_written_is_read(settings: Settings) -> None:
    own = known(os.getpid())
    state = UpState(
        State.RUNNING,
        own,
        [
            ComponentStatus("broker", State.RUNNING, own),
            ComponentStatus("api", State.RESTARTING, None),
        ],
    )
    write_state(settings, state)
    assert read_state(settings) == state


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 2}', b"\xff"])
def test_a_state_that_makes_no_sense_is_no_state(settings: Settings, content: bytes) -> None:
    state_path(settings).write_bytes(content)
    assert read_state(settings) is None


def test_leftovers_are_ended_and_their_traces_removed(
    settings: Settings, sleeper: subprocess.Popen[bytes], until: Callable[..., None]
) -> None:
    left = ComponentStatus("broker", State.RUNNING, known(sleeper.pid))
    write_state(settings, UpState(State.RUNNING, known(os.getpid()), [left]))
    for name in ("broker.sock", "worker-embed.ready", "beat.pid"):
        (settings.run_path / name).touch()

    assert clear_leftovers(settings) == ["broker"]

    until(lambda: sleeper.poll() is not None)
    assert not list(settings.run_path.iterdir())
    assert clear_leftovers(settings) == [], "nothing more to do"


def test_a_process_that_got_an_old_pid_is_left_alone(
    settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    earlier = ProcessId(sleeper.pid, time.time() - 3600)
    write_state(
        settings,
        UpState(
            State.RUNNING, known(os.getpid()), [ComponentStatus("api", State.RUNNING, earlier)]
        ),
    )

    assert clear_leftovers(settings) == []
    assert sleeper.poll() is None
