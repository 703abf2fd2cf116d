"""Looks up what a resolve needs of a version: where it stands, whether it may be run, its files.

Also kept here is what the server said of versions that this home does not have
(``server_statuses``). On SQLite an answer is kept for as long as nobody, in any process, commits
anything: ``PRAGMA data_version`` of a connection of our own tells
(https://sqlite.org/pragma.html#pragma_data_version). It reads by the plain DBAPI, since SQLAlchemy
would cost several times the query. On PostgreSQL every look-up is a select.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import delete, select, text

from core.errors import StorageError
from core.journal.database import Database
from core.journal.rows import among, chunks, key
from core.journal.tables import server_statuses
from core.models import Area, FileEntry, Ref, SyncState

KEPT_ANSWERS = 8192
_FACTS = """
  v.version, v.area, v.status, v.strategy, v.revision IS NOT NULL, v.made_here, v.health,
  v.published_by, COALESCE(v.status_at, v.published_at, v.updated_at), v.sync_state,
  EXISTS (SELECT 1 FROM conflicts c WHERE c.state = 'open' AND c.playbook_id = v.playbook_id
          AND (c.version = v.version OR c.kind = 'private_id')),
  CASE WHEN v.status = 'deprecated' THEN v.metadata END,
  v.made_here OR v.intake IS NOT NULL"""
# not a range of paths: PostgreSQL compares text by the database's collation
_VERSIONS = f"""
SELECT EXISTS (SELECT 1 FROM files f WHERE f.playbook_id = v.playbook_id
               AND f.version = v.version AND substr(f.path, 1, :length) = :prefix), {_FACTS}
FROM versions v WHERE v.playbook_id = :id
"""  # noqa: S608  one constant in another
_ROWS = f"""
SELECT v.sensitive, v.generation, v.metadata, f.path, f.size_bytes, f.checksum, f.executable,
{_FACTS}
FROM versions v LEFT JOIN files f
  ON f.playbook_id = v.playbook_id AND f.version = v.version
  AND substr(f.path, 1, :length) = :prefix
WHERE v.playbook_id = :id AND v.version = :version
"""  # noqa: S608  as above
_TOLD = """
SELECT status, strategy, published_by, deprecated_by, told_at
FROM server_statuses WHERE playbook_id = :id AND version = :version
"""
_CONFLICT = """
SELECT COUNT(*) FROM conflicts WHERE state = 'open' AND playbook_id = :id AND version = :version
"""
# the rule of `Pins.private_ids`; that one's three selects would be most of a cached resolve
_SHARED = """
SELECT (SELECT COUNT(*) FROM versions WHERE playbook_id = :id),
       (SELECT COUNT(*) FROM versions WHERE playbook_id = :id
        AND (revision IS NOT NULL OR area = 'synced'))
       + (SELECT COUNT(*) FROM pins WHERE playbook_id = :id AND source <> 'tombstone')
