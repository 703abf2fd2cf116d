"""Bring a journal to this version's format: numbered steps, each after a copy of the journal.

::

    no tables      all are made, at FORMAT_VERSION
    older          for each step above its version: copy the journal, then step and number in one
                   transaction; a failure leaves the journal as it was
    FORMAT_VERSION nothing is done
    newer          `StorageError`: this version must not guess what a later one wrote

The copy stands beside an SQLite journal (``journal.db.before-2``, mode 0600), on PostgreSQL in the
schema ``journal_before_2``. It is never read by the service; remove it when all is well.

`create_all` makes tables that are missing and never a column, so a step adds columns itself. A step
looks at what is there first: it may run again after a crash.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, inspect, select, text, true, update
from sqlalchemy.schema import CreateColumn

from core.errors import StorageError, storage_error
from core.files import fsync_dir
from core.journal import tables
from core.journal.database import Database
from core.journal.tables import FORMAT_VERSION

_VERSION_KEY = "format_version"
_log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One step of the chain: it leads to format ``number``."""

    number: int
    apply: Callable[[Connection], None]


def migrate(database: Database) -> None:
    """Make the tables of a new journal, or bring an older one to `FORMAT_VERSION`.

    Raises `StorageError` for a journal of a newer version, and when there is no room for the copy.
    """
    with database.read() as connection:
        found = _format(connection)
    if found is None:
        with database.write() as connection:
            found = _format(connection)  # two first starts at once: one of them makes the tables
            if found is None:
                tables.metadata.create_all(connection)
                _note(connection, FORMAT_VERSION)
                return
    for step in STEPS:
        if found < step.number:
            found = _run(database, step)
    if found != FORMAT_VERSION:
        raise StorageError(
            f"The journal has format {found}; this version reads {FORMAT_VERSION}.",
            "Use the version of escher-playbook-service that wrote it, or a newer one.",
        )


def _run(database: Database, step: Step) -> int:
    """Copy the journal, then apply ``step`` unless another process just did; its format now."""
    with database.write() as connection:
        found = _format(connection) or 0
        if found >= step.number:
            return found
        where = _copy(database, connection, step.number)
        step.apply(connection)
        _note(connection, step.number)
    _log.warning(
        "the journal was brought from format %d to %d; a copy is %s", found, step.number, where
    )
    return step.number


def _format(connection: Connection) -> int | None:
    """The journal's format; None when it has no tables yet."""
    if not inspect(connection).has_table(tables.home.name):
        return None
    found = connection.scalar(
        text("SELECT value FROM home WHERE key = :key"), {"key": _VERSION_KEY}
    )
    if found is None:  # the first start of format 1 was killed between its tables and this row
        return 1
    if not str(found).isdigit():
        raise StorageError(
            f"The journal's format is {str(found)[:20]!r}, which is no number.",
            "Restore the journal from a copy, or move it aside: it is rebuilt from the folders.",
        )
    return int(found)


def _note(connection: Connection, number: int) -> None:
    values = {"key": _VERSION_KEY, "value": str(number)}
    done = connection.execute(text("UPDATE home SET value = :value WHERE key = :key"), values)
    if not done.rowcount:
        connection.execute(text("INSERT INTO home (key, value) VALUES (:key, :value)"), values)


# -- the copy ---------------------------------------------------------------------------------
def _copy(database: Database, connection: Connection, number: int) -> str:
    """Copy the whole journal as it was committed before this transaction; where it is now."""
    if not database.is_sqlite:
        return _copy_tables(connection, f"journal_before_{number}")
    path = database.path
    if path is None:
        return "not made: the journal is in memory"
    copy = path.with_name(f"{path.name}.before-{number}")
    _copy_file(path, copy)  # one that is there is of an earlier attempt, or of before a restore
    return str(copy)


def _copy_file(path: Path, copy: Path) -> None:
    staged = copy.with_name(f"{copy.name}.tmp")
    try:
        staged.unlink(missing_ok=True)
        os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(staged)) as target,
        ):
            source.backup(target)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(copy)
        fsync_dir(copy.parent)
    except OSError as error:
        raise storage_error(error, f"Copying the journal to {copy}") from error
    except sqlite3.Error as error:
        raise StorageError(
            f"The journal could not be copied to {copy} before its upgrade: {error}.",
            "Free some space beside it and start again; nothing was changed.",
        ) from error


def _copy_tables(connection: Connection, name: str) -> str:
    tables = inspect(connection).get_table_names()
    if name not in inspect(connection).get_schema_names():
        quote = connection.dialect.identifier_preparer.quote
        connection.execute(text(f"CREATE SCHEMA {quote(name)}"))
        for table in tables:
            copied = f"CREATE TABLE {quote(name)}.{quote(table)} AS TABLE {quote(table)}"
            connection.execute(text(copied))
    return f"the schema {name}"


