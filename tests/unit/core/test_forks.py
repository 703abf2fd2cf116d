from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripts import put_in_cache

from core.forks import ForkLock
from core.models import Ref
from core.scripts.entries import ScriptKey
from core.service import PlaybookService
from core.settings import Settings

WAIT_SECONDS = 20
PARTS: dict[str, Callable[[PlaybookService], ForkLock]] = {
    "journal": lambda service: service.journal.database._lock,
    "look-ups": lambda service: service.journal.script_rows._lock,
    "connections": lambda service: service.server._http._lock,
    "clear text": lambda service: service.script_manager.clear._lock,
    "traffic": lambda service: service.downloads.traffic._lock,
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PlaybookService]:
    settings = Settings(home=tmp_path / "home", server_url="http://127.0.0.1:9")
    with PlaybookService.open(settings) as opened:
        yield opened
        opened.script_manager.clear.remove_all()


def _ends(work: Callable[[], Any]) -> bool:
    """Whether a child that is forked now gets through ``work``."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(WAIT_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
    return child.exitcode == 0


def test_a_lock_that_was_held_is_free_in_a_forked_child_and_still_held_here():
    lock = ForkLock()

    def work() -> None:
        with lock:
            pass

    with lock:
        assert _ends(work)
        assert not lock._lock.acquire(blocking=False)
    work()


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_forked_child_resolves_whatever_the_parents_threads_were_doing(service, part):
    put_in_cache(service, ScriptKey(Ref("elsewhere", "1.0.0"), "shell"), {"shell/a.sh": b"echo\n"})
    clear = service.script_manager.clear

    def work() -> None:
        assert service.resolve_script("elsewhere", "shell", "1.0.0").read_bytes() == b"echo\n"
        clear.release(clear.write({"shell/a.sh": b"echo\n"}))
        service.server._http._current()
        service.downloads.traffic.add(1, 0)

    with part(service):
        assert _ends(work)