"""
_MISSING: Any = object()
_Key = tuple[str, str, str, str]  # what is looked up, the id, the version, the format
_Ask = Callable[[str, dict[str, Any]], Sequence[Any]]
_Answer = TypeVar("_Answer")
_AREAS = {area.value: area for area in Area}  # a call of the enumeration costs more


class VersionFacts(NamedTuple):
    """What of a version decides whether it may be run.

    ``status_at``: when its status was last told by the server, else set here (Unix seconds).
    """

    version: str
    area: Area
    status: str
    strategy: str
    published: bool
    made_here: bool
    health: str
    published_by: str | None
    status_at: int
    in_conflict: bool
    deprecated_by: str | None = None
    has_format: bool = True
    origin_known: bool = True  # False: published before the journal kept who made a version


class ToldStatus(NamedTuple):
    """What the server said, at ``told_at``, of a version that this home does not have."""

    status: str | None
    strategy: str | None
    published_by: str | None
    deprecated_by: str | None
    told_at: int


class ScriptRow(NamedTuple):
    """What the journal knows of one format of one version; ``files`` is empty without that format.

    ``generation`` changes with each new content of an unpublished version.
    """

    ref: Ref
    sensitive: bool
    generation: int
    entry_points: dict[str, str] | None
    files: tuple[FileEntry, ...]
    facts: VersionFacts

    @property
    def area(self) -> Area:
        return self.facts.area

    @property
    def published(self) -> bool:
        return self.facts.published


class ScriptRows:
    """Answers a resolver's questions, from memory while nothing changed; safe between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._kept: dict[_Key, Any] = {}

    def find(self, playbook_id: str, version: str, format_: str) -> ScriptRow | None:
        """The row of one version; None when it is not known here."""
        return self._kept_answer(("row", playbook_id, version, format_), _row)

    def versions_of(self, playbook_id: str, format_: str) -> tuple[VersionFacts, ...]:
        """All versions of a playbook, in no order; ``has_format`` says which have that format."""
        return self._kept_answer(("versions", playbook_id, "", format_), _versions)

    def told(self, ref: Ref) -> ToldStatus | None:
        """What the server last said of a version that is not known here."""
        return self._kept_answer(("told", *ref, ""), _told)

    def in_conflict(self, ref: Ref) -> bool:
        """Whether a choice waits for a version that is not known here."""
        return self._kept_answer(("conflict", *ref, ""), _in_conflict)

    def is_private(self, playbook_id: str) -> bool:
        """Whether the id is this home's own: none of its versions was published or pulled."""
        return self._kept_answer(("private", playbook_id, "", ""), _is_private)

    def note_told(self, told: dict[Ref, ToldStatus]) -> None:
        """Keep what the server said of versions that are not known here."""
        rows = [{**ref._asdict(), **status._asdict()} for ref, status in told.items()]
        self._database.put(server_statuses, rows)

    def forget_told(self, refs: Sequence[Ref]) -> None:
        """What the server said of these versions counts no more: they were deleted there."""
        if not refs:
            return
        with self._database.write() as connection:
            for part in chunks(refs):
                connection.execute(delete(server_statuses).where(among(server_statuses, part)))

    def told_among(self, refs: Sequence[Ref]) -> set[Ref]:
        """Those of which the server said something while they were not known here."""
        found: set[Ref] = set()
        with self._database.read() as connection:
            for part in chunks(refs):
                query = select(*key(server_statuses)).where(among(server_statuses, part))
                found |= {Ref(*row) for row in connection.execute(query)}
        return found

    def _kept_answer(self, key: _Key, look: Callable[[_Ask, _Key], _Answer]) -> _Answer:
        """What ``look`` finds, the very same object for as long as nobody commits anything."""
        if not self._database.is_sqlite:
            with self._database.read() as opened:
                return look(lambda query, values: opened.execute(text(query), values).all(), key)
        self._database.opened.check()
        with self._lock:
            try:
                connection = self._connection or self._open()
                now = connection.execute("PRAGMA data_version").fetchone()[0]
                if now != self._version or len(self._kept) >= KEPT_ANSWERS:
                    self._kept.clear()
                    self._version = now
                found: _Answer = self._kept.get(key, _MISSING)
                if found is _MISSING:
                    found = self._kept[key] = look(
                        lambda query, values: connection.execute(query, values).fetchall(), key
                    )
            except sqlite3.Error as error:
                raise StorageError(
                    f"The journal can't be read: {error}.",
                    "Check that the disk is in order and that the home can be written.",
                ) from error
        return found

    def close(self) -> None:
        """Give back the connection; the next look-up opens another."""
        if not self._database.opened.is_so:
            return
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._version = None

    def _open(self) -> sqlite3.Connection:
        self._connection, self._version = self._database.own_connection(), None
        return self._connection


def _row(ask: _Ask, key: _Key) -> ScriptRow | None:
    _, playbook_id, version, format_ = key
    rows = ask(_ROWS, _values(playbook_id, format_) | {"version": version})
    if not rows:
        return None
    sensitive, generation, metadata, *_ = rows[0]
    files = [FileEntry(row[3], row[4], row[5], bool(row[6])) for row in rows if row[3]]
    if len(files) > 1:
        files.sort(key=attrgetter("path"))
    return ScriptRow(
        Ref(playbook_id, version),
        bool(sensitive),
        generation,
        _entry_points(metadata),
        tuple(files),
        _facts(rows[0][7:], has_format=bool(files)),
    )


def _versions(ask: _Ask, key: _Key) -> tuple[VersionFacts, ...]:
    _, playbook_id, _, format_ = key
    rows = ask(_VERSIONS, _values(playbook_id, format_))
    return tuple(_facts(row[1:], has_format=bool(row[0])) for row in rows)


def _facts(row: Sequence[Any], *, has_format: bool) -> VersionFacts:
    (version, area, status, strategy, published, made_here, health, published_by, status_at,
     sync_state, in_conflict, metadata, origin_known) = row  # fmt: skip
    return VersionFacts(
        version,
        _AREAS[area],
        status,
        strategy,
        bool(published),
        bool(made_here),
        health,
        published_by,
        status_at,
        bool(in_conflict) or sync_state == SyncState.CONFLICT,
        json.loads(metadata).get("deprecated_by") if metadata else None,
        has_format,
        bool(origin_known),
    )


def _told(ask: _Ask, key: _Key) -> ToldStatus | None:
    rows = ask(_TOLD, {"id": key[1], "version": key[2]})
    return ToldStatus(*rows[0]) if rows else None


def _in_conflict(ask: _Ask, key: _Key) -> bool:
    return bool(ask(_CONFLICT, {"id": key[1], "version": key[2]})[0][0])


def _is_private(ask: _Ask, key: _Key) -> bool:
    here, shared = ask(_SHARED, {"id": key[1]})[0]
    return bool(here) and not shared


def _values(playbook_id: str, format_: str) -> dict[str, Any]:
    prefix = f"{format_}/"
    return {"id": playbook_id, "prefix": prefix, "length": len(prefix)}


def _entry_points(metadata: str) -> dict[str, str] | None:
    if '"entry_points"' not in metadata:  # most have none, and parsing costs more than the query
        return None
    named = json.loads(metadata).get("entry_points")
    return named if isinstance(named, dict) else None
