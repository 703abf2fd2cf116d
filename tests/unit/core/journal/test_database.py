from __future__ import annotations

import contextlib
import gc
import multiprocessing
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.postgres import on_postgresql, on_sqlite

from core.errors import JournalUnavailable, SettingsError, StorageError, UsageError
from core.journal import Journal, database
from core.journal.database import Database
from core.journal.migrations import migrate

PROCESSES = 20
UPDATE = text("UPDATE home SET value = 'x' WHERE key = :key")
ROUNDS = 3


def _open_new(urls, number, barrier, results):
    """Open a journal that nobody has made yet, together with all the others."""
    try:
        homes = set()
        for url in urls:
            barrier.wait(30)
            journal = Journal(url)
            journal.facts.set(f"process-{number}", "was here")
            homes.add((url, journal.home_id))
            journal.close()
        results.put(homes)
    except BaseException as error:
        barrier.abort()
        results.put(repr(error))


def test_many_processes_open_a_new_home_together(new_journal_url):
    urls = [new_journal_url() for _ in range(ROUNDS)]
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_open_new, args=(urls, number, barrier, results))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(20)

    assert all(answer == answers[0] for answer in answers), "each home has one id, seen by all"
    assert len(answers[0]) == ROUNDS
    for url in urls:
        journal = Journal(url)
        assert all(journal.facts.get(f"process-{n}") == "was here" for n in range(PROCESSES))
        journal.close()


@on_sqlite
@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "SELECT * FROM x"])
def test_a_new_journal_waits_for_whoever_is_making_it(new_journal_url, tmp_path, lock):
    """The busy timeout of SQLite does not cover the change to WAL."""
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    other.executescript("CREATE TABLE x (y); INSERT INTO x VALUES (1), (2)")
    cursor = other.execute(lock)
    cursor.fetchone()  # of a SELECT there is one more: its lock is held
    release = threading.Timer(
        0.2, lambda: (cursor.close(), other.in_transaction and other.rollback())
    )
    release.start()
    journal = Journal(new_journal_url())
    assert journal.home_id
    journal.close()
    release.join()
    other.close()


def test_a_forked_child_opens_its_own_and_leaves_its_parents_alone(journal, journal_url):
    journal.facts.set("x", "before")

    def child():
        with pytest.raises(UsageError, match="forked"):
            journal.facts.get("x")
        journal.close()  # it must not end the parent's connections
        own = Journal(journal_url)
        own.facts.set("child", own.facts.get("x"))
        own.close()
        del own
        gc.collect()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)

    assert process.exitcode == 0
    assert journal.facts.get("child") == "before"


def test_what_fails_for_a_passing_reason_is_done_again_from_its_start(journal, monkeypatch):
    slept = []
    monkeypatch.setattr("core.journal.database.time", SimpleNamespace(sleep=slept.append))
    tries = []

    def work(connection):
        tries.append(None)
        connection.exec_driver_sql(f"INSERT INTO home VALUES ('try-{len(tries)}', 'x')")
        if len(tries) < 3:
            raise JournalUnavailable("A deadlock was ended.")
        return "done"

    assert journal.database.retried(work) == "done"
    assert [journal.facts.get(f"try-{number}") for number in (1, 2, 3)] == [None, None, "x"]
    assert len(slept) == 2

    with pytest.raises(JournalUnavailable):
        journal.database.retried(lambda _: (_ for _ in ()).throw(JournalUnavailable("away")))
    assert len(slept) < 10


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


@on_sqlite
def test_an_acknowledged_row_is_on_the_disk(journal):
    with journal.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


@on_sqlite
@pytest.mark.usefixtures("engine")
class TestAFileThatIsNoJournal:
    def test_is_said_to_be_damaged_with_the_way_out(self, tmp_path: Path):
        (tmp_path / "journal.db").write_bytes(b"this is no database\n" * 500)
        with pytest.raises(StorageError, match="damaged") as failure:
            Journal(f"sqlite:///{tmp_path / 'journal.db'}")
        assert "journal.db aside" in failure.value.remedy

    def test_is_said_when_only_a_page_is_damaged(self, journal_url, journal, tmp_path: Path):
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
            [Journal(journal_url).facts.get(f"key-{number}") for number in range(200)]
        assert "journal.db aside" in failure.value.remedy

    def test_in_a_folder_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(StorageError, match="unable to open"):
            Journal(f"sqlite:///{tmp_path / 'no' / 'journal.db'}")


