from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft

from core.errors import (
    AlreadyExists,
    NotEscherServer,
    NotFound,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
    UsageError,
)
from core.journal import Journal, VersionRecord
from core.models import Area, Ref, Strategy
from core.server.answers import StatsCounted
from core.service import PlaybookService
from core.service.executions import (
    BATCH,
    GIVE_UP_AFTER,
    KEPT_SECONDS,
    TRIES,
    Executions,
)
from core.settings import Settings

REFS = [Ref(f"p{number}", "1.0.0") for number in range(6)]
A = REFS[0]


class Server:
    """Counts as the contract says, unless it is told to fail."""

    def __init__(self, *, tells_totals: bool = True) -> None:
        self.calls: list[tuple[Ref, int]] = []
        self.counted: dict[str, tuple[Ref, bool]] = {}
        self.errors: dict[Ref | None, Exception] = {}
        self.lose_answers = 0
        self._tells_totals = tells_totals

    def send_stats(self, ref: Ref, executions: Sequence[dict[str, Any]]) -> StatsCounted:
        self.calls.append((ref, len(executions)))
        for key in (ref, None):
            if key in self.errors:
                raise self.errors[key]
        for run in executions:
            self.counted.setdefault(run["execution_id"], (ref, run["success"]))
        if self.lose_answers:
            self.lose_answers -= 1
            raise ServerUnreachable("The answer was lost.")
        mine = [success for of, success in self.counted.values() if of == ref]
        if not self._tells_totals:
            return StatsCounted()
        return StatsCounted(execution_count=len(mine), success_count=sum(mine), last_executed=5)


@pytest.fixture
def journal(tmp_path: Path):
    opened = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    rows = []
    for ref in REFS:
        body = {
            "playbook_id": ref.playbook_id,
            "version": ref.version,
            "name": "A playbook",
            "cloud_provider": ["aws"],
            "created_at": 1,
            "updated_at": 1,
        }
        record = VersionRecord(ref, Area.SYNCED, "sha256:" + "a" * 64, body, revision=1)
        rows.append((record, ()))
    with opened.database.write() as connection:
        opened.versions.put(rows, connection)
    yield opened
    opened.close()


@pytest.fixture
def executions(journal, clock) -> Executions:
    return Executions(
        journal, lambda ref: ref.playbook_id == "escher-used", clock=clock, random=lambda: 1.0
    )


def counts(journal, ref=A):
    row = journal.versions.get(ref)
    return row.execution_count, row.success_count


class TestReporting:
    def test_a_report_is_counted_here_at_once(self, executions, journal, clock):
        report = executions.report(A, success=True, duration_ms=7)
        assert report.as_json() == {
            "playbook_id": "p0",
            "version": "1.0.0",
            "execution_id": report.execution_id,
            "counted": True,
            "health": "ok",
            "execution_count": 1,
            "success_count": 1,
            "last_executed": int(clock.now),
        }
        assert executions.report(A, success=True).execution_id != report.execution_id

    def test_the_same_again_is_harmless(self, executions, journal):
        executions.report(A, success=True, execution_id="run-1")
        again = executions.report(A, success=True, execution_id="run-1")
        assert again.as_json()["counted"] is False
        assert counts(journal) == (1, 1)
        with pytest.raises(AlreadyExists):
            executions.report(REFS[1], success=True, execution_id="run-1")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"execution_id": "x" * 201},
            {"execution_id": "a\nb"},
            {"execution_id": "\ud800"},
            {"duration_ms": -1},
            {"duration_ms": 2**60},
            {"at": -1},
        ],
    )
    def test_what_no_server_would_take_is_refused_here(self, executions, journal, wrong):
        with pytest.raises(UsageError):
            executions.report(A, success=True, **wrong)
        assert counts(journal) == (0, 0)

    def test_long_words_are_cut_and_cleaned(self, executions, journal):
        executions.report(A, success=False, error="no\x1b[31m\ud800" + "x" * 5000)
        kept = journal.executions.last_error(A)
        assert len(kept) <= 2000
        assert "\x1b" not in kept

    def test_a_stranger_is_refused_and_the_librarys_are_not(self, executions):
        with pytest.raises(NotFound):
            executions.report(Ref("nobody", "1.0.0"), success=True)
        with pytest.raises(NotFound):
            executions.report(Ref("escher-unused", "1.0.0"), success=True)
        assert executions.report(Ref("escher-used", "1.0.0"), success=True).recorded.is_new