# -- the steps --------------------------------------------------------------------------------
def _to_2(connection: Connection) -> None:
    """Who made a version, what its file asked for, and the one digest that a name stands for."""
    _add_columns(
        connection,
        tables.versions,
        "made_here", "intake", "asked", "published_here", "published_by", "status_at",
        "absent_since", "publish_gate",
    )  # fmt: skip
    _add_columns(connection, tables.files, "executable")
    tables.metadata.create_all(connection)
    # the server's side of what waits is asked for again: its bytes are kept no more
    connection.execute(text("DROP TABLE IF EXISTS pull_backlog"))
    connection.execute(text("UPDATE conflicts SET theirs = NULL"))
    versions = tables.versions
    # what was published may be anybody's: `keys claim` says otherwise
    connection.execute(
        update(versions).where(versions.c.revision.is_(None)).values(made_here=true())
    )
    connection.execute(
        text(
            "INSERT INTO pins (playbook_id, version, content_digest, source, pinned_at)"
            " SELECT playbook_id, version, published_digest, 'server', COALESCE(published_at, 0)"
            " FROM versions WHERE revision IS NOT NULL AND published_digest IS NOT NULL"
            " ON CONFLICT DO NOTHING"
        )
    )
    _keep_requests(connection)


def _keep_requests(connection: Connection) -> None:
    """Tell what files asked for from what a user chose: 0.1.0 followed the files.

    A wish to be published for review goes on; one to be published as trusted may come from a file
    alone, so it waits until somebody chooses (the version says so). Nothing on disk changes.
    """
    versions = tables.versions
    key = versions.c.playbook_id, versions.c.version
    columns = (*key, versions.c.metadata, versions.c.publish_as, versions.c.sync_state,
               versions.c.warnings)  # fmt: skip
    for row in connection.execute(
        select(*columns).where(versions.c.revision.is_(None), versions.c.asked.is_(None))
    ).all():
        metadata = row.metadata
        asked: dict[str, Any] = {
            name: metadata[name]
            for name, plain in (("storage_strategy", "local_only"), ("status", "ready"))
            if metadata.get(name) not in {None, plain} and metadata[name] not in _CAREFUL
        }
        values: dict[str, Any] = {"asked": asked} if asked else {}
        if row.publish_as == "uploaded_trusted":
            asked["storage_strategy"] = row.publish_as
            name = f"{row.playbook_id}@{row.version}"
            values = {
                "asked": asked,
                "publish_as": None,
                "next_attempt_at": None,
                "warnings": [_WAITS.format(name=name), *row.warnings],
            }
            if row.sync_state != "conflict":
                values |= {"sync_state": "local", "error": None, "error_type": None}
        if values:
            connection.execute(
                update(versions).where(key[0] == row[0], key[1] == row[1]).values(**values)
            )


_CAREFUL = {"draft", "deprecated", "archived", "rejected", "broken", "needs_update"}
_WAITS = (
    "it was to be published as trusted by version 0.1.0, which took that from files, too: it stays"
    " on this machine until you choose (escher-playbooks publish {name} --as trusted)"
)


def _add_columns(connection: Connection, table: Table, *names: str) -> None:
    known = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for name in names:
        if name not in known:
            column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column}"))


def _to_3(connection: Connection) -> None:
    """One table of leases for all: what was held by a clock's time is free."""
    tables.metadata.create_all(connection)
    connection.execute(text("DROP TABLE IF EXISTS claims"))
    _drop_columns(connection, "versions", "lease_owner", "lease_until", "lease_fence")
    _drop_columns(connection, "downloads", "owner", "until")


def _drop_columns(connection: Connection, table: str, *names: str) -> None:
    if not inspect(connection).has_table(table):
        return  # of a format that has it no more
    known = {column["name"] for column in inspect(connection).get_columns(table)}
    for name in names:
        if name in known:
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {name}"))


def _to_4(connection: Connection) -> None:
    """One row for each folder below ``cache/``, where there were four tables."""
    tables.metadata.create_all(connection)
    for table, columns in _CACHE_FOLDERS.items():
        if inspect(connection).has_table(table):
            values = {"source": "''", "entry_point": "''", "files": "'[]'", "error_type": "''",
                      "reason": "''", "attempts": "0", "last_used": "0"} | columns  # fmt: skip
            names, selected = ", ".join(values), ", ".join(values.values())
            insert = f"INSERT INTO cache_folders ({names}) SELECT {selected} FROM {table}"  # noqa: S608  names of ours
            connection.execute(text(f"{insert} WHERE true ON CONFLICT DO NOTHING"))
            connection.execute(text(f"DROP TABLE {table}"))
    connection.execute(text("DELETE FROM counters WHERE name = 'room'"))


