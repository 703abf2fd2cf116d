from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from support.processes import dead_owner, downloads_of, far_owner, leave_dead, owner

from core.errors import JournalUnavailable
from core.journal.downloads import DownloadKey, DownloadState
from core.journal.leases import DOWNLOAD
from core.models import FileEntry
from core.processes import this_process

ONE, TWO = DownloadKey("one", "1.0.0", "shell"), DownloadKey("two", "1.0.0", "shell")
FILES = (FileEntry("shell/a.sh", 3, "sha256:" + "0" * 64),)


@pytest.fixture
def downloads(journal):
    return journal.downloads


def staged(downloads):
    return downloads.staged(FILES, "shell/a.sh", "tenant")


def test_a_claim_is_one_attempts_alone(downloads):
    first = downloads.claim({ONE: "f1", TWO: "f2"})
    assert set(first.mine) == {ONE, TWO}
    second = downloads.claim({ONE: "g1"})  # another thread of this very process
    assert (second.mine, set(second.others)) == ({}, {ONE})
    assert downloads.get(ONE).staged == "f1"


def test_what_is_done_is_forgotten_and_what_failed_is_told(downloads):
    lease = downloads.claim({ONE: "f1", TWO: "f2"}).lease
    written = downloads.settle({ONE: None, TWO: downloads.failed("NotFound", "no such")}, lease)
    assert written == {ONE, TWO}
    [row] = downloads.all()
    assert (row.key, row.state, row.error_type, row.error) == (
        TWO, DownloadState.FAILED, "NotFound", "no such",
    )  # fmt: skip
    assert (row.staged, row.reserved_bytes) == (None, 0)
    assert downloads.is_free(row)
    assert downloads.claim({TWO: "g"}).mine[TWO].fence == 1


def test_staged_bytes_are_kept_for_who_verifies(journal, downloads):
    lease = downloads.claim({ONE: "f1"}).lease
    downloads.settle({ONE: staged(downloads)}, lease)
    again = downloads.claim({ONE: "g1", TWO: "g2"})
    assert (set(again.mine), set(again.others)) == ({TWO}, {ONE})
    assert downloads.is_free(downloads.get(ONE)), "what was not wanted is not held"
    taken = downloads.claim({ONE: "h1", TWO: "h2"}, fresh=False, staged=True)
    assert (set(taken.mine), set(taken.others)) == ({ONE}, {TWO})
    assert taken.mine[ONE].files == FILES
    row = downloads.get(ONE)
    assert (row.state, row.staged) == (DownloadState.STAGED, "f1")
    assert journal.leases.holder(DOWNLOAD, ONE) == this_process()


def test_who_does_not_hold_it_any_more_writes_nothing(downloads, journal):
    sleeper = downloads_of(journal, dead_owner())
    lost = sleeper.claim({ONE: "f1"}).lease
    downloads.claim({ONE: "g1"})
    assert sleeper.settle({ONE: None}, lost) == set()
    with journal.database.write() as connection:
        assert sleeper.reserve({ONE: 5}, lost, connection) == set()
    row = downloads.get(ONE)
    assert (row.staged, row.reserved_bytes, row.fence) == ("g1", 0, 2)
    assert journal.leases.holder(DOWNLOAD, ONE) == this_process()


def test_what_another_process_holds_is_free_when_it_is_dead(downloads, journal):
    downloads_of(journal, far_owner()).claim({ONE: "f1"})
    assert not downloads.claim({ONE: "g"}).mine
    assert not downloads.is_free(downloads.get(ONE))
    leave_dead(journal)
    assert downloads.is_free(downloads.get(ONE))
    assert downloads.claim({ONE: "g"}).mine[ONE].staged == "f1"


def test_a_claim_that_fails_holds_nothing(downloads, journal, monkeypatch):
    def fails(*_):
        raise JournalUnavailable("away")

    monkeypatch.setattr(journal.leases, "give_back_items", fails)
    with pytest.raises(JournalUnavailable):
        downloads.claim({ONE: "f1"})
    monkeypatch.undo()
    assert downloads.get(ONE) is None
    assert downloads.claim({ONE: "f1"}).mine


def test_the_dead_the_forgotten_and_the_old_are_let_go_and_nobody_else(downloads, journal):
    dead, alive, waits, failed = (DownloadKey(name, "1.0.0", "shell") for name in "abcd")
    downloads_of(journal, dead_owner()).claim({dead: "f"})
    downloads_of(journal, owner()).claim({alive: "g"})
    lease = downloads.claim({waits: "h", failed: "i"}).lease
    downloads.settle({waits: staged(downloads), failed: downloads.failed("NotFound", "")}, lease)
    past, future = time.time() - 10, time.time() + 10

    def taken(**times):
        with downloads.abandoned(**times) as (lease, rows):
            keys = {row.key for row in rows}
            assert downloads.settle(dict.fromkeys(keys), lease) == keys
        return keys

    assert taken(staged_before=past, failed_before=past) == {dead}
    assert taken(staged_before=future, failed_before=past) == {waits}
    assert taken(staged_before=past, failed_before=future) == {failed}
    assert [row.key for row in downloads.all()] == [alive]


def test_a_claim_whose_answer_was_lost_is_given_back(downloads, journal, monkeypatch):
    write = journal.database.write

    @contextmanager
    def answer_lost(**options):
        with write(**options) as connection:
            yield connection
        raise JournalUnavailable("away")

    monkeypatch.setattr(journal.database, "write", answer_lost)
    with pytest.raises(JournalUnavailable):
        downloads.claim({ONE: "f1"})
    monkeypatch.undo()
    assert downloads.claim({ONE: "g1"}).mine


def test_what_was_let_go_is_given_back_when_it_cannot_be_read(downloads, journal, monkeypatch):
    downloads_of(journal, dead_owner()).claim({ONE: "f1"})

    def fails(*_):
        raise JournalUnavailable("away")

    monkeypatch.setattr(downloads, "get_many", fails)
    with pytest.raises(JournalUnavailable), downloads.abandoned(staged_before=0, failed_before=0):
        pass
    monkeypatch.undo()
    assert downloads.claim({ONE: "g1"}).mine


def test_many_rows_are_one_batch(downloads):
    keys = [DownloadKey(f"p{number:04d}", "1.0.0", "shell") for number in range(1000)]
    claimed = downloads.claim(dict.fromkeys(keys, "x"))
    assert len(claimed.mine) == 1000
    assert len(downloads.settle(dict.fromkeys(keys), claimed.lease)) == 1000
    assert downloads.all() == []