@pytest.mark.parametrize(
    "url", ["CANARY", "nosuch://user:CANARY@host/x", "oracle+nothing://user:CANARY@host/x"]
)
@on_sqlite
@pytest.mark.usefixtures("engine")
def test_a_wrong_url_is_refused_without_its_password(url):
    with pytest.raises(SettingsError) as refused:
        migrate(Database(url))
    assert "CANARY" not in str(refused.value)


def test_no_value_of_a_row_is_in_an_error(journal):
    with (
        pytest.raises((StorageError, DBAPIError)) as failure,
        journal.database.read() as connection,
    ):
        connection.execute(text("SELECT * FROM nothing WHERE x = :x"), {"x": "CANARY"})
    assert "CANARY" not in f"{failure.value} {failure.value.__cause__}"


@on_postgresql
@pytest.mark.usefixtures("engine")
class TestPostgreSQL:
    """What only a server does: it goes away, and it ends one of two that wait for each other."""

    @pytest.fixture
    def away(self, postgres, journal_url):
        return lambda: postgres.disconnect(journal_url)

    def test_a_connection_that_is_lost_is_made_again(self, journal, away):
        journal.facts.set("x", "1")
        away()
        assert journal.facts.get("x") == "1"

    def test_one_that_is_lost_in_the_middle_is_transient_and_writes_nothing(self, journal, away):
        def write():
            with journal.database.write() as connection:
                connection.execute(text("INSERT INTO home VALUES ('x', '1')"))
                away()
                connection.execute(text("INSERT INTO home VALUES ('y', '1')"))

        with pytest.raises(JournalUnavailable, match="PostgreSQL runs"):
            write()
        assert journal.facts.get("x") is None
        journal.facts.set("x", "2")

    def test_a_deadlock_is_transient(self, journal):
        journal.facts.set("a", "0")
        journal.facts.set("b", "0")
        barrier, ended = threading.Barrier(2), []

        def change(first, second):
            try:  # as another program might, without the lock of the writers
                with journal.database.read() as connection:
                    connection.execute(UPDATE, {"key": first})
                    barrier.wait(20)
                    connection.execute(UPDATE, {"key": second})
                    connection.commit()
            except JournalUnavailable as error:
                ended.append(error)

        threads = [threading.Thread(target=change, args=pair) for pair in ("ab", "ba")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert ["deadlock" in error.detail for error in ended] == [True]

    def test_who_waits_too_long_for_a_writer_is_told_to_try_again(self, journal, monkeypatch):
        monkeypatch.setattr(
            database,
            "_LOCK",
            text(database._LOCK.text.replace("'lock_timeout', '30s'", "'lock_timeout', '50ms'")),
        )
        with journal.database.write(), pytest.raises(JournalUnavailable, match="lock timeout"):
            journal.facts.set("x", "1")

    def test_a_writer_that_says_nothing_for_too_long_is_no_hindrance(self, journal):
        said_nothing = text(database._LOCK.text.replace("timeout', '30s'", "timeout', '300ms'"))

        def fall_silent():
            with journal.database.write() as silent:
                silent.execute(said_nothing)
                journal.facts.set("x", "1")  # waits until the other one was ended
                silent.execute(text("SELECT 1"))

        with pytest.raises(JournalUnavailable):
            fall_silent()
        assert journal.facts.get("x") == "1"

    def test_a_server_that_is_not_there_is_transient_and_names_no_password(self, tmp_path):
        url = f"postgresql+psycopg://user:CANARY@/x?host={tmp_path}"
        with pytest.raises(JournalUnavailable) as failure:
            Journal(url)
        assert "CANARY" not in str(failure.value)