_PLACE = "playbook_id || '-v' || version || '/' || format"
_KEY = {name: name for name in ("playbook_id", "version", "format")}
_NO_KEY = dict.fromkeys(_KEY, "''")
_CACHE_FOLDERS: dict[str, dict[str, str]] = {
    "cache_entries": _KEY
    | {
        "name": f"'scripts/' || {_PLACE}",
        "state": "'complete'",
        "size_bytes": "size_bytes",
        "since": "fetched_at",
        "last_used": "last_used",
        "source": "source",
        "entry_point": "entry_point",
        "files": "files",
    },
    "downloads": _KEY
    | {
        "name": f"'staging/' || COALESCE(staged, {_PLACE})",
        "state": "CASE state WHEN 'running' THEN 'downloading' ELSE state END",
        "size_bytes": "reserved_bytes",
        "since": "COALESCE(ended_at, 0)",
        "source": "COALESCE(source, '')",
        "entry_point": "COALESCE(entry_point, '')",
        "files": "COALESCE(files, '[]')",
        "attempts": "fence",
        "error_type": "COALESCE(error_type, '')",
        "reason": "COALESCE(error, '')",
    },
    "quarantined": _KEY
    | {
        "name": "'quarantine/' || name",
        "state": "'quarantined'",
        "size_bytes": "size_bytes",
        "since": "at",
        "reason": "reason",
    },
    "script_copies": _NO_KEY
    | {
        "name": "'copies/' || name",
        "state": "'copy'",
        "size_bytes": "size_bytes",
        "since": "made_at",
    },
}


_STREAKS = """
UPDATE executions SET failures_in_a_row = r.failures_in_a_row FROM execution_refs r
WHERE r.playbook_id = executions.playbook_id AND r.version = executions.version
  AND executions.sequence IN (SELECT MAX(sequence) FROM executions GROUP BY playbook_id, version)
"""
_PUT_OFF = """
UPDATE executions SET attempts = r.attempts, next_attempt_at = r.next_attempt_at
FROM execution_refs r
WHERE r.playbook_id = executions.playbook_id AND r.version = executions.version
  AND executions.state = 'due'
"""


def _to_5(connection: Connection) -> None:
    """One table of runs: the last run of a version keeps its failures in a row, and those that wait when.

    A row less than three failures long whose runs were all pruned begins anew; the health of a
    version that it broke stands with the version.
    """
    runs = tables.executions
    _add_columns(connection, runs, "failures_in_a_row", "attempts", "next_attempt_at")
    for index in runs.indexes:
        index.create(connection, checkfirst=True)
    if inspect(connection).has_table("execution_refs"):
        connection.execute(text(_STREAKS))
        connection.execute(text(_PUT_OFF))
        connection.execute(text("DROP TABLE execution_refs"))


def _to_6(connection: Connection) -> None:
    """No stats a file: a scan's fingerprint stands for them, and ``fetched`` for an inode of 0."""
    versions = tables.versions
    _add_columns(connection, versions, "fetched")
    _add_columns(connection, tables.intents, "inode")
    if "inode" in {column["name"] for column in inspect(connection).get_columns("files")}:
        absent = (
            "UPDATE versions SET fetched = :no WHERE EXISTS (SELECT 1 FROM files"
            " WHERE files.playbook_id = versions.playbook_id"
            " AND files.version = versions.version AND files.inode = 0)"
        )
        connection.execute(text(absent), {"no": False})
    _drop_columns(connection, "files", "disk_size", "mtime_ns", "ctime_ns", "inode")
    _drop_columns(connection, "scan_state", "seen_at_ns")
    connection.execute(text("DROP TABLE IF EXISTS scan_waiting"))  # such edits wait anew


def _to_7(connection: Connection) -> None:
    """Which versions say of their files that they are executable: none from before does."""
    _add_columns(connection, tables.versions, "modes_known")


def _to_8(connection: Connection) -> None:
    """Which entry points the rule filled in: of versions from before, none; they stay what they are."""
    _add_columns(connection, tables.versions, "filled")


STEPS = (
    Step(2, _to_2), Step(3, _to_3), Step(4, _to_4), Step(5, _to_5), Step(6, _to_6), Step(7, _to_7), Step(8, _to_8),
)  # fmt: skip
