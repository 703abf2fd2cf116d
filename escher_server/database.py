"""The server's SQLite database: one writer, a reader per thread.

::

    meta            schema and epoch (changes when the data directory starts anew)
    tenants ─┬─ tokens          only hashes, each with its member; revoked ones stay
             ├─ objects         what the object store is known to hold, by digest
             ├─ announcements   files named by upload calls, before and after they arrive
             ├─ versions        one row a published version; deleted ones stay as tombstones
             │                  with their digest, for ever
             ├─ answers         first answers by Idempotency-Key
             ├─ executions      counted once by execution_id, with the member who reported them
             └─ starts          the tenant's change number at each start of the server
    library_vectors             embeddings of library texts, by the text's digest

The tables themselves are made by `escher_server.migrations`.

``versions.seq`` is the tenant's change counter at the row's last change. It is taken inside the
one write transaction, so a reader never sees a number before a smaller one: the changes feed
has no gaps.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from escher_server.migrations import bring_up_to_date

_BUSY_SECONDS = 30
_LIVES_KEPT = 1000


class Database:
    """Transactions on ``<data_dir>/escher.db``; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._writer = self._connect()
        self._durable = True
        try:
            bring_up_to_date(self._writer, path)
            with self.write() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (uuid.uuid4().hex[:12],)
                )
                epoch = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        except BaseException:
            self.close()
            raise
        self.epoch: str = epoch[0]
        self.life = ""

    def begin_life(self) -> None:
        """Note a start of the server, and at which change number each tenant stands.

        A cursor names the life that it was given in. One of a life that this database does not
        know, or from beyond the end of that life, tells that the database was restored from an
        older copy: what it then holds under the same numbers is something else.
        """
        self.life = uuid.uuid4().hex[:12]
        with self.write() as connection:
            number = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM starts")
            number = number.fetchone()[0]
            connection.execute(
                "INSERT INTO starts SELECT ?, ?, tenant_id, last_seq FROM tenants",
                (number, self.life),
            )
            # also where there is no tenant yet
            connection.execute("INSERT INTO starts VALUES (?, ?, '', 0)", (number, self.life))
            connection.execute("DELETE FROM starts WHERE number <= ?", (number - _LIVES_KEPT,))

    def life_end(self, life: str, tenant_id: str) -> int | None:
        """The tenant's last change number in ``life``; None for a life that is not known."""
        reader = self.read()
        row = reader.execute("SELECT number FROM starts WHERE life = ?", (life,)).fetchone()
        if row is None:
            return None
        later = reader.execute(
            "SELECT min(number) FROM starts WHERE number > ?", (row["number"],)
        ).fetchone()[0]
        if later is None:
            end = reader.execute("SELECT last_seq FROM tenants WHERE tenant_id = ?", (tenant_id,))
        else:
            end = reader.execute(
                "SELECT seq FROM starts WHERE number = ? AND tenant_id = ?", (later, tenant_id)
            )
        found = end.fetchone()
        return 0 if found is None else int(found[0])

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives its -wal and -shm the mode of the file
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        self._opened.append(connection)
        return connection

    def read(self) -> sqlite3.Connection:
        """The calling thread's connection for single SELECTs; it never waits for a writer."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._lock:
                connection = self._connect()
            self._local.connection = connection
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction, rolled back when the body raises.

        ``durable=False`` leaves the sync to the next durable commit: right for what a client
        would simply send again (announcements), wrong for what was acknowledged (a publish).
        """
        with self._lock:
            connection = self._writer
            if durable != self._durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back on some errors
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close every connection; the server is going down."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()


def open_database(data_dir: Path) -> Database:
    """Open (and at the first start make) the database of ``data_dir``, a 0700 folder."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Database(data_dir / "escher.db")