class TestSending:
    def test_all_is_told_once(self, executions, journal):
        server = Server()
        for ref in REFS[:3]:
            for success in (True, False):
                executions.report(ref, success=success)
        assert executions.send(server).as_json() == {"sent": 6, "deferred": {}, "failed": {}}
        assert executions.send(server).sent == 0
        assert len(server.calls) == 3
        assert counts(journal) == (2, 1)

    def test_in_batches(self, executions, journal):
        for number in range(BATCH + 3):
            executions.report(A, success=True, execution_id=str(number))
        server = Server()
        assert executions.send(server).sent == BATCH + 3
        assert [size for _, size in server.calls] == [BATCH, 3]

    def test_local_ones_wait_until_they_are_published(self, executions, journal):
        journal.versions.set(A, revision=None)
        executions.report(A, success=True)
        server = Server()
        assert executions.send(server).sent == 0
        journal.versions.set(A, revision=1)
        assert executions.send(server).sent == 1

    @pytest.mark.parametrize("tells_totals", [True, False])
    def test_a_lost_answer_neither_loses_nor_counts_twice(
        self, executions, journal, clock, tells_totals
    ):
        server = Server(tells_totals=tells_totals)
        executions.report(A, success=True)
        server.lose_answers = 1
        report = executions.send(server)
        assert (report.sent, list(report.deferred)) == (0, [A])
        assert executions.send(server).sent == 1
        assert len(server.counted) == 1
        assert counts(journal) == (1, 1)

    def test_nobody_there_ends_the_sending_and_delays_nothing(self, executions):
        for ref in REFS:
            executions.report(ref, success=True)
        server = Server()
        server.errors[None] = ServerUnreachable("No answer.")
        assert len(executions.send(server).deferred) == 1
        assert len(server.calls) == 1
        server.errors.clear()
        assert executions.send(server).sent == len(REFS)

    @pytest.mark.parametrize("error", [ServerBusy("503"), NotEscherServer("A sign-in page.")])
    def test_a_server_in_trouble_is_left_alone(self, executions, clock, error):
        for ref in REFS:
            executions.report(ref, success=True)
        server = Server()
        server.errors[None] = error
        executions.send(server)
        assert len(server.calls) == GIVE_UP_AFTER
        server.errors.clear()
        assert executions.send(server).sent == len(REFS) - GIVE_UP_AFTER, "their turn comes later"
        clock.now += 3600
        assert executions.send(server).sent == GIVE_UP_AFTER

    def test_the_servers_patience_counts_and_an_hour_is_the_most(self, executions, clock):
        executions.report(A, success=True)
        server = Server()
        server.errors[A] = ServerBusy("503", "", 10**6)
        executions.send(server)
        clock.now += 3599
        assert executions.send(server).deferred == {}
        clock.now += 2
        assert list(executions.send(server).deferred) == [A]

    def test_what_is_refused_again_and_again_is_set_aside_and_can_be_brought_back(
        self, executions, journal, clock
    ):
        executions.report(A, success=True)
        executions.report(REFS[1], success=True)
        server = Server()
        server.errors[A] = ServerRejected("POST … answered 404: There is no p0@1.0.0 here.")
        assert executions.send(server).sent == 1, "the others go through"
        for _ in range(TRIES - 1):
            clock.now += 3601
            report = executions.send(server)
        assert "404" in report.failed[A]
        calls = len(server.calls)
        clock.now += 10 * 3601
        assert executions.send(server).as_json() == {"sent": 0, "deferred": {}, "failed": {}}
        assert len(server.calls) == calls
        server.errors.clear()
        assert executions.retry() == 1
        assert executions.send(server).sent == 1

    def test_ids_are_kept_for_a_month(self, executions, journal, clock):
        executions.report(A, success=True, execution_id="old")
        executions.send(Server())
        clock.now += KEPT_SECONDS - 1
        executions.send(Server())
        assert not executions.report(A, success=True, execution_id="old").recorded.is_new
        clock.now += 2
        executions.send(Server())
        assert journal.executions.counts() == {"due": 0, "sent": 0, "failed": 0}


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    return open_home(tenant_settings)


class TestTheWholeService:
    def test_the_reference_server_counts_once_and_tells_its_totals(self, service, tmp_path):
        ref = service.create(draft(), strategy=Strategy.REVIEW).ref
        ran_at = int(time.time()) - 60
        service.executions.report(
            ref, success=False, duration_ms=3, execution_id="before", at=ran_at - 1
        )
        assert service.executions.send(service.server).sent == 0
        service.publish_refs([ref])
        service.executions.report(ref, success=True, at=ran_at)
        # another machine of the tenant has reported a run, too
        service.server.send_stats(
            ref, [{"execution_id": "elsewhere", "success": True, "duration_ms": 1, "at": 7}]
        )
        assert service.executions.send(service.server).sent == 2
        shown = service.catalog.show(str(ref))
        assert (shown.execution_count, shown.success_count) == (3, 2)
        assert shown.last_executed == ran_at
        [change] = service.server.change_page().changes
        assert change["metadata"]["execution_count"] == 3

    def test_search_shows_counts_and_hides_the_broken(self, service):
        ref = service.create(draft()).ref
        service.index_refs([ref])
        for success in (True, False, False):
            service.executions.report(ref, success=success)
        [found] = service.indexing.search("stop idle databases", {}).results
        assert (found.execution_count, found.success_count, found.health) == (3, 1, "ok")
        [worded] = service.indexing.search_by_keywords("stop idle databases", {}).results
        assert (worded.execution_count, worded.last_executed) == (3, found.last_executed)

        assert service.executions.report(ref, success=False).health_changed
        assert service.indexing.search("stop idle databases", {}).results == [], "at once"
        service.index_refs([ref])
        assert service.indexing.search("stop idle databases", {}).results == []
        service.executions.report(ref, success=True)
        service.index_refs([ref])
        assert len(service.indexing.search("stop idle databases", {}).results) == 1

    def test_new_counts_reach_the_point_without_embedding_or_reading(self, service, monkeypatch):
        ref = service.create(draft()).ref
        service.index_refs([ref])
        service.executions.report(ref, success=True)
        assert service.sync.difference().embed == [ref]
        monkeypatch.setattr(service.store, "published_files", None)  # nothing is read
        service.index_refs([ref])
        [payload] = service.indexing._index.entries().values()
        assert (payload["execution_count"], payload["success_count"]) == (1, 1)
        assert service.sync.difference().embed == []
