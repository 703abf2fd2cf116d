"""One engine a process, made after fork, with transactions that take the write lock at once.

One writer at a time, on both engines: SQLite locks its file, on PostgreSQL a transaction that
writes holds an advisory lock of the journal. So what a transaction has read is still so when it
writes, no two wait for each other's rows, and first starts make the tables one after the other.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from core.errors import JournalUnavailable, SettingsError, StorageError
from core.files import PRIVATE_FILE
from core.forks import ForkLock
from core.journal import schema

BUSY_TIMEOUT_SECONDS = 30
WAL_RETRY_SECONDS = 0.02
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


class Database:
    """Connections to the journal; safe to share between threads and to carry over a fork."""

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
        except SQLAlchemyError:  # its text holds the URL, and that may hold a password
            raise SettingsError(
                "journal_url is no database URL.",
                "Write postgresql+psycopg://user:password@host/name, or leave it out.",
            ) from None
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = ForkLock()

    @property
    def is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """The engine of this process; a forked child makes its own."""
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._engine = self._create()
                self._pid = os.getpid()
            return self._engine

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
                event.listen(engine, "connect", _configure_sqlite)
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
    def read(self) -> Iterator[Connection]:
        with self._errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start, so it never has to be redone."""
        with self._errors(), self.engine.connect() as opened:
            connection = opened.execution_options(escher_write=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(_LOCK)
                yield connection

    @contextmanager
    def write_unless_busy(self) -> Iterator[Connection | None]:
        """The same on PostgreSQL without waiting: None while another transaction writes."""
        with self._errors(), self.engine.begin() as connection:
            yield connection if connection.scalar(_TRY_LOCK) else None

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

    def upsert(self, table: Any, keys: tuple[str, ...], rows: list[dict[str, Any]]) -> Any:
        """``INSERT … ON CONFLICT (keys) DO UPDATE`` for the columns that ``rows`` name."""
        make = sqlite.insert if self.is_sqlite else postgresql.insert
        statement = make(table)
        changed = {
            column: getattr(statement.excluded, column) for column in rows[0] if column not in keys
        }
        return statement.on_conflict_do_update(index_elements=list(keys), set_=changed)

    def insert_ignore(self, table: Any) -> Any:
        make = sqlite.insert if self.is_sqlite else postgresql.insert
        return make(table).on_conflict_do_nothing()

    def close(self) -> None:
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None


class HomeFacts:
    """The ``home`` table: a few facts about the whole home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        with self._database.read() as connection:
            return connection.scalar(select(schema.home.c.value).where(schema.home.c.key == key))

    def set(self, key: str, value: str) -> None:
        row = {"key": key, "value": value}
        with self._database.write() as connection:
            connection.execute(self._database.upsert(schema.home, ("key",), [row]), [row])

    def remove(self, key: str) -> None:
        with self._database.write() as connection:
            connection.execute(delete(schema.home).where(schema.home.c.key == key))

    def set_once(self, key: str, value: str) -> str:
        """Store ``value`` unless the key has one; return what stands there."""
        with self._database.write() as connection:
            found = connection.scalar(select(schema.home.c.value).where(schema.home.c.key == key))
            if found is None:
                connection.execute(insert(schema.home).values(key=key, value=value))
            return value if found is None else found


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin ourselves, below
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged row survives a power cut
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
