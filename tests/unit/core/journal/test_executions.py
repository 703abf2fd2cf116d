from __future__ import annotations

import threading

import pytest

from core.errors import AlreadyExists, NotFound
from core.journal import Journal
from core.journal.executions import Execution, Totals
from core.models import Ref

A, B = Ref("a", "1.0.0"), Ref("b", "1.0.0")
LIBRARY = Ref("escher-stop-rds", "2.0.0")
NOW = 1_000_000


def run(execution_id: str, success: bool = True, at: int = 100, **fields) -> Execution:
    return Execution(execution_id, success, fields.pop("duration_ms", 5), at, **fields)


@pytest.fixture
def report(journal, put):
    put("a@1.0.0")
    put("b@1.0.0")
    number = iter(range(1000))

    def record(*successes: bool, ref: Ref = A, **fields):
        for success in successes:
            made = run(f"{ref}-{next(number)}", success, **fields)
            recorded = journal.executions.record(ref, made, now=NOW)
        return recorded

    return record


def publish(journal, *refs: Ref, **values) -> None:
    for ref in refs:
        journal.versions.set(ref, revision=1, **values)


def counted(journal, ref: Ref = A) -> tuple[int, int, int | None]:
    row = journal.versions.get(ref)
    return row.execution_count, row.success_count, row.last_executed


def test_a_run_counts_once_by_its_id(journal, report):
    for _ in range(3):
        recorded = journal.executions.record(A, run("same", False, at=7), now=NOW)
    assert not recorded.is_new
    assert recorded.totals == Totals(1, 0, 7)
    assert counted(journal) == (1, 0, 7)
    assert journal.executions.counts() == {"due": 1, "sent": 0, "failed": 0}


def test_an_id_belongs_to_one_version(journal, report):
    journal.executions.record(A, run("same"), now=NOW)
    with pytest.raises(AlreadyExists, match=r"a@1\.0\.0"):
        journal.executions.record(B, run("same"), now=NOW)
    assert counted(journal, B) == (0, 0, None)


def test_a_version_that_is_not_there_is_refused(journal):
    with pytest.raises(NotFound):
        journal.executions.record(A, run("x"), now=NOW)
    assert journal.executions.counts()["due"] == 0


def test_the_last_run_is_the_latest_whatever_came_last(journal, report):
    report(True, at=500)
    report(True, at=400)
    assert counted(journal) == (2, 2, 500)


class TestHealth:
    def test_three_failures_in_a_row_break_and_a_success_mends(self, report):
        assert report(False, False).health == "ok"
        third = report(False)
        assert (third.health, third.health_changed) == ("broken", True)
        assert not report(False).health_changed
        mended = report(True)
        assert (mended.health, mended.health_changed) == ("ok", True)
        assert report(False, False).health == "ok"

    def test_a_success_between_begins_the_count_anew(self, report):
        assert report(False, False, True, False, False).health == "ok"

    def test_in_a_row_is_by_arrival_and_clocks_may_go_back(self, report):
        report(False, at=9000)
        report(False, at=10)
        assert report(False, at=5000).health == "broken"

    def test_it_survives_a_restart_and_what_was_pruned(self, journal, report, journal_url):
        report(False, False)
        publish(journal, A)
        queue = journal.executions
        queue.sent(A, [item.execution_id for item in queue.due(A, 9)], None, now=NOW)
        assert queue.prune(NOW + 1) == 1, "the last one tells how many failed in a row"
        journal.close()
        again = Journal(journal_url)
        assert again.executions.record(A, run("third", False), now=NOW).health == "broken"
        again.close()

    def test_every_version_has_its_own(self, journal, report):
        report(False, False)
        assert report(False, ref=B).health == "ok"

    def test_a_point_that_only_lacks_counts_is_known(self, journal, report):
        journal.versions.set(A, indexed_digest=journal.versions.get(A).index_digest)
        report(True)
        row = journal.versions.get(A)
        assert A in journal.versions.unindexed()
        assert A not in journal.versions.unindexed(missing_only=True)
        assert row.index_digest.rpartition("|")[0] == row.indexed_digest.rpartition("|")[0]
        report(False, False, False)
        row = journal.versions.get(A)
        assert row.index_digest.rpartition("|")[0] != row.indexed_digest.rpartition("|")[0], (
            "its health changed, too"
        )


