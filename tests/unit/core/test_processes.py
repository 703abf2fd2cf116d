"""Who is dead, as seen from the same process space, from another one, and after a clock was set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.processes import can_unshare, in_own_namespace

from core import processes
from core.errors import UsageError
from core.processes import SILENT_SECONDS, Deaths, OpenedHere, Owner, is_gone, this_process

SAY = "from core.processes import this_process; print(this_process(), flush=True)"
ROOT = Path(processes.__file__).parents[1]


def near(pid: int = 1, start: int = 1, id_: str = "near") -> Owner:
    return this_process()._replace(id=id_, pid=pid, start=start)


def far(id_: str = "far", **fields: object) -> Owner:
    """Its name, number and start are ours: two containers from one image, started together."""
    return this_process()._replace(**{"id": id_, "namespace": "4026539999", **fields})  # type: ignore[arg-type]


@dataclass
class Observer:
    """One who looks at heartbeats, by a clock of its own that only the test moves."""

    now: float = 1000.0
    one_kernel: bool = False

    def __post_init__(self) -> None:
        self.deaths = Deaths(one_kernel=self.one_kernel, monotonic=lambda: self.now)

    def sees_dead(self, owner: Owner, counter: int | None, after: float = 0.0) -> bool:
        """What it sees ``after`` seconds in which it looked at each heartbeat of its own."""
        counters = {} if counter is None else {owner.id: counter}
        until = self.now + after
        while self.now < until:
            self.now = min(self.now + 3.0, until)
            self.deaths.among([owner], lambda: counters)
        return owner in self.deaths.among([owner], lambda: counters)


def spawn(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


class TestOwner:
    def test_is_one_of_its_process_and_survives_being_written_down(self):
        me = this_process()
        assert this_process() == me
        assert Owner.parse(str(me)) == me
        assert len(str(me)) <= 120
        assert (me.pid, me.is_near) == (os.getpid(), True)

    def test_every_process_has_an_id_of_its_own_a_forked_one_too(self):
        me = this_process()
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writable, str(this_process()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        theirs = Owner.parse(os.read(readable, 500).decode())
        os.close(readable)
        os.close(writable)
        assert theirs.id != me.id
        assert theirs.pid == child

    @pytest.mark.parametrize("text", ["", "host:1:2", "a.b.c.d.e", "host-1:17:1700000000#task"])
    def test_anything_else_is_no_owner(self, text):
        with pytest.raises(ValueError):
            Owner.parse(text)


class TestInTheSameProcessSpace:
    def test_a_living_process_is_not_dead_and_one_that_was_killed_is_at_once(self):
        child = spawn(f"{SAY}; import time; time.sleep(60)")
        owner = Owner.parse(child.stdout.readline())
        try:
            assert is_gone(owner) is False
        finally:
            child.kill()
        deadline = time.monotonic() + 5
        while not is_gone(owner) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_gone(owner), "before its parent has looked, too"
        child.wait()
        assert is_gone(owner)
        child.stdout.close()

    def test_a_number_that_was_used_again_is_another_process(self):
        assert is_gone(near(os.getpid(), this_process().start - 1))
        assert is_gone(near(os.getpid(), this_process().start)) is False

    def test_a_stopped_process_lives(self):
        child = spawn(f"{SAY}; import time; time.sleep(60)")
        owner = Owner.parse(child.stdout.readline())
        child.send_signal(signal.SIGSTOP)
        assert is_gone(owner) is False
        observer = Observer()
        assert not observer.sees_dead(owner, 1)
        assert not observer.sees_dead(owner, 1, after=10 * SILENT_SECONDS)
        child.kill()
        child.communicate()


class TestElsewhere:
    def test_the_same_host_name_and_numbers_say_nothing(self):
        assert is_gone(far()) is None

    def test_who_stands_still_for_long_enough_is_dead(self):
        observer = Observer()
        assert not observer.sees_dead(far(), 7)
        assert not observer.sees_dead(far(), 7, after=SILENT_SECONDS - 1)
        assert observer.sees_dead(far(), 7, after=1)

    def test_who_moves_lives_however_seldom_one_looks(self):
        observer = Observer()
        for beat in range(5):
            observer.now += 10 * SILENT_SECONDS
            assert not observer.sees_dead(far(), beat)

    def test_where_the_observer_could_not_look_the_others_could_not_beat(self):
        observer = Observer()
        assert not observer.sees_dead(far(), 7)
        observer.now += 5 * SILENT_SECONDS  # the journal was away
        assert not observer.sees_dead(far(), 7)
        assert not observer.sees_dead(far(), 7, after=SILENT_SECONDS - 1)
        assert observer.sees_dead(far(), 7, after=1)

    def test_a_first_look_says_nothing(self):
        assert not Observer(now=1e9).sees_dead(far(), 7)

    def test_who_never_beat_is_given_the_same_time(self):
        observer = Observer()
        assert not observer.sees_dead(far(), None)
        assert observer.sees_dead(far(), None, after=SILENT_SECONDS)

    def test_a_beat_after_a_silence_begins_anew(self):
        observer = Observer()
        assert not observer.sees_dead(far(), 7, after=SILENT_SECONDS - 1)
        assert not observer.sees_dead(far(), 8)
        assert not observer.sees_dead(far(), 8, after=SILENT_SECONDS - 1)
        assert observer.sees_dead(far(), 8, after=1)

    def test_setting_the_clock_kills_nobody(self, monkeypatch):
        observer = Observer()
        assert not observer.sees_dead(far(), 7)
        for step in (86_400.0, -86_400.0 * 365):
            moved = time.time() + step
            monkeypatch.setattr(time, "time", lambda moved=moved: moved)
            assert not observer.sees_dead(far(), 7, after=1)

    def test_another_boot_is_dead_at_once_where_all_share_one_kernel(self):
        earlier = this_process()._replace(id="earlier", boot="0" * 32)
        assert Observer(one_kernel=True).sees_dead(earlier, 7)
        assert not Observer().sees_dead(earlier, 7), "that may be another machine, and alive"

    def test_where_nothing_can_be_told_only_the_heartbeat_counts(self, monkeypatch):
        nobody = this_process()._replace(id="x", boot="", namespace="", pid=2**22 + 1)
        assert is_gone(nobody, one_kernel=True) is None


@pytest.mark.skipif(not can_unshare(), reason="PID namespaces can't be made here (needs root)")
@pytest.mark.parametrize("own_proc", [True, False], ids=["own /proc", "outer /proc"])
def test_a_process_of_another_namespace_is_never_judged_by_its_number(own_proc):
    """In there its number is 1, as one is here; ours may be nobody's there."""
    code = (
        "import sys; from core.processes import *; "
        "print(this_process(), is_gone(Owner.parse(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(this_process())]
    child = in_own_namespace(arguments, own_proc=own_proc, stdin=subprocess.PIPE, cwd=ROOT)
    text, seen = child.stdout.readline().split()
    there = Owner.parse(text)
    assert seen == "None"
    assert is_gone(there) is None
    assert (there.boot, there.namespace) != (this_process().boot, this_process().namespace)
    child.communicate("")
    assert is_gone(there) is None, "its heartbeat will say"


def test_what_was_opened_before_a_fork_is_refused_after_it():
    opened = OpenedHere("The journal")
    opened.check()
    child = os.fork()
    if child == 0:
        try:
            opened.check()
        except UsageError as error:
            os._exit(0 if "after the fork" in error.remedy and not opened.is_so else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
