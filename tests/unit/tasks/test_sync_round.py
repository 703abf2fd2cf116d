"""One sync at a time, and nobody who asked for one is forgotten."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any

import pytest
from support.playbooks import draft
from support.processes import dead_owner, leases_of, owner
from support.service import eventually

from core.errors import StorageError
from core.journal import JobState
from core.journal.leases import JOB, SYNC, VERSION, WORKER
from core.models import Ref, Strategy
from core.playbooks.scan import ScanResult
from core.service import PlaybookService
from core.service.sync import SyncPlan
from escher_playbooks.cli.jobs_commands import exit_code
from tasks import base, broker, jobs, sync_round, worker_signals, workflows
from tasks.sync_round import BUSY_SECONDS, look_again, run
from tasks.syncing import sync
from tasks.worker_signals import look_after_the_dead

NOTHING = broker.UnderWay(frozenset(), {})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The countdowns of what goes to the broker."""
    countdowns: list[float | None] = []
    monkeypatch.setattr(
        workflows,
        "dispatch",
        lambda _signature, *, inline, countdown=None: countdowns.append(countdown),
    )
    return countdowns


def finds(monkeypatch: pytest.MonkeyPatch, service: PlaybookService, look: Any) -> None:
    monkeypatch.setattr(
        service.sync, "run", lambda under_way=(), *, accept_deletions: look(under_way)
    )


def asked(service: PlaybookService) -> str:
    return service.journal.jobs.create(SYNC, {})[0]


def state(service: PlaybookService, job_id: str) -> JobState:
    return service.journal.jobs.summary(job_id).state


