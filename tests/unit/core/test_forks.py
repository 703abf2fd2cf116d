"""Every process opens its own service after its fork; its parent's is refused, and left whole."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripts import put_in_cache

from core.errors import UsageError
from core.models import Ref, ScriptKey
from core.service import PlaybookService
from core.settings import Settings

WAIT_SECONDS = 20
LOCKS: dict[str, Callable[[PlaybookService], Any]] = {
    "journal": lambda service: service.journal.database._lock,
    "look-ups": lambda service: service.journal.script_rows._lock,
    "connections": lambda service: service.server._http._lock,
    "leases": lambda service: service.journal.leases._lock,
    "heartbeat": lambda service: service.journal.leases._heartbeats._lock,
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PlaybookService]:
    settings = Settings(home=tmp_path / "home", server_url="http://127.0.0.1:9")
    with PlaybookService.open(settings) as opened:
        put_in_cache(opened, ScriptKey(Ref("elsewhere", "1.0.0"), "shell"), {"shell/a.sh": b"a\n"})
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


def _resolves(service: PlaybookService) -> bool:
    return service.resolve_script("elsewhere", "shell", "1.0.0").read_bytes() == b"a\n"


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_forked_child_opens_its_own_whatever_the_parents_threads_were_doing(service, lock):
    server = service.server

    def work() -> None:
        for forbidden in (
            lambda: service.resolve_script("elsewhere", "shell", "1.0.0"),
            service.list_playbooks,
            service.sync_all_metadata,
            lambda: server.script(Ref("elsewhere", "1.0.0")),
        ):
            with pytest.raises(UsageError, match="forked"):
                forbidden()
        service.close()
        with PlaybookService.open(service.settings) as own:
            assert _resolves(own)
            with own.journal.leases.holding("sync", [()]) as held:
                assert held

    with lock(service):
        assert _ends(work)
    assert _resolves(service)


def test_a_child_forked_while_a_thread_writes_can_write(service):
    """SQLite keeps in memory which locks its process holds; the child has no thread to end them."""
    begun, forked = threading.Event(), threading.Event()

    def write() -> None:
        with service.journal.database.write():
            begun.set()
            forked.wait(0.5)

    def work() -> None:
        with PlaybookService.open(service.settings) as own:
            own.journal.facts.set_once("written by", "a child")

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(WAIT_SECONDS)
    assert _ends(work)
    forked.set()
    thread.join()
    assert service.journal.facts.get("written by") == "a child"


def test_what_a_parent_handed_out_in_clear_is_left_by_its_child(service):
    lease = service.script_manager.clear.write({"shell/a.sh": b"echo\n"})
    assert _ends(service.close)
    assert lease.folder.exists()
