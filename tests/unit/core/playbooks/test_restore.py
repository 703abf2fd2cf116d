"""A published folder comes back to what was published, whatever kills or fails in between."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.processes import open_anew

from core.errors import IntegrityError, LeaseHeld, NotFound, Refused, ServerUnreachable
from core.journal import Journal
from core.journal.database import Database
from core.models import Area, Move, Ref
from core.playbooks.compare import stat_folder
from core.playbooks.edits import Edits
from core.playbooks.held import HeldEdits
from core.playbooks.restore import Restorer
from core.playbooks.scan import Scan
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")
OLD = {"shell/stop.sh": b"echo stop\n", "python/a.py": b"a = 1\n"}
NEW = {"shell/stop.sh": b"echo new\n", "python/a.py": b"a = 1\n"}
MAX_POINTS = 200


@pytest.fixture
def restorer(store, envelope, settings):
    return Restorer(store)


@pytest.fixture
def folder(store, make_draft) -> Path:
    store.create(make_draft(OLD), check_scripts=False)
    store.journal.versions.set(REF, revision=1)
    store.move([Move(REF, Area.SYNCED)])
    return store.folder(REF)


def seen(folder: Path):
    return stat_folder(folder, 0, with_parent=True)


def published(_: Ref) -> dict[str, bytes]:
    return OLD


def unreachable(_: Ref) -> dict[str, bytes]:
    raise ServerUnreachable("No answer.")


def test_only_what_is_missing_is_asked_for(restorer, store, folder):
    restorer.restore(REF, unreachable, seen(folder))  # nothing is
    (folder / "shell/stop.sh").unlink()
    assert restorer.restore(REF, published, seen(folder))
    assert store.read(REF) == OLD
    assert verify(store) == []


@pytest.mark.parametrize(
    "fetch",
    [
        unreachable,
        lambda _: {},
        lambda _: {"shell/stop.sh": b"something else"},
    ],
)
def test_without_the_right_bytes_the_metadata_stands_alone(restorer, store, folder, fetch):
    (folder / "shell/stop.sh").write_bytes(b"edited\n")
    assert not restorer.restore(REF, fetch, seen(folder))
    assert [path.name for path in folder.iterdir()] == ["metadata.json"]
    assert verify(store) == []
    with pytest.raises(NotFound, match="only its metadata"):
        store.read(REF)


def test_a_folder_that_is_another_one_by_now_is_left(restorer, folder):
    (folder / "shell/stop.sh").write_bytes(b"edited\n")
    before = seen(folder)
    (folder / "shell/stop.sh").write_bytes(b"edited again\n")
    with pytest.raises(LeaseHeld):
        restorer.restore(REF, published, before)
    assert (folder / "shell/stop.sh").read_bytes() == b"edited again\n"


def test_a_vanished_folder_is_brought_back_with_the_right_bytes_only(restorer, store, folder):
    shutil.rmtree(folder)
    with pytest.raises(ServerUnreachable):
        restorer.bring_back(REF, unreachable)
    with pytest.raises(IntegrityError):
        restorer.bring_back(REF, lambda _: OLD | {"shell/stop.sh": b"evil\n"})
    assert not folder.exists()
    restorer.bring_back(REF, published)
    assert store.read(REF) == OLD


def test_what_stands_there_again_is_not_overwritten(restorer, folder):
    with pytest.raises(LeaseHeld):
        restorer.bring_back(REF, published)
    assert (folder / "shell/stop.sh").read_bytes() == OLD["shell/stop.sh"]


def test_what_is_no_part_of_a_playbook_stays(restorer, folder):
    (folder / "notes/deep").mkdir(parents=True)
    (folder / "notes/deep/a.txt").write_text("a")
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    (folder / "shell/.stop.sh.swp").write_bytes(b"b0VIM")
    (folder / "shell/more.sh").write_bytes(b"a part of the edit\n")
    assert restorer.restore(REF, published, seen(folder))
    assert (folder / "notes/deep/a.txt").read_text() == "a"
    assert (folder / "link").is_symlink()
    assert (folder / "shell/.stop.sh.swp").exists()
    assert not (folder / "shell/more.sh").exists()


def test_an_unpublished_version_has_nothing_to_be_restored_from(restorer, store, make_draft):
    store.create(make_draft(OLD))
    with pytest.raises(Refused):
        restorer.restore(REF, published, seen(store.folder(REF)))


# -- killed at every step -------------------------------------------------------------------
def killed_at(journal: Journal, point: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that kills itself before its n-th step; whether it got to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            open_anew(journal)
            _count_down(point)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _count_down(point: int) -> None:
    left = [point]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "link"):
        setattr(os, name, around(getattr(os, name)))
    real_write = Database.write

    @contextmanager
    def write(self: Database, *, alone: bool = True) -> Iterator[Any]:
        with real_write(self, alone=alone) as connection:
            yield connection
            if alone:  # a heartbeat is no step
                tick()
        if alone:
            tick()

    Database.write = write  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["local", "sensitive", "published", "offline", "renamed"])
def test_killed_at_any_step_the_edit_is_there_afterwards(
    store, envelope, settings, make_draft, kind, monkeypatch
):
    """Whatever was done by then, the next sync finishes it, and nothing is there twice."""
    # each child that is killed would start a reader of scripts, which has no step
    monkeypatch.setattr("core.sandbox.call", lambda _, items, **__: [[] for _ in items])
    fetch = unreachable if kind == "offline" else published
    is_published = kind in {"published", "offline"}

    def sync() -> None:
        found = Scan(store, settings).run(now_ns=time.time_ns() + 10_000_000_000)
        Edits(store, settings).take(found, fetch)

    for point in range(MAX_POINTS):
        store.delete(store.journal.versions.refs())
        store.create(make_draft(OLD, sensitive=kind == "sensitive"), check_scripts=False)
        if is_published:
            store.journal.versions.set(REF, revision=1)
            store.move([Move(REF, Area.SYNCED)])
        folder = store.folder(REF)
        (folder / "README.md").write_text("mine")
        (folder / "shell/stop.sh").write_bytes(NEW["shell/stop.sh"])
        if kind == "renamed":
            folder.rename(folder.with_name("v2.0.0"))
        was_killed = killed_at(store.journal, point, sync)
        store.writer.recover()
        for _ in range(2):
            sync()
        versions = sorted(ref.version for ref in store.journal.versions.refs())
        expected = {"renamed": ["2.0.0"]} | {key: ["1.0.0"] for key in ("local", "sensitive")}
        assert versions == expected.get(kind, ["1.0.0", "1.0.1"]), point
        if kind == "sensitive":  # held beside what goes on being answered, until it is accepted
            assert store.read(REF) == OLD, point
            held = HeldEdits(store, settings.conflicts_path)
            held.accept(held.of(str(REF)))
        assert store.read(Ref("stop-rds", versions[-1])) == NEW, point
        if kind == "published":
            assert store.read(REF) == OLD
        assert (store.folder(Ref("stop-rds", versions[0])) / "README.md").exists(), point
        assert verify(store) == [], point
        assert store.journal.intents.open() == []
        if not was_killed:
            assert point > 5
            return
    pytest.fail("the sync never came to its end")
