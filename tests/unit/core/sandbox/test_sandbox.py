"""One fault loses one content, and never the caller's process, time or patience."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core import sandbox
from core.errors import Unreadable

SUPPORT = Path(__file__).parents[3] / "support"
JOB = "sandbox_jobs:job"
YIELDS = "sandbox_jobs:yields"


@pytest.fixture(autouse=True)
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    paths = (*sandbox._import_path(), str(SUPPORT))
    monkeypatch.setattr(sandbox, "_import_path", lambda: paths)
    monkeypatch.setattr(sandbox, "_pool", sandbox._Pool())
    yield
    sandbox._pool.stop()


def ask(*arguments: Any, seconds: float = 20, total_seconds: float = 60) -> list[Any]:
    items = [(argument, b"abc") for argument in arguments]
    return sandbox.call(JOB, items, seconds=seconds, total_seconds=total_seconds)


def ended(pid: int) -> bool:
    """Whether the process is gone, waiting some seconds for it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "took longer"),
        ("spin", "took longer"),
        ("crash", "ended its reader"),
        ("memory", "too much memory"),
        ("depth", "nested too deeply"),
        ("garbage", "broke its reader"),
        ("long answer", "broke its reader"),
        ("raise", "ValueError"),
    ],
)
def test_a_fault_loses_one_item(fault: str, words: str) -> None:
    began = time.monotonic()
    before, lost, after = ask("a", fault, "b", seconds=2)
    assert (before, after) == (["a", 3], ["b", 3])
    assert isinstance(lost, Unreadable)
    assert words in lost.detail
    assert "\x1b" not in str(lost)
    assert time.monotonic() - began < 30


def test_what_it_prints_is_no_answer() -> None:
    assert ask("print", "a") == ["said", ["a", 3]]


def test_it_sees_no_secret_no_folder_of_ours_and_writes_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESCHER_SERVER_TOKEN", "s3cret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (environment, path, folder), lost = ask("environment", ["write", str(tmp_path / "x")])
    assert "s3cret" not in str(environment)
    assert set(environment) <= {"PATH", "LC_ALL"}
    assert str(tmp_path) not in path
    assert "" not in path
    assert folder == "/"
    assert isinstance(lost, Unreadable)
    assert not (tmp_path / "x").exists() or (tmp_path / "x").read_bytes() == b""


def test_many_faults_end_the_trying_and_all_is_told() -> None:
    began = time.monotonic()
    answers = ask(*["crash"] * 50, "a")
    assert len(answers) == 51
    assert all(isinstance(answer, Unreadable) for answer in answers)
    assert time.monotonic() - began < 30


def test_all_together_have_a_limit_too() -> None:
    began = time.monotonic()
    answers = ask(*[["sleep", 0.4]] * 50, seconds=10, total_seconds=2)
    assert "slept" in answers
    assert isinstance(answers[-1], Unreadable)
    assert time.monotonic() - began < 15


def test_a_child_serves_many_and_is_replaced_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({ask("pid")[0] for _ in range(5)}) == 1
    monkeypatch.setattr(sandbox, "MAX_USES", 3)
    assert len({ask("pid")[0] for _ in range(9)}) >= 2


def test_a_child_that_ended_while_idle_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = ask("pid")[0]
    os.kill(pid, 9)
    assert ended(pid)
    assert ask("a") == [["a", 3]]
    # it may also end between being taken and being asked
    child = sandbox._pool.take()
    monkeypatch.setattr(child.process, "poll", lambda: None)
    sandbox._pool.give_back(child)
    child._free_since -= 1000
    os.kill(child.process.pid, 9)
    assert ended(child.process.pid)
    assert ask("a") == [["a", 3]]


def test_more_callers_than_children_all_get_their_answers() -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda n: ask(n, "crash" if n % 4 == 0 else "x")[0], range(24)))
    assert answers == [[n, 3] for n in range(24)]
    assert sandbox._pool._count <= sandbox._pool._limit


def test_a_busy_child_does_not_hold_this_interpreter() -> None:
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    ask("spin", seconds=2)
    stop.set()
    thread.join()
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    assert max(gaps) < 1


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_it_ends_with_its_parent_however_that_ends(state: str) -> None:
    code = (
        "import sys, os, threading, time\n"
        "from core import sandbox\n"
        f"paths = (*sandbox._import_path(), {str(SUPPORT)!r})\n"
        "sandbox._import_path = lambda: paths\n"
        "(pid,) = sandbox.call('sandbox_jobs:job', [('pid', b'')], seconds=20)\n"
        "again = lambda: sandbox.call('sandbox_jobs:job', [('spin', b'')], seconds=2)\n"
        f"if {state == 'busy'}: threading.Thread(target=again, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert ended(pid)


def test_a_forked_process_has_children_of_its_own() -> None:
    pid = ask("pid")[0]
    reader, writer = os.pipe()
    forked = os.fork()
    if forked == 0:
        try:
            os.write(writer, str(ask("pid")[0]).encode())
            sandbox._pool.stop()
        finally:
            os._exit(0)
    os.waitpid(forked, 0)
    assert int(os.read(reader, 100)) not in {0, pid}
    assert ask("pid")[0] == pid  # and ours goes on
    os.close(reader)
    os.close(writer)


# -- streams ----------------------------------------------------------------------------------


def read(
    *arguments: Any, content: bytes = b"xy", seconds: float = 20, total: float = 60
) -> list[Any]:
    return list(
        sandbox.stream(YIELDS, list(arguments), content, seconds=seconds, total_seconds=total)
    )


def test_a_stream_gives_values_with_contents() -> None:
    assert read("a", "b") == [(["a", 2], b"xy"), (["b", 2], b"xy")]
    assert read() == []
    big = b"z" * (5 << 20)
    assert [len(content) for _, content in read("a", content=big)] == [len(big)]


@pytest.mark.parametrize("fault", ["hang", "spin", "crash", "memory", "garbage", "raise"])
def test_a_stream_breaks_off_with_an_error(fault: str) -> None:
    found = sandbox.stream(YIELDS, ["a", fault, "b"], seconds=2, total_seconds=60)
    assert next(found)[0] == ["a", 0]
    with pytest.raises(Unreadable):
        next(found)


def test_a_stream_that_drips_ends_at_its_limit_and_a_slow_caller_costs_nothing() -> None:
    with pytest.raises(Unreadable):
        read(*[["sleep", 0.3]] * 100, seconds=2, total=1)
    for _ in sandbox.stream(YIELDS, ["a", "b", "c"], seconds=1, total_seconds=1):
        time.sleep(0.6)


def test_a_stream_waits_for_no_place_and_leaves_none_behind() -> None:
    opened: list[Iterator[Any]] = [
        sandbox.stream(YIELDS, ["pid", "a"], seconds=20, total_seconds=60) for _ in range(6)
    ]
    pids = [next(found)[0] for found in opened]
    assert ask("a") == [["a", 3]]
    for found in opened:
        close: Callable[[], None] = found.close  # type: ignore[attr-defined]  # a generator
        close()
    assert all(ended(pid) for pid in pids)
    assert sandbox._pool._count <= sandbox._pool._limit
