from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from core.journal import JobState, Journal, claims
from core.journal.leases import this_process

ME, OTHER = f"{this_process()}#one", f"{this_process()}#two"
ELSEWHERE = "another-host:1:1"


def test_one_at_a_time_wherever_it_was_asked_for(journal: Journal, journal_url: str) -> None:
    assert journal.claims.take("sync", ME)
    second = Journal(journal_url)
    assert not second.claims.take("sync", OTHER)
    assert not second.claims.take("sync", ELSEWHERE)
    assert second.claims.holder("sync") == ME
    assert second.claims.take("another", OTHER)
    second.close()


def test_the_holder_renews_and_gives_back(journal: Journal) -> None:
    assert journal.claims.take("sync", ME)
    assert journal.claims.take("sync", ME)
    journal.claims.give_back("sync", OTHER)  # not its own
    assert journal.claims.holder("sync") == ME
    journal.claims.give_back("sync", ME)
    assert journal.claims.holder("sync") is None
    assert journal.claims.take("sync", OTHER)


def test_a_dead_process_is_followed_at_once(journal: Journal) -> None:
    code = "from core.journal.leases import this_process; print(this_process())"
    dead = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert journal.claims.take("sync", dead)
    assert journal.claims.take("sync", ME)


@pytest.mark.parametrize("later", [claims.CLAIM_SECONDS + 1, -3 * claims.CLAIM_SECONDS])
def test_another_hosts_runs_out(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    assert journal.claims.take("sync", ELSEWHERE)
    now = time.time() + later  # or the clock was set back
    monkeypatch.setattr(claims, "time", SimpleNamespace(time=lambda: now))
    assert journal.claims.take("sync", ME)


def test_who_asks_meanwhile_is_not_forgotten(journal: Journal) -> None:
    assert journal.claims.take("sync", ME)
    job_id, _ = journal.jobs.create("sync", {})
    assert not journal.claims.give_back_unless_asked("sync", ME, "sync")
    assert journal.claims.holder("sync") == ME
    journal.jobs.finish(job_id, JobState.SUCCEEDED)
    assert journal.claims.give_back_unless_asked("sync", ME, "sync")
    assert journal.claims.holder("sync") is None


def test_long_work_keeps_its_claim_and_gives_it_back(journal: Journal) -> None:
    assert journal.claims.take("sync", ME, seconds=1.0)
    with journal.claims.renewed("sync", ME, seconds=1.0):
        until = time.monotonic() + 2.0  # twice as long as it was taken for
        while time.monotonic() < until:
            assert journal.claims.holder("sync") == ME
            time.sleep(0.05)
        assert not journal.claims.take("sync", ELSEWHERE)
    assert journal.claims.holder("sync") is None
    assert "claim-sync" not in {thread.name for thread in threading.enumerate()}


def test_a_claim_that_was_lost_is_not_taken_back(journal: Journal) -> None:
    assert journal.claims.take("sync", ELSEWHERE)
    with journal.claims.renewed("sync", ME, seconds=0.03):
        time.sleep(0.1)
    assert journal.claims.holder("sync") == ELSEWHERE
