from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from support.processes import dead_owner, downloads_of, far_owner, leave_dead, owner

from core.errors import JournalUnavailable, StorageError
from core.journal.leases import DOWNLOAD
from core.journal.scripts import FolderState
from core.models import FileEntry, Ref, ScriptKey
from core.processes import this_process

ONE, TWO = (ScriptKey(Ref(name, "1.0.0"), "shell") for name in ("one", "two"))
ONE_ITEM = ("one", "1.0.0", "shell")
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
    assert downloads.get(ONE).name == "f1"


def test_what_is_done_is_forgotten_and_what_failed_is_told(downloads):
    lease = downloads.claim({ONE: "f1", TWO: "f2"}).lease
    written = downloads.settle({ONE: None, TWO: downloads.failed("NotFound", "no such")}, lease)
    assert written == {ONE, TWO}
    [row] = downloads.all()
    assert (row.key, row.state, row.error_type, row.reason) == (
        TWO, FolderState.FAILED, "NotFound", "no such",
    )  # fmt: skip
    assert row.size_bytes == 0
    assert downloads.is_free(TWO)
    assert downloads.claim({TWO: "g"}).mine[TWO].attempts == 1


def test_staged_bytes_are_kept_for_who_verifies(journal, downloads):
    lease = downloads.claim({ONE: "f1"}).lease
    downloads.settle({ONE: staged(downloads)}, lease)
    again = downloads.claim({ONE: "g1", TWO: "g2"})
    assert (set(again.mine), set(again.others)) == ({TWO}, {ONE})
    assert downloads.is_free(ONE), "what was not wanted is not held"
    taken = downloads.claim({ONE: "h1", TWO: "h2"}, fresh=False, staged=True)
    assert (set(taken.mine), set(taken.others)) == ({ONE}, {TWO})
    assert taken.mine[ONE].files == FILES
    row = downloads.get(ONE)
    assert (row.state, row.name) == (FolderState.STAGED, "f1")
    assert journal.leases.holder(DOWNLOAD, ONE_ITEM) == this_process()


def test_who_does_not_hold_it_any_more_writes_nothing(downloads, journal):
    sleeper = downloads_of(journal, dead_owner())
    lost = sleeper.claim({ONE: "f1"}).lease
    downloads.claim({ONE: "g1"})
    assert sleeper.settle({ONE: None}, lost) == set()
    with journal.database.write() as connection:
        assert sleeper.reserve({ONE: 5}, lost, connection) == set()
    row = downloads.get(ONE)
    assert (row.name, row.size_bytes, row.attempts) == ("g1", 0, 2)
    assert journal.leases.holder(DOWNLOAD, ONE_ITEM) == this_process()


def test_what_another_process_holds_is_free_when_it_is_dead(downloads, journal):
    downloads_of(journal, far_owner()).claim({ONE: "f1"})
    assert not downloads.claim({ONE: "g"}).mine
    assert not downloads.is_free(ONE)
    leave_dead(journal)
    assert downloads.is_free(ONE)
    assert downloads.claim({ONE: "g"}).mine[ONE].name == "f1"


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
    dead, alive, waits, failed = (ScriptKey(Ref(name, "1.0.0"), "shell") for name in "abcd")
    downloads_of(journal, dead_owner()).claim({dead: "f"})
    downloads_of(journal, owner()).claim({alive: "g"})
    lease = downloads.claim({waits: "h", failed: "i"}).lease
    downloads.settle({waits: staged(downloads), failed: downloads.failed("NotFound", "")}, lease)
    past, future = time.time() - 10, time.time() + 10

    def taken(**times):
        with journal.database.write() as connection:
            return {row.key for row in downloads.forget_abandoned(connection, **times)}

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


def test_what_was_let_go_stays_when_its_folder_cannot_be_removed(downloads, journal):
    downloads_of(journal, dead_owner()).claim({ONE: "f1"})

    def forget():
        with journal.database.write() as connection:
            left = downloads.forget_abandoned(connection, staged_before=0, failed_before=0)
            assert [row.name for row in left] == ["f1"]
            raise StorageError("read-only")

    with pytest.raises(StorageError):
        forget()
    assert downloads.claim({ONE: "g1"}).mine[ONE].name == "f1"


def test_many_rows_are_one_batch(downloads):
    keys = [ScriptKey(Ref(f"p{number:04d}", "1.0.0"), "shell") for number in range(1000)]
    claimed = downloads.claim({key: key.ref.playbook_id for key in keys})
    assert len(claimed.mine) == 1000
    assert len(downloads.settle(dict.fromkeys(keys), claimed.lease)) == 1000
    assert downloads.all() == []
