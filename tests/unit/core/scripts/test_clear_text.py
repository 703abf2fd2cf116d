"""Clear text of sensitive scripts: private, on memory where there is one, and gone in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import dead_owner
from support.service import eventually

from core.errors import Refused
from core.scripts import clear_text, reaper
from core.scripts.clear_text import ClearText
from core.settings import Settings

SCRIPT = {"shell/run.sh": b"#!/bin/sh\necho CANARY-SECRET\n", "shell/lib/a.sh": b"x"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", clear_text_seconds=60)


@pytest.fixture
def spawned() -> list[tuple[Path, float]]:
    return []


@pytest.fixture
def clear(settings, spawned) -> Iterator[ClearText]:
    made = ClearText(settings, spawn=lambda root, seconds: spawned.append((root, seconds)))
    yield made
    made.remove_all()
    made.close()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _as_if_by_the_dead(folder: Path, ends_at: int | None = None) -> Path:
    lease = reaper.read_name(folder.name)
    assert lease is not None
    other = lease._replace(owner=str(dead_owner()), ends_at=ends_at or lease.ends_at)
    return folder.rename(folder.with_name(other.text))


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
        assert settings.home not in clear.root.parents
        assert clear_text.is_memory(clear.root.parent)

    def test_is_in_the_home_where_there_is_none(self, clear, settings, monkeypatch):
        monkeypatch.setattr(clear_text, "is_memory", lambda path: False)
        lease = clear.write(SCRIPT)
        assert lease.folder.parent == settings.home / "run" / "clear"
        assert _mode(lease.folder.parent) == 0o700

    def test_has_nothing_in_common_with_another(self, clear):
        first, second = clear.write(SCRIPT), clear.write(SCRIPT)
        assert first.folder != second.folder
        clear.release(first)
        assert not first.folder.exists()
        assert (second.folder / "shell/run.sh").exists()
        clear.release(first)  # again is fine

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
        clear.release(lease)
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

    def test_open_to_others_is_closed(self, clear):
        clear.root.mkdir(parents=True)
        clear.root.chmod(0o750)
        assert _mode(clear.write(SCRIPT).folder.parent) == 0o700

    def test_that_is_a_link_is_refused(self, clear, tmp_path):
        clear.root.parent.mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        clear.root.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Refused, match="no folder"):
            clear.write(SCRIPT)
        assert list((tmp_path / "elsewhere").iterdir()) == []
        assert clear.remove_all() == 0

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")
    def test_of_somebody_else_is_refused(self, clear):
        clear.root.mkdir(parents=True, mode=0o700)
        os.chown(clear.root, 12345, 12345)
        with pytest.raises(Refused, match="belongs to user 12345"):
            clear.write(SCRIPT)


class TestARootInASharedPlace:
    """Somebody who knows its name may stand there first; that keeps nobody from working."""

    @pytest.fixture
    def shared(self, settings, tmp_path, monkeypatch) -> Path:
        """A root as under ``/dev/shm``, which anybody could have made."""
        place = tmp_path / "shm"
        place.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        monkeypatch.setattr(clear_text, "is_memory", lambda path: path == place)
        return clear_text.best_root(settings)

    def squat(self, shared: Path, how: str, tmp_path: Path, monkeypatch) -> None:
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
    def test_is_passed_over(self, clear, settings, shared, how, tmp_path, monkeypatch):
        assert shared.parent == tmp_path / "shm"
        self.squat(shared, how, tmp_path, monkeypatch)
        lease = clear.write(SCRIPT)
        assert lease.folder.parent == settings.run_path / "clear" == clear.root
        assert not (tmp_path / "theirs").exists() or not list((tmp_path / "theirs").iterdir())
        assert clear.remove_all() == 1
        assert os.path.lexists(shared), "what is not ours is left alone"

    def test_that_is_taken_in_the_last_moment_is_passed_over(
        self, clear, settings, shared, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(clear_text, "_is_fit", lambda *_: True)
        self.squat(shared, "a link", tmp_path, monkeypatch)
        assert clear.write(SCRIPT).folder.parent == settings.run_path / "clear"

    def test_of_ours_that_others_may_enter_is_closed(self, clear, shared):
        shared.mkdir()
        shared.chmod(0o755)
        assert clear.write(SCRIPT).folder.parent == shared
        assert _mode(shared) == 0o700


class TestAfterACrash:
    def test_what_has_ended_goes(self, clear):
        old = _as_if_by_the_dead(clear.write(SCRIPT).folder, ends_at=int(time.time()) - 5)
        assert clear.recover() == 1
        assert not old.exists()

    def test_what_a_dead_process_held_goes(self, clear):
        lease = clear.write(SCRIPT, held=True)
        assert clear.recover() == 0, "its holder lives"
        dead = _as_if_by_the_dead(lease.folder)
        assert clear.recover() == 1
        assert not dead.exists()

    def test_what_it_handed_out_stays_to_its_end_with_a_reaper(self, clear, spawned):
        lease = clear.write(SCRIPT)
        dead = _as_if_by_the_dead(lease.folder)
        assert clear.recover() == 0
        assert dead.exists()
        assert spawned == [(dead.parent, 60)]

    def test_a_name_of_an_earlier_version_ends_by_its_time(self, clear):
        folder = clear.write(SCRIPT).folder
        now = int(time.time())
        for end, goes in ((now + 60, 0), (now - 5, 1)):
            folder = folder.rename(folder.with_name(f"{end}-t-17-1700000000-0123456789abcdef@host"))
            assert clear.recover() == goes
        assert not folder.exists()

    def test_other_names_are_left_alone(self, clear):
        lease = clear.write(SCRIPT)
        (lease.folder.parent / "mine").mkdir()
        clear.recover()
        clear.remove_all()
        assert (lease.folder.parent / "mine").is_dir()
        (lease.folder.parent / "mine").rmdir()

    def test_down_removes_all_and_the_root(self, clear):
        leases = [clear.write(SCRIPT), clear.write(SCRIPT, held=True)]
        assert clear.remove_all() == 2
        assert not any(lease.folder.exists() for lease in leases)
        assert not leases[0].folder.parent.exists()
        assert clear.remove_all() == 0
        clear.write(SCRIPT)  # and it works again


class TestAReaper:
    def test_takes_over_when_the_process_closes(self, settings):
        clear = ClearText(settings)
        lease = clear.write(SCRIPT, seconds=0.5)
        root = lease.folder.parent
        clear.close()
        assert lease.folder.exists()
        eventually(lambda: not lease.folder.exists(), 10, "the reaper removes it")
        eventually(lambda: not _reapers(root), 10, "it ends with the last lease")
        assert not root.exists()

    def test_is_one_a_root_and_ends_when_all_was_removed(self, settings):
        clear = ClearText(settings)
        for _ in range(2):
            lease = clear.write(SCRIPT)
            clear.close()
        root = lease.folder.parent
        assert clear_text._has_reaper(root) or _reapers(root)
        eventually(lambda: len(_reapers(root)) == 1, 20, "the second sees the first at work")
        clear.remove_all()
        eventually(lambda: not _reapers(root), 10, "there is nothing left to wait for")

    def test_is_not_needed_for_what_was_released(self, clear, spawned):
        clear.release(clear.write(SCRIPT))
        clear.write(SCRIPT, held=True)
        clear.close()
        assert spawned == []

    def test_needs_the_standard_library_alone(self):
        program = f"import runpy; runpy.run_path({reaper.__file__!r})"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)
        assert done.returncode == 0

    def test_bounds_a_stay_when_the_clock_is_set_back(self, clear, monkeypatch):
        lease = clear.write(SCRIPT)
        monkeypatch.setattr(reaper, "SCAN_SECONDS", 0.05)
        reaper.reap(str(lease.folder.parent), max_seconds=0.1)
        assert not lease.folder.exists()


def test_a_forked_child_leaves_its_parents_leases(clear, spawned):
    lease = clear.write(SCRIPT)
    child = os.fork()
    if child == 0:
        clear.close()
        os._exit(1 if spawned else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert lease.folder.exists()


def _reapers(root: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if str(reaper.__file__) in line and str(root) in line:
            found.append(process.pid)
    return found