def test_whoever_asks_during_a_round_gets_the_next_one(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later, rounds = asked(service), [], []

    def look(*_: Any) -> SyncPlan:
        rounds.append(len(later))
        if len(rounds) == 1:
            later.append(asked(service))
        return SyncPlan(time.time())

    finds(monkeypatch, service, look)
    assert run(service, first, lambda: NOTHING) is not None
    assert rounds == [0, 1]
    assert [state(service, job) for job in (first, *later)] == [JobState.SUCCEEDED] * 2
    assert service.journal.leases.holder(SYNC) is None


@pytest.mark.parametrize("error", [StorageError("The disk is full."), KeyError("a mistake")])
def test_a_sync_that_fails_answers_and_gives_its_claim_back(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job = asked(service)

    def look(*_: Any) -> SyncPlan:
        raise error

    finds(monkeypatch, service, look)
    with pytest.raises(type(error)):
        run(service, job, lambda: NOTHING)
    ended = service.journal.jobs.summary(job)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert "mistake" not in ended.error, "its text may hold content"
    assert service.journal.leases.holder(SYNC) is None


def test_one_that_never_ends_to_be_asked_hands_on(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
) -> None:
    def look(*_: Any) -> SyncPlan:
        asked(service)
        return SyncPlan(time.time())

    finds(monkeypatch, service, look)
    run(service, None, lambda: NOTHING)
    assert sent == [BUSY_SECONDS]


def test_a_report_with_failures_is_a_partial_sync_and_a_retry_tries_them_again(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.journal.pulls import FAILED, WaitingChange

    item = WaitingChange(("bad", "1.0.0"), FAILED, "It is malformed.", int(time.time()))
    service.journal.waiting.put([item])
    finds(monkeypatch, service, lambda *_: SyncPlan(time.time()))
    job = asked(service)
    report = run(service, job, lambda: NOTHING)
    assert report is not None
    assert report["failures"] == {"bad@1.0.0": "It is malformed."}
    assert report["partial"]
    assert state(service, job) is JobState.PARTIAL

    jobs.retry(service, job)
    assert state(service, job) is JobState.QUEUED
    assert service.journal.pull_state.full_pass_due(time.time())


def test_who_comes_while_another_process_syncs_looks_again_soon_and_once(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
) -> None:
    """An edit that the running one's scan was too early for is no job that would keep it going."""
    monkeypatch.setattr(base, "_service", (os.getpid(), service))
    assert service.journal.leases.take(SYNC, [()])
    for _ in range(5):
        assert sync.run() == {"ran": False}
    assert sent == [BUSY_SECONDS]


class TestADeadWorker:
    """Its messages are with it, for an hour; what it held is queued again by the next sync."""

    def under_way(
        self,
        service: PlaybookService,
        monkeypatch: pytest.MonkeyPatch,
        *refs: str,
        waiting: str = "",
        is_shut: bool = False,
    ) -> set[str]:
        seen: list[set[str]] = []

        def look(under_way: set[Ref]) -> SyncPlan:
            seen.append({str(ref) for ref in under_way})
            return SyncPlan(time.time(), is_shut=is_shut)

        finds(monkeypatch, service, look)
        messages = broker.UnderWay(frozenset({waiting} - {""}), dict.fromkeys(refs, time.time()))
        run(service, None, lambda: messages)
        return seen[0]

    def test_what_it_held_is_under_way_no_more(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        dead = leases_of(service.journal, dead_owner())
        dead.take(VERSION, [Ref("a", "1.0.0"), Ref("b", "1.0.0")])
        leases_of(service.journal, owner()).take(VERSION, [Ref("c", "1.0.0")])
        all_ = ("a@1.0.0", "b@1.0.0", "c@1.0.0")
        found = self.under_way(service, monkeypatch, *all_, waiting="b@1.0.0")
        assert found == {"b@1.0.0", "c@1.0.0"}, "a message that waits is nobody's yet"

    def test_nor_is_what_it_had_fetched_and_not_begun(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        """Whose message was whose can't be told: what nobody alive is at is queued again."""
        leases_of(service.journal, owner()).take(VERSION, [Ref("a", "1.0.0")])
        both = ("a@1.0.0", "b@1.0.0")
        assert self.under_way(service, monkeypatch, *both) == set(both)
        dead = dead_owner()
        leases_of(service.journal, dead).take(WORKER, [(dead.id,)])
        assert self.under_way(service, monkeypatch, *both) == {"a@1.0.0"}
        assert self.under_way(service, monkeypatch, *both) == set(both), "queued again, once"

    def test_what_waits_for_the_server_is_queued_again_when_that_is_back(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        leases_of(service.journal, dead_owner()).take(VERSION, [Ref("a", "1.0.0")])
        assert self.under_way(service, monkeypatch, "a@1.0.0", is_shut=True) == set()
        assert self.under_way(service, monkeypatch, "a@1.0.0") == set()
        assert self.under_way(service, monkeypatch, "a@1.0.0") == {"a@1.0.0"}

    def test_a_worker_shows_that_it_lives_until_it_ends(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "_service", (os.getpid(), service))
        signs = lambda: [kind for kind, *_ in service.journal.leases.held_by_the_living()]  # noqa: E731
        base.show_life()
        assert signs() == [WORKER]
        base.end_life()
        assert signs() == []

    def test_a_whole_job_that_it_was_at_is_queued_again(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        job_id, _ = service.journal.jobs.create("verify", {})
        with base.whole_job(service, job_id):
            assert self.under_way(service, monkeypatch, job_id) == set()
            assert sent == [], "it is at it"
        leases_of(service.journal, dead_owner()).take(JOB, [(job_id,)])
        self.under_way(service, monkeypatch, job_id)
        assert sent == [None]

    def test_a_sync_that_fails_leaves_it_to_the_next(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        leases_of(service.journal, dead_owner()).take(VERSION, [Ref("a", "1.0.0")])

        def fails(_: set[Ref]) -> SyncPlan:
            raise StorageError("The disk is full.")

        finds(monkeypatch, service, fails)
        messages = broker.UnderWay(frozenset(), {"a@1.0.0": time.time()})
        with pytest.raises(StorageError):
            run(service, None, lambda: messages)
        assert self.under_way(service, monkeypatch, "a@1.0.0") == set(), "queued again now"
        assert not service.journal.leases.has_dead_owners(), "and told once"

    def test_a_survivor_asks_again_while_nobody_has_taken_it_over(
        self, service: PlaybookService
    ) -> None:
        asked, stop = [], threading.Event()
        leases_of(service.journal, dead_owner()).take(VERSION, [Ref("a", "1.0.0")])
        arguments = (lambda: service, lambda: asked.append(None), stop, 0.001)
        thread = threading.Thread(target=look_after_the_dead, args=arguments)
        thread.start()
        try:
            eventually(lambda: len(asked) >= 2, 20, "it asks again")
        finally:
            stop.set()
            thread.join()

    def test_a_survivor_asks_for_a_sync_once_for_each_death(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_signals, "ASK_AGAIN_LOOKS", 10**6)
        asked, looks, stop = [], itertools.count(), threading.Event()
        looked, ref = [0], Ref("a", "1.0.0")

        def opened() -> PlaybookService:
            looked[0] = next(looks)
            return service

        def look_some_more() -> None:
            until = looked[0] + 3
            eventually(lambda: looked[0] >= until, 10, "the survivor looks")

        arguments = (opened, lambda: asked.append(None), stop, 0.01)
        thread = threading.Thread(target=look_after_the_dead, args=arguments)
        thread.start()
        try:
            with service.journal.leases.holding(VERSION, [ref]):
                look_some_more()
            assert asked == []
            for deaths in (1, 2):
                leases_of(service.journal, dead_owner()).take(VERSION, [ref])
                look_some_more()
                assert len(asked) == deaths
                leases = service.journal.leases
                leases.end_those_of(leases.held_by_the_dead())
                look_some_more()
                assert len(asked) == deaths
        finally:
            stop.set()
            thread.join()


class TestLookAgain:
    def test_edits_that_never_come_to_rest_are_one_chain_of_syncs(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        plan = lambda *_: SyncPlan(time.time(), scan=ScanResult(quiet_in=3.0))  # noqa: E731
        finds(monkeypatch, service, plan)
        for _ in range(10):  # the watch, beat, the agent link …
            run(service, None, lambda: NOTHING)
        assert sent == [3.2]

    def test_sooner_is_sooner_and_a_clock_that_was_set_back_stops_nothing(
        self, service: PlaybookService, sent: list[float | None]
    ) -> None:
        look_again(service, 60)
        look_again(service, 5)
        assert sent == [60, 5]
        service.journal.facts.set(sync_round.AGAIN_AT, str(time.time() + 3600))
        look_again(service, 5)
        assert sent == [60, 5, 5]

    def test_what_is_worked_on_just_now_is_looked_at_soon(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, sent: list[float | None]
    ) -> None:
        plan = SyncPlan(time.time())
        plan.pull.deferred[str(Ref("busy", "1.0.0"))] = "It is just being worked on."
        finds(monkeypatch, service, lambda *_: plan)
        report = run(service, None, lambda: NOTHING)
        assert sent == [BUSY_SECONDS]
        assert report is not None
        assert (report["failed"], list(report["deferrals"])) == (0, ["busy@1.0.0"])


class TestWaiting:
    """``sync --wait`` while `up` runs: the workers publish, and it waits for them."""

    @pytest.fixture
    def pending(self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch) -> Ref:
        """A version that waits, and a worker that takes nothing but syncs."""

        def worker(signature: Any, *, inline: bool, countdown: float | None = None) -> None:
            assert not inline
            if signature.task == "playbooks.sync" and countdown is None:
                run(service, None, lambda: NOTHING)

        monkeypatch.setattr(jobs, "is_running", lambda _: True)
        monkeypatch.setattr(workflows, "dispatch", worker)
        return service.create(draft(), strategy=Strategy.REVIEW).ref

    def test_not_for_what_waits_for_a_server_that_is_away(
        self, service: PlaybookService, pending: Ref
    ) -> None:
        job = jobs.submit(service, SYNC, wait=True)
        assert job.result is not None
        assert "127.0.0.1" in job.result["offline"]
        assert exit_code(job) == 4
        assert service.journal.versions.counts()["pending"] == 1

    def test_not_for_ever(
        self, service: PlaybookService, pending: Ref, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "STUCK_SECONDS", 0.2)
        plan = lambda *_: SyncPlan(time.time(), publish=[pending])  # noqa: E731
        finds(monkeypatch, service, plan)
        assert jobs.submit(service, SYNC, wait=True).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("requests", "accepted"), [([{}], False), ([{}, {"accept_deletions": True}], True)]
)
def test_deletions_are_accepted_when_one_of_those_who_ask_says_so(
    service: PlaybookService,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[dict[str, Any]],
    accepted: bool,
) -> None:
    seen = []

    def look(_under_way: Any = (), *, accept_deletions: bool) -> SyncPlan:
        seen.append(accept_deletions)
        return SyncPlan(time.time())

    monkeypatch.setattr(service.sync, "run", look)
    for request in requests:
        service.journal.jobs.create(SYNC, request)
    run(service, None, lambda: NOTHING)
    assert seen == [accepted]
