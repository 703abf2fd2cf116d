from __future__ import annotations

import subprocess
import sys
import time

import pytest

from core.journal.downloads import DownloadKey, DownloadState
from core.journal.leases import DEFAULT_SECONDS, this_process
from core.models import FileEntry

ONE, TWO = DownloadKey("one", "1.0.0", "shell"), DownloadKey("two", "1.0.0", "shell")
THEIRS = "elsewhere:1:1#a"
FILES = (FileEntry("shell/a.sh", 3, "sha256:" + "0" * 64),)


@pytest.fixture
def downloads(journal):
    return journal.downloads


def owner(name="x"):
    return f"{this_process()}#{name}"


def staged(downloads):
    return downloads.staged(FILES, "shell/a.sh", "tenant")


def test_a_claim_is_one_attempts_alone(downloads):
    first = downloads.claim({ONE: "f1", TWO: "f2"}, owner("a"))
    assert set(first.mine) == {ONE, TWO}
    second = downloads.claim({ONE: "g1"}, owner("b"))  # another thread of this very process
    assert (second.mine, set(second.others)) == ({}, {ONE})
    assert downloads.get(ONE).staged == "f1"


def test_what_is_done_is_forgotten_and_what_failed_is_told(downloads):
    downloads.claim({ONE: "f1", TWO: "f2"}, owner())
    written = downloads.settle({ONE: None, TWO: downloads.failed("NotFound", "no such")}, owner())
    assert written == {ONE, TWO}
    [row] = downloads.all()
    assert (row.key, row.state, row.error_type, row.error) == (
        TWO, DownloadState.FAILED, "NotFound", "no such",
    )  # fmt: skip
    assert (row.owner, row.staged, row.reserved_bytes) == (None, None, 0)
    assert downloads.claim({TWO: "g"}, owner()).mine[TWO].fence == 1


def test_staged_bytes_are_kept_for_who_verifies(downloads):
    downloads.claim({ONE: "f1"}, owner())
    downloads.settle({ONE: staged(downloads)}, owner())
    again = downloads.claim({ONE: "g1", TWO: "g2"}, owner())
    assert (set(again.mine), set(again.others)) == ({TWO}, {ONE})
    taken = downloads.claim({ONE: "h1", TWO: "h2"}, owner("v"), fresh=False, staged=True)
    assert (set(taken.mine), set(taken.others)) == ({ONE}, {TWO})
    assert taken.mine[ONE].files == FILES
    row = downloads.get(ONE)
    assert (row.state, row.staged, row.owner) == (DownloadState.STAGED, "f1", owner("v"))


def test_who_is_not_the_owner_any_more_writes_nothing(downloads, journal):
    downloads.claim({ONE: "f1"}, THEIRS, seconds=-1)
    downloads.claim({ONE: "g1"}, owner())
    assert downloads.settle({ONE: None}, THEIRS) == set()
    assert downloads.renew([ONE], THEIRS) == set()
    with journal.database.write() as connection:
        assert downloads.reserve({ONE: 5}, THEIRS, connection) == set()
    row = downloads.get(ONE)
    assert (row.owner, row.staged, row.reserved_bytes, row.fence) == (owner(), "g1", 0, 2)


def test_a_lease_of_another_host_ends_or_is_renewed(downloads):
    now = [time.time()]
    downloads._clock = lambda: now[0]
    downloads.claim({ONE: "f1"}, THEIRS)
    now[0] += DEFAULT_SECONDS - 1
    assert not downloads.claim({ONE: "g"}, owner()).mine
    assert downloads.renew([ONE], THEIRS) == {ONE}
    now[0] += DEFAULT_SECONDS - 1
    assert not downloads.claim({ONE: "g"}, owner()).mine
    now[0] += 2
    assert downloads.claim({ONE: "g"}, owner()).mine[ONE].staged == "f1"


def test_a_lease_from_a_clock_that_was_wrong_does_not_hold_for_ever(downloads):
    downloads.claim({ONE: "f1"}, THEIRS, seconds=86_400 * 365)
    assert downloads.claim({ONE: "g"}, owner()).mine


def test_the_dead_the_forgotten_and_the_old_are_let_go_and_nobody_else(downloads):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait(20)
    host = this_process().split(":")[0]
    dead, alive, waits, failed = (DownloadKey(name, "1.0.0", "shell") for name in "abcd")
    downloads.claim({dead: "f"}, f"{host}:{process.pid}:1#x")
    downloads.claim({alive: "g", waits: "h", failed: "i"}, owner())
    downloads.settle({waits: staged(downloads), failed: downloads.failed("NotFound", "")}, owner())
    past, future = time.time() - 10, time.time() + 10

    def taken(**times):
        return {row.key for row in downloads.claim_abandoned(owner("r"), **times)}

    assert taken(staged_before=past, failed_before=past) == {dead}
    assert taken(staged_before=future, failed_before=past) == {waits}
    assert taken(staged_before=past, failed_before=future) == {failed}
    assert downloads.settle({dead: None, waits: None, failed: None}, owner("r")) == {
        dead, waits, failed,
    }  # fmt: skip
    assert [row.key for row in downloads.all()] == [alive]


def test_many_rows_are_one_batch(downloads):
    keys = [DownloadKey(f"p{number:04d}", "1.0.0", "shell") for number in range(1000)]
    assert len(downloads.claim(dict.fromkeys(keys, "x"), owner()).mine) == 1000
    assert len(downloads.settle(dict.fromkeys(keys), owner())) == 1000
    assert downloads.all() == []
