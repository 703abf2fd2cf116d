"""The schema of the server's database as a chain of numbered steps.

A new database goes through every step, an older one through those that it lacks, each in a
transaction of its own. Before a step the database is copied to ``escher.db.schema-<n>`` beside
it, so the server of before can be started on the copy. A database of a newer schema is refused.

===== =========================================================================================
step  what it brings
===== =========================================================================================
1     the tables of the first release
2     tokens name a member and can be revoked; versions know who published them and whether they
      were ever approved; executions know who reported them and when; the starts of the server
===== =========================================================================================
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

_FIRST = """
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

# A version that was ever approved stayed uploaded_trusted, so that tells it of those from before.
# Who published them is not known, and nobody is guessed.
_SECOND = """
ALTER TABLE tokens ADD COLUMN member TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN created_at INTEGER;
ALTER TABLE tokens ADD COLUMN revoked_at INTEGER;
UPDATE tokens SET member = role || '-' || substr(token_hash, 1, 8);
ALTER TABLE versions ADD COLUMN published_by TEXT;
ALTER TABLE versions ADD COLUMN approved_at INTEGER;
UPDATE versions SET approved_at = updated_at
    WHERE storage_strategy = 'uploaded_trusted' OR status IN ('approved', 'active');
ALTER TABLE executions ADD COLUMN member TEXT;
ALTER TABLE executions ADD COLUMN received_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX executions_by_member ON executions (tenant_id, member, received_at);
CREATE TABLE starts (
    number INTEGER NOT NULL, life TEXT NOT NULL, tenant_id TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (number, tenant_id)
) WITHOUT ROWID;
CREATE INDEX starts_by_life ON starts (life);
INSERT INTO starts SELECT 0, '', tenant_id, 0 FROM tenants;
"""

STEPS: tuple[str, ...] = (_FIRST, _SECOND)
SCHEMA_VERSION = len(STEPS)


class NewerData(RuntimeError):
    """The data directory was written by a newer server than this one."""


def bring_up_to_date(
    connection: sqlite3.Connection, path: Path, *, step_done: Callable[[int], None] = lambda _: None
) -> None:
    """Bring the database at ``path`` to `SCHEMA_VERSION`; harmless when it is there already.

    ``connection`` is one of no transaction (``isolation_level=None``). `NewerData` for a schema
    that this server does not know. ``step_done`` is told each step that was done.
    """
    version = schema_version(connection)
    is_new = version == 0
    while version != SCHEMA_VERSION:
        if version > SCHEMA_VERSION:
            raise NewerData(
                f"{path} has schema {version}, this server knows {SCHEMA_VERSION}: "
                "start the newer server again, or give this one another data directory."
            )
        if not is_new:
            _copy(connection, path, version)
        if _step(connection, version + 1):
            step_done(version + 1)
        version = schema_version(connection)


def schema_version(connection: sqlite3.Connection) -> int:
    """The last step that the database went through; 0 for an empty one."""
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'"
    ).fetchone()
    if known is None:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    return int(row[0]) if row is not None else 0


def _step(connection: sqlite3.Connection, number: int) -> bool:
    """Do one step, whole or not at all; False when another process was quicker."""
    connection.execute("BEGIN EXCLUSIVE")
    try:
        if schema_version(connection) != number - 1:
            connection.execute("ROLLBACK")
            return False
        for statement in STEPS[number - 1].split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(number),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def _copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the database as it stands to ``<name>.schema-<version>``, synced."""
    target = path.with_name(f"{path.name}.schema-{version}")
    draft = path.with_name(f".{target.name}-{secrets.token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection.execute("VACUUM INTO ?", (str(draft),))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
