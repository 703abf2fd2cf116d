from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.postgres import on_postgresql

from core.errors import JournalUnavailable
from core.journal import leases
from core.journal.leases import DEFAULT_SECONDS, is_dead, this_process
from core.models import Ref

A, B = Ref("a", "1.0.0"), Ref("b", "1.0.0")
ME = f"{this_process()}#one"
OTHER = f"{this_process()}#two"
ELSEWHERE = "another-host:1:1"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(leases, "time", SimpleNamespace(time=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def rows(put):
    put("a@1.0.0")
    put("b@1.0.0")


@pytest.fixture(scope="module")
def dead_process() -> str:
    """The owner string of a process of this host that is gone."""
    code = "from core.journal.leases import this_process; print(this_process())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    return done.stdout.strip()


def test_one_worker_at_a_time(journal, rows):
    assert set(journal.leases.acquire([A], ME)) == {A}
    assert set(journal.leases.acquire([A, B], OTHER)) == {B}, "what is free is taken all the same"
    journal.leases.release([A], ME)
    assert set(journal.leases.acquire([A], OTHER)) == {A}


def test_what_is_not_there_can_not_be_held(journal, rows):
    assert journal.leases.acquire([Ref("gone", "1.0.0")], ME) == {}
    assert journal.leases.acquire([], ME) == {}
    journal.leases.release([], ME)


def test_whoever_lost_its_lease_writes_nothing(journal, rows, clock):
    mine = journal.leases.acquire([A], ME)[A]
    clock.now += DEFAULT_SECONDS + 1
    theirs = journal.leases.acquire([A], OTHER)[A]

    assert theirs > mine
    assert not journal.versions.set(A, fence=mine, error="late")
    assert journal.versions.set(A, fence=theirs, error="mine")
    journal.leases.release([A], ME)
    assert journal.leases.acquire([A], ME) == {}, "a late release gives nobody else's lease back"
    assert journal.versions.get(A).error == "mine"


def test_taking_it_again_renews_it_under_a_new_fence(journal, rows, clock):
    first = journal.leases.acquire([A], ME)[A]
    clock.now += DEFAULT_SECONDS - 1
    second = journal.leases.acquire([A], ME)[A]
    assert second > first
    clock.now += DEFAULT_SECONDS - 1
    assert journal.leases.acquire([A], OTHER) == {}


def test_a_rewritten_row_keeps_its_lease(journal, put):
    put("a@1.0.0")
    fence = journal.leases.acquire([A], ME)[A]
    put("a@1.0.0", generation=2)
    assert journal.leases.acquire([A], OTHER) == {}
    assert journal.versions.set(A, fence=fence, attempts=1)


def test_a_dead_process_holds_nothing_back(journal, rows, dead_process):
    journal.leases.acquire([A], f"{dead_process}#task")
    assert set(journal.leases.acquire([A], ME)) == {A}


def test_a_process_elsewhere_is_not_judged_from_here(journal, rows, clock):
    journal.leases.acquire([A], ELSEWHERE)
    assert journal.leases.acquire([A], ME) == {}
    clock.now += DEFAULT_SECONDS + 1
    assert set(journal.leases.acquire([A], ME)) == {A}


def test_a_clock_that_was_set_back_a_day_locks_nobody_out(journal, rows, clock):
    journal.leases.acquire([A], ELSEWHERE)
    clock.now -= 86_400
    assert set(journal.leases.acquire([A], ME)) == {A}


def test_a_clock_that_steps_a_little_takes_no_lease_away(journal, rows, clock):
    journal.leases.acquire([A], ELSEWHERE)
    clock.now -= 60
    assert journal.leases.acquire([A], ME) == {}


def test_who_is_dead(dead_process):
    host, pid = socket.gethostname(), os.getpid()
    assert not is_dead(this_process())
    assert not is_dead(f"{this_process()}#task")
    assert is_dead(dead_process)
    assert is_dead(f"{host}:{pid}:1"), "a pid that was used again"
    assert not is_dead(f"other-{host}:{pid}:1")


@on_postgresql
def test_what_could_not_be_given_back_is_given_back_when_the_journal_is_there_again(
    journal, rows, postgres, journal_url
):
    journal.leases.acquire([A], ME)
    postgres.shut(journal_url)
    journal.leases.release([A], ME)
    with pytest.raises(JournalUnavailable):
        journal.leases.acquire([B], ME)
    postgres.open(journal_url)
    assert set(journal.leases.acquire([A, B], OTHER)) == {A, B}
