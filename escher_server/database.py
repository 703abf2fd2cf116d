"""The server's SQLite database: one writer, a reader per thread.

::

    meta            schema and epoch (changes when the data directory starts anew)
    tenants ─┬─ tokens          only hashes
             ├─ objects         what the object store is known to hold, by digest
             ├─ announcements   files named by upload calls, before and after they arrive
             ├─ versions        one row a published version; deleted ones stay as tombstones
             ├─ answers         first answers by Idempotency-Key
             └─ executions      counted once by execution_id
    library_vectors             embeddings of library texts, by the text's digest

``versions.seq`` is the tenant's change counter at the row's last change. It is taken inside the
one write transaction, so a reader never sees a number before a smaller one: the changes feed
has no gaps.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA_VERSION = "1"
_BUSY_SECONDS = 30

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tenants (
    tenant_id TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL DEFAULT 0,
    requests INTEGER NOT NULL DEFAULT 0,
    bytes_received INTEGER NOT NULL DEFAULT 0,
    bytes_sent INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
    token_hash TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, role TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    tenant_id TEXT NOT NULL, checksum TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, checksum)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS announcements (
    tenant_id TEXT NOT NULL, playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    files_digest TEXT NOT NULL, files TEXT NOT NULL, serial INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, playbook_id, version, files_digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    tenant_id TEXT NOT NULL, playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    revision INTEGER NOT NULL, seq INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
    content_digest TEXT NOT NULL, metadata TEXT NOT NULL, files TEXT NOT NULL,
    status TEXT NOT NULL, storage_strategy TEXT NOT NULL,
    deprecated_by TEXT, deprecation_reason TEXT,
    published_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    execution_count INTEGER NOT NULL DEFAULT 0, success_count INTEGER NOT NULL DEFAULT 0,
    last_executed INTEGER,
    vector BLOB, embedding_model TEXT,
    PRIMARY KEY (tenant_id, playbook_id, version)
);
CREATE UNIQUE INDEX IF NOT EXISTS versions_by_seq ON versions (tenant_id, seq);
CREATE TABLE IF NOT EXISTS answers (
    tenant_id TEXT NOT NULL, key TEXT NOT NULL, body_digest TEXT NOT NULL, answer TEXT NOT NULL,
    playbook_id TEXT NOT NULL, version TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_version ON answers (tenant_id, playbook_id, version);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (created_at);
CREATE TABLE IF NOT EXISTS executions (
    tenant_id TEXT NOT NULL, execution_id TEXT NOT NULL,
    playbook_id TEXT NOT NULL, version TEXT NOT NULL,
    success INTEGER NOT NULL, duration_ms INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, execution_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS library_vectors (
    text_digest TEXT PRIMARY KEY, vector BLOB NOT NULL
) WITHOUT ROWID;
"""


class Database:
    """Transactions on ``<data_dir>/escher.db``; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._writer = self._connect()
        self._durable = True
        self._writer.executescript(_SCHEMA)
        with self.write() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO meta VALUES (?, ?)",
                [("schema", SCHEMA_VERSION), ("epoch", uuid.uuid4().hex[:12])],
            )
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if meta["schema"] != SCHEMA_VERSION:
            self.close()
            raise RuntimeError(
                f"{path} has schema {meta['schema']}, this server writes {SCHEMA_VERSION}; "
                "start it with another data directory."
            )
        self.epoch: str = meta["epoch"]

    def _connect(self) -> sqlite3.Connection:
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
