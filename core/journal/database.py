"""One engine a process, with transactions that take the write lock at once.

Every process opens the journal after its fork: a forked child that uses its parent's is refused
(`core.processes.OpenedHere`), here, where all that a service does comes through.

One writer at a time, on both engines: SQLite locks its file, on PostgreSQL a transaction that
writes holds an advisory lock of the journal. So what a transaction has read is still so when it
writes, no two wait for each other's rows, and first starts make the tables one after the other.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from core.backoff import Backoff
from core.errors import JournalUnavailable, SettingsError, StorageError
from core.files import PRIVATE_FILE
from core.processes import OpenedHere

BUSY_TIMEOUT_SECONDS = 30
WAL_RETRY_SECONDS = 0.02
TRIES = 5  # of a transaction that met a deadlock, or a database that was just away
AGAIN = Backoff(0.1, 2.0)
# PostgreSQL's advisory lock of the writers, one a schema; a writer that was stopped or cut off in
# the middle gives it back when it has said nothing for as long as others wait for it.
_WRITER = "0x65736368, hashtext(current_schema())"
_LOCK = text(
    f"SELECT set_config('lock_timeout', '{BUSY_TIMEOUT_SECONDS}s', true),"
    f" set_config('idle_in_transaction_session_timeout', '{BUSY_TIMEOUT_SECONDS}s', true),"
    f" pg_advisory_xact_lock({_WRITER})"
)
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_WRITER})")
# away, full, starting or stopping; a deadlock; a wait that took too long
_PASSING = ("08", "40", "57P", "53300", "55P03", "25P03", "57014")

T = TypeVar("T")


class Database:
    """Connections to the journal; safe to share between threads.

    ``synchronous``: SQLite's word for how far a commit waits for the disk.
    """

    def __init__(self, url: str | URL, *, synchronous: str = "FULL") -> None:
        try:
            self._url = make_url(url)
        except SQLAlchemyError:  # its text holds the URL, and that may hold a password
            raise SettingsError(
                "journal_url is no database URL.",
                "Write postgresql+psycopg://user:password@host/name, or leave it out.",
            ) from None
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.opened = OpenedHere("The journal")
        self._synchronous = synchronous
        self._engine: Engine | None = None
        self._detached: list[Any] = []
        self._lock = threading.Lock()
        self.writing = threading.RLock()  # on SQLite: no fork meanwhile, see `_before_fork`
        _open_here.add(self)

    @property
    def engine(self) -> Engine:
        """The engine; `UsageError` in a process that was forked since this was opened."""
        self.opened.check()
        with self._lock:
            if self._engine is None:
                self._engine = self._create()
            return self._engine

    def own_connection(self) -> sqlite3.Connection:
        """A connection for the caller alone, set up like every other; for SQLite."""
        pooled = self.engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        assert isinstance(connection, sqlite3.Connection)
        self._detached.append(connection)
        return connection

    def beside(self, suffix: str, *, synchronous: str) -> Database:
        """Another file next to an SQLite journal; on a server, and in memory, this very database."""
        if self.path is None:
            return self
        url = self._url.set(database=f"{self.path}{suffix}")
        return Database(url, synchronous=synchronous)

    def _create(self) -> Engine:
        try:
            if self.is_sqlite:
                self._make_private()
                engine = create_engine(
                    self._url,
                    connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
                    pool_size=8,
                    hide_parameters=True,
                )
                event.listen(engine, "connect", partial(_configure_sqlite, self._synchronous))
                event.listen(engine, "begin", _begin_sqlite)
            else:
                engine = create_engine(self._url, pool_pre_ping=True, hide_parameters=True)
        except (SQLAlchemyError, ImportError) as error:
            raise SettingsError(
                f"The journal {self._url.render_as_string(hide_password=True)} can't be used: {error}.",
                "Check journal_url; PostgreSQL needs the extra escher-playbook-service[postgres].",
            ) from error
        return engine

    @property
    def path(self) -> Path | None:
        """The file of an SQLite journal; None for one in memory or on a server."""
        name = self._url.database
        return Path(name) if self.is_sqlite and name and name != ":memory:" else None

    def _make_private(self) -> None:
        """Make the database's file before SQLite does, which would ask the umask for its mode.

        Its ``-wal`` and ``-shm`` take the mode of the database.
        """
        if self.path is not None:
            with suppress(OSError):  # there already, or SQLite says what is wrong
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))

    @contextmanager
    def read(self, within: Connection | None = None) -> Iterator[Connection]:
        """A transaction that sees one state throughout; with ``within`` that one, which goes on."""
        if within is not None:
            yield within
            return
        with self._errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, alone: bool = True) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start, so it never has to be redone.

        ``alone`` False: beside other writers, where the engine can; for what waits for nobody.
        """
        turn = self.writing if self.is_sqlite else nullcontext()
        with self._errors(), turn, self.engine.connect() as opened:
            connection = opened.execution_options(escher_write=True)
            with connection.begin():
                if alone and not self.is_sqlite:
                    connection.execute(_LOCK)
                yield connection

    def write_within(self, within: Connection | None) -> AbstractContextManager[Connection]:
        """`write`, or that open transaction, which goes on afterwards."""
        return self.write() if within is None else nullcontext(within)

    @contextmanager
    def write_unless_busy(self) -> Iterator[Connection | None]:
        """The same on PostgreSQL without waiting: None while another transaction writes."""
        with self._errors(), self.engine.begin() as connection:
            yield connection if connection.scalar(_TRY_LOCK) else None

    def rows(self, query: Executable) -> Sequence[Any]:
        """The rows of one query, in a transaction of its own."""
        with self.read() as connection:
            return connection.execute(query).all()

    def scalars(self, query: Executable) -> list[Any]:
        """The first column of these rows."""
        with self.read() as connection:
            return list(connection.scalars(query))

    def scalar(self, query: Executable) -> Any:
        """The first column of the first row; None without one."""
        with self.read() as connection:
            return connection.scalar(query)

    def run(self, statement: Executable) -> int:
        """Write by one statement, in a transaction of its own; how many rows it changed."""
        with self.write() as connection:
            return connection.execute(statement).rowcount

    def retried(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in a `write` transaction, again while that fails for a passing reason.

        It is begun anew each time, so ``work`` keeps nothing of an earlier one.
        """
        for failures in range(TRIES - 1):
            try:
                with self.write() as connection:
                    return work(connection)
            except JournalUnavailable:
                time.sleep(AGAIN.seconds(failures))
        with self.write() as connection:
            return work(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._named(error) from error

    def _named(self, error: DBAPIError) -> Exception:
        """What a failure of the database is here; the driver's own words stay in it."""
        where = self._url.render_as_string(hide_password=True)
        code = getattr(error.orig, "sqlstate", None)
        lost = error.connection_invalidated or (
            code is None and isinstance(error, OperationalError)
        )
        if not self.is_sqlite and (lost or (code or "").startswith(_PASSING)):
            return JournalUnavailable(
                f"The journal ({where}) does not answer: {error.orig}.",
                "It is tried again; check that PostgreSQL runs and can be reached.",
            )
        if isinstance(error, OperationalError):
            return StorageError(
                f"The journal ({where}) failed: {error.orig}.",
                "Check that the disk is not full and that the home can be written.",
            )
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            return StorageError(
                f"The journal is damaged: {error.orig}.",
                "Move journal.db aside: the next command rebuilds it from the folders.",
            )
        return error

    def insert(self, table: Any) -> Any:
        """The dialect's own ``INSERT``, which knows ``ON CONFLICT``."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def put(
        self, table: Table, rows: Sequence[dict[str, Any]], within: Connection | None = None
    ) -> None:
        """Insert rows, or change the columns that they name in those of their primary keys."""
        if rows:
            keys = [column.name for column in table.primary_key]
            statement = self.insert(table)
            changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
            with self.write_within(within) as connection:
                connection.execute(
                    statement.on_conflict_do_update(index_elements=keys, set_=changed), rows
                )

    def put_new(
        self, table: Table, rows: Sequence[dict[str, Any]], within: Connection | None = None
    ) -> None:
        """Insert rows; those whose keys are there stay as they are."""
        if rows:
            with self.write_within(within) as connection:
                connection.execute(self.insert(table).on_conflict_do_nothing(), rows)

    def close(self) -> None:
        """Close all connections; in a forked child nothing, as they are its parent's."""
        if not self.opened.is_so:
            return
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    def keep_from_closing(self) -> None:
        """In a forked child: closing a parent's connection ends its session, or its locks.

        See sqlite.org/howtocorrupt.
        """
        _of_the_parent.extend([self._engine, *self._detached])


_open_here: WeakSet[Database] = WeakSet()
_of_the_parent: list[object] = []


class _HeldOff(threading.local):
    """The databases that nobody writes while this thread forks."""

    def __init__(self) -> None:
        self.databases: list[Database] = []


_held_off = _HeldOff()


def _before_fork() -> None:
    """Wait until no other thread writes: SQLite would hold its locks in the child for ever.

    It remembers in memory which locks its process has, and the child has no thread to end them.
    All or none are held, as a transaction may go on to another file; a long wait is given up.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while not _hold_off(list(_open_here)) and time.monotonic() < deadline:
        time.sleep(WAL_RETRY_SECONDS)


def _hold_off(databases: list[Database]) -> bool:
    for database in databases:
        if not database.writing.acquire(blocking=False):
            _go_on()
            return False
        _held_off.databases.append(database)
    return True


def _go_on() -> None:
    while _held_off.databases:
        _held_off.databases.pop().writing.release()


def _after_fork() -> None:
    _go_on()
    for database in list(_open_here):
        database.keep_from_closing()


os.register_at_fork(before=_before_fork, after_in_parent=_go_on, after_in_child=_after_fork)


def _configure_sqlite(synchronous: str, connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin ourselves, below
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    _switch_to_wal(cursor)
    # FULL: an acknowledged row survives a power cut
    cursor.execute(f"PRAGMA synchronous={synchronous}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # The busy timeout does not cover this one change, and processes that start together on a new
    # home make it together.
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # a full or read-only disk does not get better by waiting
            busy = error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a write can fail with "locked" in the middle.
    write = connection.get_execution_options().get("escher_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
