"""Clear text of sensitive scripts: private, on memory where there is one, and gone in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.service import eventually

from core.errors import Refused
from core.scripts import clear_text
from core.scripts.clear_text import ClearLease, ClearText
from core.settings import Settings

SCRIPT = {"shell/run.sh": b"#!/bin/sh\necho CANARY-SECRET\n", "shell/lib/a.sh": b"x"}
# writes a lease, says where, and waits to be killed
MAKER = """
import sys, time
from pathlib import Path
from core.scripts.clear_text import ClearText
from core.settings import Settings
settings = Settings(home=Path(sys.argv[1]), clear_text_seconds=60)
lease = ClearText(settings).write({"shell/run.sh": b"x"}, held=sys.argv[2] == "held")
print(lease.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", clear_text_seconds=60)


@pytest.fixture
def clear(settings, monkeypatch) -> Iterator[ClearText]:  # whose changes last till it is cleared
    made = ClearText(settings)
    yield made
    made.remove_all()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _root(clear: ClearText) -> Path:
    """Where new clear text goes."""
    lease = clear.write(SCRIPT)
    clear.release(lease.folder)
    return lease.folder.parent


def _by_the_killed(settings: Settings, kind: str, *, helper_too: bool = True) -> Path:
    """What a process that was killed had written."""
    command = [sys.executable, "-c", MAKER, str(settings.home), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        folder = Path(maker.stdout.readline().strip())
        if helper_too:
            _kill_helpers(folder.parent)
        maker.kill()
    return folder


def _helpers(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "-c" in line and str(root) in line:
            found.append(process)
    return found


def _kill_helpers(root: Path) -> None:
    helpers = eventually(lambda: _helpers(root), 10, "it has a helper")
    for helper in helpers:
        helper.send_signal(signal.SIGKILL)
    eventually(lambda: not _helpers(root), 10, "they are dead")


class TestALease:
    def test_is_private_and_says_when_it_ends(self, clear):
        before = time.time()
        lease = clear.write(SCRIPT)
        assert {path: (lease.folder / path).read_bytes() for path in SCRIPT} == SCRIPT
        assert before + 60 <= lease.ends_at <= time.time() + 62
        assert [_mode(lease.folder.parent), _mode(lease.folder)] == [0o700, 0o700]
        assert {_mode(lease.folder / path) for path in SCRIPT} == {0o600}
        assert {_mode((lease.folder / path).parent) for path in SCRIPT} == {0o700}

    def test_is_on_memory_where_there_is_some(self, clear, settings):
        memory = [
            line for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[1:3] == ["/dev/shm", "tmpfs"]
        ]  # fmt: skip
        if not memory:
            pytest.skip("no tmpfs at /dev/shm")
        root = clear.write(SCRIPT).folder.parent
        assert settings.home not in root.parents
        assert clear_text.is_memory(root.parent)

    def test_is_in_the_home_where_there_is_none(self, clear, settings, monkeypatch):
        monkeypatch.setattr(clear_text, "is_memory", lambda path: False)
        lease = clear.write(SCRIPT)
        assert lease.folder.parent == settings.home / "run" / "clear"
        assert _mode(lease.folder.parent) == 0o700

    def test_has_nothing_in_common_with_another(self, clear):
        first, second = clear.write(SCRIPT), clear.write(SCRIPT)
        assert first.folder != second.folder
        clear.release(first.folder)
        assert not first.folder.exists()
        assert (second.folder / "shell/run.sh").exists()
        clear.release(first.folder)  # again is fine

    def test_of_one_home_is_not_another_homes(self, clear, tmp_path):
        lease = clear.write(SCRIPT)
        neighbour = ClearText(Settings(home=tmp_path / "other"))
        assert neighbour.remove_all() == 0
        assert lease.folder.exists()

    def test_ends_at_its_time(self, clear):
        short, long = clear.write(SCRIPT, seconds=0.1), clear.write(SCRIPT)
        held = clear.write(SCRIPT, held=True, seconds=0.1)
        eventually(lambda: not short.folder.exists(), 5, "its time is over")
        eventually(lambda: not held.folder.exists(), 5, "its time is over")
        assert long.folder.exists()

    def test_is_removed_though_something_was_added_or_taken_away(self, clear):
        lease = clear.write(SCRIPT)
        (lease.folder / "shell/run.sh").unlink()
        (lease.folder / "out.log").write_text("written by the script")
        clear.release(lease.folder)
        assert not lease.folder.exists()

    def test_is_removed_though_its_script_closed_a_folder(self, clear):
        lease = clear.write(SCRIPT)
        (lease.folder / "shell").chmod(0o500)
        clear.release(lease.folder)
        assert not lease.folder.exists()


def test_a_root_that_down_takes_away_meanwhile_is_made_again(clear, monkeypatch):
    made = clear_text.own_private_dir
    removed = []

    def make_and_lose(path: Path) -> None:
        made(path)
        if not removed:
            removed.append(path.rmdir())

    monkeypatch.setattr(clear_text, "own_private_dir", make_and_lose)
    lease = clear.write(SCRIPT)
    assert (_mode(lease.folder.parent), _mode(lease.folder)) == (0o700, 0o700)


class TestTheHomesOwnRoot:
    @pytest.fixture(autouse=True)
    def _in_home(self, monkeypatch) -> None:
        monkeypatch.setattr(clear_text, "is_memory", lambda path: False)

    @pytest.fixture
    def root(self, settings) -> Path:
        return settings.run_path / "clear"

    def test_open_to_others_is_closed(self, clear, root):
        root.mkdir(parents=True)
        root.chmod(0o750)
        assert _mode(clear.write(SCRIPT).folder.parent) == 0o700

    def test_that_is_a_link_is_refused(self, clear, root, tmp_path):
        root.parent.mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        root.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Refused, match="no folder"):
            clear.write(SCRIPT)
        assert list((tmp_path / "elsewhere").iterdir()) == []
        assert clear.remove_all() == 0

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")
    def test_of_somebody_else_is_refused(self, clear, root):
        root.mkdir(parents=True, mode=0o700)
        os.chown(root, 12345, 12345)
        with pytest.raises(Refused, match="belongs to user 12345"):
            clear.write(SCRIPT)


class TestARootInASharedPlace:
    """Somebody who knows its name may stand there first; that keeps nobody from working."""

    @pytest.fixture
    def shared(self, clear, tmp_path, monkeypatch) -> Path:
        """A root as under ``/dev/shm``, which anybody could have made."""
        place = tmp_path / "shm"
        place.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        monkeypatch.setattr(clear_text, "is_memory", lambda path: path == place)
        root = _root(clear)
        clear.remove_all()
        assert root.parent == place
        return root

    def squat(self, shared: Path, how: str, tmp_path: Path) -> None:
        if how == "a link":
            (tmp_path / "theirs").mkdir()
            shared.symlink_to(tmp_path / "theirs")
        elif how == "a file":
            shared.write_text("")
        else:  # another user's folder
            shared.mkdir(mode=0o777)
            if os.getuid() != 0:
                pytest.skip("only root gives folders away")
            os.chown(shared, 12345, 12345)

    @pytest.mark.parametrize("how", ["a link", "a file", "another user's folder"])
    def test_is_passed_over(self, clear, settings, shared, how, tmp_path):
        self.squat(shared, how, tmp_path)
        lease = clear.write(SCRIPT)
        assert lease.folder.parent == settings.run_path / "clear"
        assert not (tmp_path / "theirs").exists() or not list((tmp_path / "theirs").iterdir())
        assert clear.remove_all() == 1
        assert os.path.lexists(shared), "what is not ours is left alone"

    def test_of_ours_that_others_may_enter_is_closed(self, clear, shared):
        shared.mkdir()
        shared.chmod(0o755)
        assert clear.write(SCRIPT).folder.parent == shared
        assert _mode(shared) == 0o700

    def test_whose_place_is_taken_after_down_keeps_what_is_there(self, clear, shared, tmp_path):
        lease = clear.write(SCRIPT)
        clear.remove_all()
        self.squat(shared, "a link", tmp_path)
        there = tmp_path / "theirs" / lease.folder.name.replace(str(lease.ends_at), "1")
        there.mkdir()
        eventually(lambda: not _helpers(shared), 10, "the helper has nothing left")
        assert there.exists()


class TestWhatAKilledProcessLeaves:
    @pytest.mark.parametrize("kind", ["held", "handed out"])
    def test_is_removed_by_the_helper(self, clear, settings, kind):
        folder = _by_the_killed(settings, kind, helper_too=False)
        if kind == "handed out":
            assert folder.exists(), "somebody may use it to its end"
            folder.rename(folder.with_name(f"{int(time.time()) + 1}{folder.name[10:]}"))
        eventually(lambda: not list(folder.parent.glob("*-*")), 10, "nobody needs it any more")
        eventually(lambda: not folder.parent.exists(), 10, "the root goes, too")

    def test_is_removed_at_the_next_start_when_its_maker_held_it(self, clear, settings):
        folder = _by_the_killed(settings, "held")
        assert folder.exists()
        assert clear.recover() == 1
        assert not folder.exists()

    def test_stays_to_its_end_when_it_was_handed_out(self, clear, settings):
        folder = _by_the_killed(settings, "handed out")
        assert clear.recover() == 0
        assert folder.exists()
        assert len(_helpers(folder.parent)) == 1, "it has a helper again"
        _kill_helpers(folder.parent)
        folder.rename(folder.with_name(f"{int(time.time()) - 5}{folder.name[10:]}"))
        assert clear.recover() == 1
        assert clear.leases() == []

    def test_is_left_alone_while_its_holder_lives(self, clear, settings):
        lease = clear.write(SCRIPT, held=True)
        assert ClearText(settings).recover() == 0
        assert lease.folder.exists()

    def test_by_an_earlier_version_ends_by_its_time(self, clear):
        folder = clear.write(SCRIPT).folder
        names = ("h-0123456789abcdef@host.1", "t-17-1700000000-0123456789abcdef@host")
        now = int(time.time())
        for name, end, goes in [(name, now + 60, 0) for name in names] + [(names[0], now - 5, 1)]:
            folder = folder.rename(folder.with_name(f"{end}-{name}"))
            assert clear.recover() == goes
        assert not folder.exists()


def test_other_names_are_left_alone(clear):
    lease = clear.write(SCRIPT)
    (lease.folder.parent / "mine").mkdir()
    clear.recover()
    clear.remove_all()
    assert (lease.folder.parent / "mine").is_dir()
    (lease.folder.parent / "mine").rmdir()


def test_down_removes_all_and_the_root(clear):
    leases = [clear.write(SCRIPT), clear.write(SCRIPT, held=True)]
    assert clear.remove_all() == 2
    assert not any(lease.folder.exists() for lease in leases)
    assert not leases[0].folder.parent.exists()
    assert clear.remove_all() == 0
    assert clear.write(SCRIPT).folder.exists(), "and it works again"


class TestTheHelper:
    def test_is_one_a_root_and_ends_with_the_last_lease(self, clear, settings):
        root = clear.write(SCRIPT).folder.parent
        ClearText(settings).write(SCRIPT, held=True)
        assert len(_helpers(root)) == 1
        clear.remove_all()
        eventually(lambda: not _helpers(root), 10, "there is nothing left to wait for")

    def test_is_there_for_a_lease_that_comes_as_it_ends(self, clear):
        root = clear.write(SCRIPT, seconds=0.1).folder.parent
        deadline = time.monotonic() + 2.5
        while _helpers(root) and time.monotonic() < deadline:
            clear.release(clear.write(SCRIPT).folder)
        clear.write(SCRIPT)
        eventually(lambda: len(_helpers(root)) == 1, 10, "the one that came after")
        assert clear.leases()

    def test_needs_the_standard_library_alone(self):
        program = f"import sys; sys.path.append({str(Path.cwd())!r})"
        program += "; import core.scripts.clear_text"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)
        assert done.returncode == 0

    def test_bounds_a_stay_when_the_clock_is_set_back(self, clear, monkeypatch):
        lease = clear.write(SCRIPT)
        root = lease.folder.parent
        _kill_helpers(root)
        monkeypatch.setattr(clear_text, "LOOK_SECONDS", 0.05)
        clear_text.remove_in_time(str(root), 0.1, os.open(root, os.O_RDONLY))
        assert not lease.folder.exists()

    def test_that_can_not_be_started_is_made_up_for(self, clear, monkeypatch, caplog):
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        lease: ClearLease = clear.write(SCRIPT, seconds=0.1)
        assert "no helper" in caplog.text
        eventually(lambda: not lease.folder.exists(), 10, "this process removes it")


def test_a_forked_child_leaves_its_parents_leases(clear):
    held, lease = clear.write(SCRIPT, held=True), clear.write(SCRIPT)
    child = os.fork()
    if child == 0:
        os._exit(clear.recover())
    assert os.waitpid(child, 0)[1] == 0
    assert clear.recover() == 0
    assert held.folder.exists()
    assert lease.folder.exists()
