"""A process that dies at any step of a change leaves what the next one puts right.

The child is forked and ends by ``os._exit`` at its n-th change of the disk or the journal, as with
SIGKILL: no ``finally`` runs, the kernel drops its locks. Every n is tried until the child lives.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event
from support.script_cache import CacheUnderTest, key_of

OLD, NEW, SAME, WRONG = (key_of(f"{name}@1.0.0") for name in ("old", "new", "same", "wrong"))
SIZE = 9_000
CONTENT = {key: {"shell/a.sh": key.ref.playbook_id.encode() * SIZE} for key in (OLD, NEW, SAME)}
CONTENT = {key: {"shell/a.sh": files["shell/a.sh"][:SIZE]} for key, files in CONTENT.items()}
CONTENT[WRONG] = {"shell/a.sh": b"w" * 2_000, "shell/b.sh": b""}
OTHER = {"shell/a.sh": b"replaced" * 100}
CHANGES = frozenset({
    "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "os.truncate", "fcntl.flock",
})  # fmt: skip
MOST_STEPS = 300
KILLED = 77


class Steps:
    """Ends the process at its n-th change."""

    def __init__(self, deadly: int) -> None:
        self._left = deadly

    def step(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os._exit(KILLED)

    def audit(self, name: str, args: tuple[object, ...]) -> None:
        writes = name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or name in CHANGES:
            self.step()


def _open(home: Path) -> CacheUnderTest:
    # room for three of the big ones and some
    return CacheUnderTest(home, max_kib=33, lease=10, ttl=10_000)


def _prepare(under: CacheUnderTest) -> None:
    under.add(OLD, CONTENT[OLD])
    under.add(WRONG, CONTENT[WRONG])
    under.now += 100
    under.add(SAME, CONTENT[SAME])
    (under.folder(WRONG) / "a.sh").write_bytes(b"v" * 2_000)
    (under.cache.layout.scripts / "stray.txt").write_bytes(b"stray")


def _promote(under: CacheUnderTest) -> None:
    """Evicts, replaces what is wrong, keeps what is the same, takes in what is new."""
    keys = (NEW, SAME, WRONG)
    under.now += 100
    sizes = {key: sum(map(len, CONTENT[key].values())) + 500 for key in keys}
    for key in keys:
        under.reserve(key, sizes[key], f"hex-{key.ref.playbook_id}")
    items = [under.stage(key, CONTENT[key], name=f"hex-{key.ref.playbook_id}") for key in keys]
    under.cache.promote_many(
        items, settle=lambda connection: [under.forget(key, connection) for key in keys]
    )


def _replace(under: CacheUnderTest) -> None:
    under.now += 100
    item = under.stage(SAME, OTHER, name="hex")
    under.cache.promote_many([item])


def _quarantine(under: CacheUnderTest) -> None:
    assert under.cache.find(WRONG) is None
    under.cache.quarantine(OLD, "for the sake of it")


def _evict(under: CacheUnderTest) -> None:
    under.now += 9_950
    under.cache.find(SAME)
    under.cache.evict()


def _rebuild(under: CacheUnderTest) -> None:
    """After the index was lost."""
    under.close()
    for path in under.settings.home.glob("journal.db*"):
        path.unlink()
    under.open()
    under.cache.reconcile()


def _refresh_and_clear(under: CacheUnderTest) -> None:
    under.cache.refresh(SAME)
    under.now += 100
    under.cache.clear()


@pytest.mark.parametrize(
    "change", [_promote, _replace, _quarantine, _evict, _rebuild, _refresh_and_clear]
)
def test_a_kill_at_any_step_is_put_right(
    tmp_path: Path, change: Callable[[CacheUnderTest], None]
) -> None:
    template = tmp_path / "template"
    prepared = _open(template)
    _prepare(prepared)
    prepared.close()
    for deadly in range(1, MOST_STEPS):
        home = tmp_path / f"home-{deadly}"
        shutil.copytree(template, home)  # with the mtimes: they are the last uses
        code = _run_in_child(home, change, deadly)
        assert code in {0, KILLED}, f"step {deadly}"
        _check(home, f"step {deadly}")
        shutil.rmtree(home)
        if code == 0:
            assert deadly > 5
            return
    pytest.fail(f"still not done after {MOST_STEPS} steps")


def _run_in_child(home: Path, change: Callable[[CacheUnderTest], None], deadly: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            under = _open(home)
            under.now += 100
            steps = Steps(deadly)
            for moment in ("commit", "begin"):
                event.listen(under.journal.database.engine, moment, steps.step)
            sys.addaudithook(steps.audit)
            change(under)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _check(home: Path, where: str) -> None:
    under = _open(home)
    under.now += 300
    try:
        for key, files in CONTENT.items():  # before anything is put right
            assert under.bytes_of(key) in (None, files, OTHER), where
        under.cache.reconcile()
        assert under.disk_bytes() <= under.cache.max_bytes, where
        assert list(under.cache.layout.staging.iterdir()) == [], where
        assert under.cache.verify() == [], where
        for key, files in CONTENT.items():
            found = under.bytes_of(key)
            assert found in (None, files, OTHER), where
            assert not (key == WRONG and found == OTHER), where
        assert under.cache.usage()["reserved_bytes"] == 0, where
        under.now += 100
        for key, files in CONTENT.items():
            under.add(key, files)
            assert under.bytes_of(key) == files, where
            under.now += 100
        assert under.disk_bytes() <= under.cache.max_bytes, where
        assert under.cache.verify() == [], where
    finally:
        under.close()