def test_reports_at_the_same_time_are_all_counted(journal, report):
    def work(thread: int) -> None:
        for number in range(10):
            journal.executions.record(A, run(f"{thread}-{number}", number % 2 == 0), now=NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(journal)[:2] == (40, 20)


def test_a_deleted_version_takes_its_runs_along(journal, report, put):
    report(False, False)
    report(False, ref=B)
    with journal.database.write() as connection:
        journal.versions.delete([A], connection)
    assert journal.executions.counts()["due"] == 1
    put("a@1.0.0")
    assert report(False).health == "ok", "another version of that name"


class TestQueue:
    def test_only_what_the_server_knows_is_due(self, journal, report, put):
        put("gone@1.0.0")
        for ref in (A, B, Ref("gone", "1.0.0")):
            report(True, ref=ref)
        journal.executions.record(LIBRARY, run("lib"), now=NOW, is_ours=False)
        publish(journal, B)
        publish(journal, Ref("gone", "1.0.0"), deleting=True)
        assert journal.executions.due_refs(NOW) == [B, LIBRARY]
        publish(journal, A)
        assert journal.executions.due_refs(NOW) == [A, B, LIBRARY]

    def test_runs_come_in_the_order_of_their_arrival(self, journal, report):
        report(True, at=300)
        report(True, at=100)
        assert [item.at for item in journal.executions.due(A, 9)] == [300, 100]
        assert len(journal.executions.due(A, 1)) == 1

    def test_the_words_of_an_engine_are_not_sent(self, journal, report):
        report(False, error="CANARY in a log")
        [item] = journal.executions.due(A, 9)
        assert item.error == "CANARY in a log"
        assert set(item.as_sent()) == {"execution_id", "success", "duration_ms", "at"}
        assert journal.executions.last_error(A) == "CANARY in a log"
        report(True)
        assert journal.executions.last_error(A) is None

    def test_the_servers_totals_and_what_it_was_not_told(self, journal, report):
        publish(journal, A)
        report(True, at=10)
        [first] = journal.executions.due(A, 9)
        report(False, at=90)
        journal.executions.sent(A, [first.execution_id], Totals(41, 30, 70), now=NOW)
        assert counted(journal) == (42, 30, 90)
        journal.executions.take_totals(A, Totals(50, 35, 95))  # as the feed tells it
        assert counted(journal) == (51, 35, 95)

    def test_what_was_set_aside_comes_back(self, journal, report):
        publish(journal, A, B)
        queue = journal.executions
        report(True)
        report(True, ref=B)
        queue.set_aside(A, now=NOW)
        assert queue.due_refs(NOW) == [B]
        assert queue.retry([B], now=NOW) == 0
        assert queue.retry([A], now=NOW) == 1
        assert queue.due_refs(NOW) == [A, B]
        queue.set_aside(A, now=NOW)
        assert queue.retry(None, now=NOW) == 1

    def test_a_run_that_goes_through_brings_back_what_was_set_aside(self, journal, report):
        publish(journal, A)
        report(True)
        journal.executions.set_aside(A, now=NOW)
        report(True)
        [new] = journal.executions.due(A, 9)
        journal.executions.sent(A, [new.execution_id], None, now=NOW)
        assert len(journal.executions.due(A, 9)) == 1

    def test_waiting_is_per_version(self, journal, report):
        publish(journal, A, B)
        report(True)
        report(True, ref=B)
        journal.executions.defer(A, 1, NOW + 60)
        assert journal.executions.due_refs(NOW) == [B]
        assert journal.executions.due_refs(NOW + 60) == [A, B]
        assert journal.executions.attempts(A) == 1

    def test_a_run_that_comes_meanwhile_waits_with_the_others(self, journal, report):
        publish(journal, A)
        report(True)
        journal.executions.defer(A, 3, NOW + 60)
        report(True)
        assert journal.executions.due_refs(NOW) == []
        assert journal.executions.due_refs(NOW + 60) == [A]
        assert journal.executions.attempts(A) == 3
        assert journal.executions.retry(None, now=NOW) == 0
        assert journal.executions.due_refs(NOW) == [A], "`retry` waits for nothing"

    def test_what_waits_is_never_pruned(self, journal, report):
        report(True)
        assert journal.executions.prune(NOW + 10**9) == 0


def test_a_librarys_version_has_counts_without_a_row(journal):
    for number, success in enumerate((True, False)):
        made = run(f"lib{number}", success, at=number)
        recorded = journal.executions.record(LIBRARY, made, now=NOW, is_ours=False)
    assert recorded.totals == Totals(2, 1, 1)
    assert journal.versions.get(LIBRARY) is None
