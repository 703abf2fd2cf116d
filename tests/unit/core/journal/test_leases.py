"""Leases: one holder at a time, whatever process, namespace or clock; given back however it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.postgres import on_postgresql, on_sqlite
from support.processes import (
    can_unshare,
    dead_owner,
    far_owner,
    in_own_namespace,
    leases_of,
    owner,
)

import core
from core.backoff import Backoff
from core.errors import JournalUnavailable
from core.journal import JobState, Journal
from core.journal.leases import SYNC, VERSION, Heartbeats, Held, Leases
from core.models import Ref
from core.processes import SILENT_SECONDS, Deaths, Owner, this_process

A, B = Ref("a", "1.0.0"), Ref("b", "1.0.0")
ROOT = Path(core.__file__).parents[1]


@pytest.fixture
def leases(journal: Journal) -> Leases:
    return journal.leases


@dataclass
class Clock:
    """The observer's own clock; only the test moves it."""

    now: float = 5000.0
    deaths: Deaths = field(init=False)

    def __post_init__(self) -> None:
        self.deaths = Deaths(monotonic=lambda: self.now)

    def goes_on(self, seconds: float, looks: Callable[[], object]) -> None:
        """Let time pass; the observer looks at each heartbeat of its own."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 3.0, until)
            looks()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def here(journal: Journal, clock: Clock) -> Leases:
    """The leases of this process, by `clock`."""
    return leases_of(journal, owner("here"), clock.deaths)


class TestOneHolder:
    def test_what_is_free_is_taken_and_the_rest_is_left(self, leases):
        first = leases.take(VERSION, [A])
        assert first.items == {A}
        second = leases.take(VERSION, [A, B])
        assert second.items == {B}
        assert A not in second
        leases.give_back(first)
        assert leases.take(VERSION, [A]).items == {A}

    def test_two_tasks_of_one_process_are_two(self, leases):
        assert leases.take(SYNC, [()])
        assert not leases.take(SYNC, [()])

    def test_nothing_is_held_when_nothing_is_asked_for(self, leases):
        held = leases.take(VERSION, [])
        assert not held
        leases.give_back(held)

    def test_kinds_are_apart(self, leases):
        assert leases.take(VERSION, [A])
        assert leases.take("download", [(*A, "shell")])
        assert leases.take(SYNC, [()])

    def test_another_process_finds_it_taken(self, journal, leases):
        held = leases.take(VERSION, [A])
        assert not leases_of(journal, owner()).take(VERSION, [A])
        assert leases.holder(VERSION, A) == this_process()
        assert leases.free(VERSION, [A, B]) == {B}
        leases.give_back(held)
        assert leases.holder(VERSION, A) is None

    def test_many_are_one_batch(self, leases):
        refs = [Ref(f"p{number:04d}", "1.0.0") for number in range(1000)]
        with leases.holding(VERSION, refs) as held:
            assert held.items == set(refs)
            assert not leases.take(VERSION, refs)
        assert leases.free(VERSION, refs) == set(refs)

    def test_threads_that_ask_at_once_each_get_something_else(self, leases):
        refs = [Ref(f"p{number}", "1.0.0") for number in range(20)]
        got: list[Held[Ref]] = []
        threads = [
            threading.Thread(target=lambda: got.append(leases.take(VERSION, refs)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ref for held in got for ref in held.items) == sorted(refs)


class TestFencing:
    def test_whoever_lost_its_lease_writes_nothing(self, journal, put, here):
        put("a@1.0.0")
        late = leases_of(journal, dead_owner("sleeper")).take(VERSION, [A])
        theirs = here.take(VERSION, [A])
        assert not journal.versions.set(A, lease=late.token, error="late")
        assert journal.versions.set(A, lease=theirs.token, error="mine")
        here.give_back(late)
        assert not here.take(VERSION, [A]), "a late giving back gives nobody else's lease back"
        assert journal.versions.get(A).error == "mine"

    def test_what_was_given_back_writes_nothing(self, journal, put, leases):
        put("a@1.0.0")
        held = leases.take(VERSION, [A])
        leases.give_back(held)
        assert not journal.versions.set(A, lease=held.token, error="late")

    def test_a_rewritten_row_keeps_its_lease(self, journal, put, leases):
        put("a@1.0.0")
        held = leases.take(VERSION, [A])
        put("a@1.0.0", generation=2)
        assert not leases.take(VERSION, [A])
        assert journal.versions.set(A, lease=held.token, attempts=1)


class TestTheDead:
    def test_one_of_this_machine_holds_nothing_back(self, journal, here):
        assert leases_of(journal, dead_owner()).take(VERSION, [A])
        assert here.holder(VERSION, A) is None
        assert here.free(VERSION, [A]) == {A}
        assert here.take(VERSION, [A])

    def test_a_killed_process_is_followed_at_once(self, journal, journal_url, leases):
        code = (
            "import sys; from core.journal import Journal; from core.models import Ref;"
            "held = Journal(sys.argv[1]).leases.take('version', [Ref('a', '1.0.0')]);"
            "print(bool(held), flush=True); sys.stdin.read()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, journal_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert child.stdout.readline().strip() == "True"
        assert not leases.take(VERSION, [A])
        child.kill()
        child.communicate()
        assert leases.take(VERSION, [A])

    def test_one_elsewhere_is_dead_when_its_heart_has_stood_still(self, journal, clock, here):
        there = leases_of(journal, far_owner())
        there._heartbeats.beat()
        assert there.take(VERSION, [A])
        assert not here.take(VERSION, [A])
        clock.goes_on(SILENT_SECONDS - 1, here.has_dead_owners)
        there._heartbeats.beat()
        assert not here.take(VERSION, [A])
        clock.goes_on(SILENT_SECONDS - 1, here.has_dead_owners)
        assert not here.take(VERSION, [A])
        clock.goes_on(1, here.has_dead_owners)
        assert here.take(VERSION, [A])

    def test_a_first_look_takes_nothing_away_however_long_it_stood(self, journal, here):
        assert leases_of(journal, far_owner()).take(VERSION, [A])
        assert not here.take(VERSION, [A])

    def test_setting_the_clock_takes_nothing_away(self, journal, clock, here, monkeypatch):
        assert leases_of(journal, far_owner()).take(VERSION, [A])
        for step in (10 * 86_400.0, -400 * 86_400.0):
            moved = time.time() + step
            monkeypatch.setattr(time, "time", lambda moved=moved: moved)
            assert not here.take(VERSION, [A])
            clock.now += 1

    def test_a_survivor_is_told_what_the_dead_held_and_it_is_free(self, journal, here):
        dead = dead_owner()
        leases_of(journal, dead).take(VERSION, [A, B])
        leases_of(journal, owner()).take(SYNC, [()])
        assert here.has_dead_owners()
        held = here.held_by_the_dead()
        assert held == {str(dead): [(VERSION, *A), (VERSION, *B)]}
        assert here.held_by_the_dead() == held, "as long as nobody has gone on with it"
        assert here.take(VERSION, [A]), "and whoever goes on with it may take it"
        here.end_those_of(held)
        assert not here.has_dead_owners()
        assert here.held_by_the_dead() == {}
        assert here.free(VERSION, [A, B]) == {B}
        here.end_those_of(held)
        assert here.holder(SYNC) is not None

    def test_an_owner_of_a_later_version_is_judged_by_its_heart(self, journal, clock, here):
        with journal.database.write() as connection:
            connection.exec_driver_sql("INSERT INTO leases VALUES ('sync', 'who knows', 'x')")
        assert not here.take(SYNC, [()])
        clock.goes_on(SILENT_SECONDS, here.has_dead_owners)
        assert here.take(SYNC, [()])


@pytest.mark.skipif(not can_unshare(), reason="PID namespaces can't be made here (needs root)")
def test_two_containers_with_one_host_name_take_nothing_from_each_other(journal, journal_url):
    """And what a killed one held is free elsewhere once its heart stands still."""
    code = """if True:
        import sys
        from core.journal import Journal
        from core.journal.leases import Heartbeats
        from core.journal.leases import Leases
        from core.models import Ref
        database = Journal(sys.argv[1]).database
        leases = Leases(database, Heartbeats(database, seconds=0.05))
        for line in sys.stdin:
            taken = leases.take("version", [Ref(*line.split())])
            print(leases._me(), sorted(taken.items), flush=True)
    """
    arguments = [sys.executable, "-c", code, journal_url]
    children = [in_own_namespace(arguments, stdin=subprocess.PIPE, cwd=ROOT) for _ in range(2)]

    def ask(child: subprocess.Popen[str], ref: Ref) -> tuple[Owner, bool]:
        child.stdin.write(f"{ref.playbook_id} {ref.version}\n")
        child.stdin.flush()
        text, _, items = child.stdout.readline().partition(" ")
        return Owner.parse(text), items.strip() != "[]"

    try:
        (one, got_a), (two, got_b) = ask(children[0], A), ask(children[1], B)
        assert got_a
        assert got_b
        assert one.pid == two.pid, "the numbers are the same in both"
        for child, other in ((children[0], B), (children[1], A)):
            assert ask(child, other)[1] is False
        observer = Leases(
            journal.database, Heartbeats(journal.database), Deaths(silent_seconds=1.0)
        )
        assert not observer.take(VERSION, [A, B])
        children[0].kill()
        deadline = time.monotonic() + 30
        while not (held := observer.take(VERSION, [A, B])) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert held.items == {A}, "and the one that lives keeps its own"
    finally:
        for child in children:
            child.kill()
            child.communicate()


class TestGivingBack:
    def test_however_the_block_ends(self, leases):
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error), leases.holding(VERSION, [A, B]):
                raise error
        assert leases.free(VERSION, [A, B]) == {A, B}

    def test_what_did_not_go_is_given_back_as_soon_as_the_journal_is_there_again(
        self, journal, monkeypatch
    ):
        heart = Heartbeats(journal.database, seconds=0.02)
        leases = Leases(journal.database, heart)
        other = leases_of(journal, owner())
        away = threading.Event()
        retried = journal.database.retried

        def while_it_is_away(work):
            if away.is_set():
                raise JournalUnavailable("The journal is away.")
            return retried(work)

        monkeypatch.setattr(journal.database, "retried", while_it_is_away)
        with leases.holding(VERSION, [A, B]) as held:
            away.set()
        assert held.items == {A, B}
        assert other.free(VERSION, [A, B]) == set(), "it can't be given back yet"
        away.clear()
        deadline = time.monotonic() + 10
        while other.free(VERSION, [A, B]) != {A, B}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leases.close()

    @on_postgresql
    def test_a_server_that_was_away_leaves_nothing_held(
        self, leases, postgres, journal_url, monkeypatch
    ):
        monkeypatch.setattr("core.journal.database.AGAIN", Backoff(0.01, 0.01))
        with leases.holding(VERSION, [A]):
            postgres.shut(journal_url)
        with pytest.raises(JournalUnavailable):
            leases.take(VERSION, [B])
        postgres.open(journal_url)
        assert leases.take(VERSION, [A, B]).items == {A, B}

    def test_who_asks_meanwhile_is_not_forgotten(self, journal, leases):
        held = leases.take(SYNC, [()])
        job_id, _ = journal.jobs.create("sync", {})
        assert not leases.give_back_unless_asked(held, "sync")
        assert leases.holder(SYNC) == this_process()
        journal.jobs.finish(job_id, JobState.SUCCEEDED)
        assert leases.give_back_unless_asked(held, "sync")
        assert leases.holder(SYNC) is None


class TestHeartbeats:
    def test_beat_for_as_long_as_the_journal_is_open(self, journal):
        before = set(threading.enumerate())
        heart = Heartbeats(journal.database, seconds=0.01)
        heart.start()
        heart.start()
        me = this_process().id
        deadline = time.monotonic() + 10
        while heart.counters().get(me, 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        heart.close()
        assert set(threading.enumerate()) <= before
        assert me not in Heartbeats(journal.database).counters()

    def test_the_journals_writers_do_not_stop_a_heart(self, journal):
        heart = Heartbeats(journal.database)
        heart.beat()
        with journal.database.write():
            beat = threading.Thread(target=heart.beat, daemon=True)
            beat.start()
            beat.join(10)
            assert not beat.is_alive()
        assert heart.counters()[this_process().id] == 2

    @on_sqlite
    def test_no_beat_waits_for_the_disk(self, journal):
        heart = Heartbeats(journal.database)
        heart.beat()
        assert heart._database is not journal.database
        with heart._database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL

    def test_a_heart_that_failed_once_goes_on(self, journal, monkeypatch):
        heart = Heartbeats(journal.database, seconds=0.01)
        real, failed = heart.beat, threading.Event()

        def fails_once() -> None:
            if not failed.is_set():
                failed.set()
                raise JournalUnavailable("away")
            real()

        monkeypatch.setattr(heart, "beat", fails_once)
        heart.start()
        deadline = time.monotonic() + 10
        while not heart.counters():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        heart.close()
