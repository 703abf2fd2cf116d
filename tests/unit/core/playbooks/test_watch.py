"""A watch calls once when the folders are quiet again, and not for what is no edit."""

from __future__ import annotations

import threading
import time

import pytest

from core.models import Ref
from core.playbooks import watch

QUIET = 0.4
REF = Ref("stop-rds", "1.0.0")


@pytest.fixture
def watched(store, settings, make_draft):
    settings.edit_quiet_seconds = QUIET
    store.create(make_draft(), check_scripts=False)
    calls: list[float] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=watch.watch, args=(settings, lambda: calls.append(time.monotonic()), stop)
    )
    thread.start()
    ready = store.layout.root / "local" / "ready"
    deadline = time.monotonic() + 10
    while not calls and time.monotonic() < deadline:  # until the watch is heard to run
        ready.write_text(str(time.monotonic()))
        stop.wait(QUIET * 2)
    stop.wait(QUIET * 3)
    calls.clear()
    yield store.folder(REF), calls
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def wait_for(calls: list[float], count: int) -> None:
    deadline = time.monotonic() + 10
    while len(calls) < count and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert len(calls) == count


def test_an_edit_is_told_once_when_it_is_quiet(watched):
    folder, calls = watched
    for number in range(4):
        (folder / "shell/stop.sh").write_text(f"echo {number}\n")
        threading.Event().wait(QUIET / 4)
    last = time.monotonic() - QUIET / 4
    wait_for(calls, 1)
    assert QUIET <= calls[0] - last < QUIET + 2
    threading.Event().wait(QUIET * 3)
    assert len(calls) == 1


def test_new_folders_are_watched_too(watched):
    folder, calls = watched
    (folder / "python/deep").mkdir(parents=True)
    wait_for(calls, 1)
    (folder / "python/deep/x.py").write_text("x = 1\n")
    wait_for(calls, 2)


def test_staging_and_editors_files_are_no_edits(watched, store):
    folder, calls = watched
    (store.layout.staging / "abc").mkdir()
    (store.layout.staging / "abc" / "metadata.json").write_text("{}")
    (folder / "shell/.stop.sh.swp").write_text("b0VIM")
    threading.Event().wait(QUIET * 4)
    assert calls == []


def test_a_system_that_can_not_watch_is_logged(settings, monkeypatch, caplog):
    def full(*_: object, **__: object):
        raise OSError("OS file watch limit reached.")
        yield

    monkeypatch.setattr(watch, "watch_files", full)
    watch.watch(settings, lambda: pytest.fail("nothing changed"), threading.Event())
    assert "max_user_watches" in caplog.text
