from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from core.errors import SettingsError, StorageError
from core.journal import Journal
from core.journal.database import Database
from core.journal.migrations import migrate

PROCESSES = 20
ROUNDS = 3


def _open_new(folder, number, barrier, results):
    """Open a journal that nobody has made yet, together with all the others."""
    try:
        homes = set()
        for turn in range(ROUNDS):
            barrier.wait(30)
            journal = Journal(f"sqlite:///{folder}/{turn}.db")
            journal.facts.set(f"process-{number}", "was here")
            homes.add((turn, journal.home_id))
            journal.close()
        results.put(homes)
    except BaseException as error:
        barrier.abort()
        results.put(repr(error))


def test_many_processes_open_a_new_home_together(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_open_new, args=(str(tmp_path), number, barrier, results))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(20)

    assert all(answer == answers[0] for answer in answers), "each home has one id, seen by all"
    assert len(answers[0]) == ROUNDS
    for turn in range(ROUNDS):
        journal = Journal(f"sqlite:///{tmp_path}/{turn}.db")
        assert all(journal.facts.get(f"process-{n}") == "was here" for n in range(PROCESSES))
        journal.close()


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "SELECT * FROM x"])
def test_a_new_journal_waits_for_whoever_is_making_it(url, tmp_path, lock):
    """The busy timeout of SQLite does not cover the change to WAL."""
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    other.executescript("CREATE TABLE x (y); INSERT INTO x VALUES (1), (2)")
    cursor = other.execute(lock)
    cursor.fetchone()  # of a SELECT there is one more: its lock is held
    release = threading.Timer(
        0.2, lambda: (cursor.close(), other.in_transaction and other.rollback())
    )
    release.start()
    journal = Journal(url)
    assert journal.home_id
    journal.close()
    release.join()
    other.close()


def test_a_forked_child_uses_connections_of_its_own(journal):
    journal.facts.set("x", "before")
    connections = journal.database.engine

    def child():
        fine = journal.database.engine is not connections and journal.facts.get("x") == "before"
        journal.facts.set("child", "was here")
        os._exit(0 if fine else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)

    assert process.exitcode == 0
    assert journal.database.engine is connections
    assert journal.facts.get("child") == "was here"


def test_threads_that_write_together_lose_nothing(journal):
    def count():
        for _ in range(25):
            with journal.database.write() as connection:
                found = connection.exec_driver_sql("SELECT value FROM home WHERE key='n'").scalar()
                connection.exec_driver_sql(f"UPDATE home SET value={int(found) + 1} WHERE key='n'")

    journal.facts.set("n", "0")
    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.facts.get("n") == "100"


def test_a_transaction_that_fails_leaves_nothing(journal):
    with contextlib.suppress(RuntimeError), journal.database.write() as connection:
        connection.exec_driver_sql("INSERT INTO home VALUES ('x', '1')")
        raise RuntimeError
    assert journal.facts.get("x") is None


def test_an_acknowledged_row_is_on_the_disk(journal):
    with journal.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


class TestAFileThatIsNoJournal:
    def test_is_said_to_be_damaged_with_the_way_out(self, tmp_path: Path):
        (tmp_path / "journal.db").write_bytes(b"this is no database\n" * 500)
        with pytest.raises(StorageError, match="damaged") as failure:
            Journal(f"sqlite:///{tmp_path / 'journal.db'}")
        assert "journal.db aside" in failure.value.remedy

    def test_is_said_when_only_a_page_is_damaged(self, url, journal, tmp_path: Path):
        path = tmp_path / "journal.db"
        for number in range(200):
            journal.facts.set(f"key-{number}", "x" * 500)
        journal.close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        content = bytearray(path.read_bytes())
        content[8192:] = b"\xff" * (len(content) - 8192)
        path.write_bytes(content)

        with pytest.raises(StorageError, match="damaged") as failure:
            [Journal(url).facts.get(f"key-{number}") for number in range(200)]
        assert "journal.db aside" in failure.value.remedy

    def test_in_a_folder_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(StorageError, match="unable to open"):
            Journal(f"sqlite:///{tmp_path / 'no' / 'journal.db'}")


@pytest.mark.parametrize(
    "url", ["CANARY", "nosuch://user:CANARY@host/x", "oracle+nothing://user:CANARY@host/x"]
)
def test_a_wrong_url_is_refused_without_its_password(url):
    with pytest.raises(SettingsError) as refused:
        migrate(Database(url))
    assert "CANARY" not in str(refused.value)


def test_no_value_of_a_row_is_in_an_error(journal):
    with (
        pytest.raises(StorageError) as failure,
        journal.database.read() as connection,
    ):
        connection.exec_driver_sql("SELECT * FROM nothing WHERE x = ?", ("CANARY",))
    assert "CANARY" not in f"{failure.value} {failure.value.__cause__}"
