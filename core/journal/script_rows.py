"""The one look-up behind every resolve: where a version stands, and the files of one format.

On SQLite an answer is kept for as long as nobody, in any process, commits anything: ``PRAGMA
data_version`` of a connection of our own tells (https://sqlite.org/pragma.html#pragma_data_version).
It reads by the plain DBAPI, since SQLAlchemy would cost several times the query. On PostgreSQL
every look-up is a select.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import text

from core.errors import StorageError
from core.forks import ForkLock
from core.journal.database import Database
from core.models import Area, FileEntry, Ref
from core.versions import latest

KEPT_ANSWERS = 8192
LOOKS = 4  # a version can be deleted between the two queries of "latest"
_VERSIONS = "SELECT version FROM versions WHERE playbook_id = :id"
# not a range of paths: PostgreSQL compares text by the database's collation
_ROWS = """
SELECT v.area, v.sensitive, v.revision IS NOT NULL, v.generation, v.metadata,
       f.path, f.size_bytes, f.checksum
FROM versions v LEFT JOIN files f
  ON f.playbook_id = v.playbook_id AND f.version = v.version
  AND substr(f.path, 1, :length) = :prefix
WHERE v.playbook_id = :id AND v.version = :version
"""
_MISSING: Any = object()
_AREAS = {area.value: area for area in Area}
# A connection carried over a fork is neither used nor closed by the child; see sqlite.org/howtocorrupt
_abandoned: list[sqlite3.Connection] = []


class ScriptRow(NamedTuple):
    """What the journal knows of one format of one version; ``files`` is empty without that format.

    ``generation`` changes with each new content of an unpublished version.
    """

    ref: Ref
    area: Area
    sensitive: bool
    published: bool
    generation: int
    entry_points: dict[str, str] | None
    files: tuple[FileEntry, ...]


class ScriptRows:
    """Finds `ScriptRow`; safe to share between threads and to carry over a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = ForkLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._version: int | None = None
        self._kept: dict[tuple[str, str | None, str], ScriptRow | None] = {}

    def find(self, playbook_id: str, version: str | None, format_: str) -> ScriptRow | None:
        """The row of one version, of the highest when ``version`` is None; None when unknown."""
        if not self._database.is_sqlite:
            return self._select(playbook_id, version, format_)
        key = (playbook_id, version, format_)
        with self._lock:
            try:
                connection = self._open()
                now = connection.execute("PRAGMA data_version").fetchone()[0]
                if now != self._version or len(self._kept) >= KEPT_ANSWERS:
                    self._kept.clear()
                    self._version = now
                found = self._kept.get(key, _MISSING)
                if found is _MISSING:
                    found = self._kept[key] = _look(
                        lambda query, values: connection.execute(query, values).fetchall(), *key
                    )
            except sqlite3.Error as error:
                raise StorageError(
                    f"The journal can't be read: {error}.",
                    "Check that the disk is in order and that the home can be written.",
                ) from error
        row: ScriptRow | None = found
        return row

    def close(self) -> None:
        """Give back the connection; the next look-up opens another."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
            self._version = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        if self._connection is not None:
            _abandoned.append(self._connection)
        # the engine's: set up like every other connection to the journal, and then ours alone
        pooled = self._database.engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        assert isinstance(connection, sqlite3.Connection)
        self._connection, self._pid, self._version = connection, os.getpid(), None
        return connection

    def _select(self, playbook_id: str, version: str | None, format_: str) -> ScriptRow | None:
        with self._database.read() as opened:
            return _look(
                lambda query, values: opened.execute(text(query), values).all(),
                playbook_id,
                version,
                format_,
            )


def _look(ask: Any, playbook_id: str, version: str | None, format_: str) -> ScriptRow | None:
    if version is not None:
        return _row(ask, Ref(playbook_id, version), format_)
    for _ in range(LOOKS):
        highest = latest(row[0] for row in ask(_VERSIONS, {"id": playbook_id}))
        if highest is None:
            return None
        found = _row(ask, Ref(playbook_id, highest), format_)
        if found is not None:
            return found
    return None


def _row(ask: Any, ref: Ref, format_: str) -> ScriptRow | None:
    prefix = f"{format_}/"
    values = {
        "id": ref.playbook_id, "version": ref.version, "prefix": prefix, "length": len(prefix),
    }  # fmt: skip
    rows: Sequence[Any] = ask(_ROWS, values)
    if not rows:
        return None
    area, sensitive, published, generation, metadata, *_ = rows[0]
    files = [FileEntry(path, size, checksum) for *_, path, size, checksum in rows if path]
    if len(files) > 1:
        files.sort(key=_by_path)
    return ScriptRow(
        ref,
        _AREAS[area],
        bool(sensitive),
        bool(published),
        generation,
        _entry_points(metadata),
        tuple(files),
    )


def _by_path(file: FileEntry) -> str:
    return file.path


def _entry_points(metadata: str) -> dict[str, str] | None:
    if '"entry_points"' not in metadata:  # most have none, and parsing costs more than the query
        return None
    named = json.loads(metadata).get("entry_points")
    return named if isinstance(named, dict) else None
