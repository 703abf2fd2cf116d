"""The cache's index, and the proofs of large files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from core.journal.database import Database
from core.journal.facts import ROOM_LOCK
from core.journal.tables import cache_entries as entries
from core.journal.tables import counters, downloads, proofs, quarantined, script_copies
from core.models import FileEntry, Ref

KEY = (entries.c.playbook_id, entries.c.version, entries.c.format)
CHUNK = 400  # keys in one IN (…)
LIBRARY = "library"  # the source of what came from the Escher Library

EntryKey = tuple[Ref, str]


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One cached format folder as the index knows it; ``size_bytes`` is all it takes on disk."""

    ref: Ref
    format: str
    source: str
    entry_point: str
    files: tuple[FileEntry, ...]
    size_bytes: int
    fetched_at: float
    last_used: float

    @property
    def key(self) -> EntryKey:
        return self.ref, self.format


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A folder in cache/quarantine; id, version and format are empty where it was nobody's."""

    name: str
    playbook_id: str
    version: str
    format: str
    size_bytes: int
    at: float
    reason: str


class Sizes(NamedTuple):
    """What counts towards the limit, in bytes, and how many entries there are."""

    entries: int
    quarantined: int
    reserved: int
    rows: int
    copies: int = 0

    @property
    def used(self) -> int:
        return self.entries + self.quarantined + self.reserved + self.copies


class ProofRow(NamedTuple):
    """The stat of a file at its last hashing."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    checksum: str
    verified_at: float


class ScriptCacheRows:
    """Rows of ``cache_entries`` and ``quarantined``; what changes them takes a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- entries ----------------------------------------------------------------------------
    def all(self) -> list[CacheRow]:
        """Every entry, the latest used (as last seen) first."""
        with self._database.read() as connection:
            query = select(entries).order_by(entries.c.last_used.desc(), *KEY)
            return [_cache_row(row) for row in connection.execute(query)]

    def of_library(self, connection: Connection | None = None) -> list[CacheRow]:
        """Entries that came whole from the Escher Library, by key."""
        query = select(entries).where(entries.c.source == LIBRARY).order_by(*KEY)
        opened = nullcontext(connection) if connection is not None else self._database.read()
        with opened as reading:
            return [_cache_row(row) for row in reading.execute(query)]

    def versions(self, playbook_id: str, format_: str) -> list[str]:
        """The cached versions of one format, in no order."""
        with self._database.read() as connection:
            query = select(entries.c.version).where(
                entries.c.playbook_id == playbook_id, entries.c.format == format_
            )
            return list(connection.scalars(query))

    def get(self, key: EntryKey, connection: Connection) -> CacheRow | None:
        row = connection.execute(select(entries).where(*_is(key))).one_or_none()
        return _cache_row(row) if row is not None else None

    def put(self, rows: Sequence[CacheRow], connection: Connection) -> None:
        if not rows:
            return
        values = [_values(row) for row in rows]
        keys = ("playbook_id", "version", "format")
        connection.execute(self._database.upsert(entries, keys, values), values)

    def delete(self, keys: Sequence[EntryKey], connection: Connection) -> None:
        for start in range(0, len(keys), CHUNK):
            part = [(*ref, format_) for ref, format_ in keys[start : start + CHUNK]]
            connection.execute(delete(entries).where(tuple_(*KEY).in_(part)))

    def seen(self, used: Mapping[EntryKey, float], connection: Connection) -> None:
        """Write down the last use of entries, as their folders have it."""
        if not used:
            return
        statement = update(entries).where(
            entries.c.playbook_id == bindparam("key_id"),
            entries.c.version == bindparam("key_version"),
            entries.c.format == bindparam("key_format"),
        )
        rows = [
            {"key_id": ref.playbook_id, "key_version": ref.version, "key_format": name, "at": at}
            for (ref, name), at in used.items()
        ]
        connection.execute(statement.values(last_used=bindparam("at")), rows)

    def expired(self, before: float, after: float, connection: Connection) -> list[CacheRow]:
        """Entries, in no order, fetched at or before ``before``, or after ``after`` (a clock that was wrong)."""
        outdated = or_(entries.c.fetched_at <= before, entries.c.fetched_at > after)
        return [_cache_row(row) for row in connection.execute(select(entries).where(outdated))]

    def by_last_use(self, connection: Connection) -> Iterator[CacheRow]:
        """Entries from the least recently used, as last seen; read as far as they are taken."""
        after: tuple[Any, ...] | None = None
        order = (entries.c.last_used, *KEY)
        while True:
            query = select(entries).order_by(*order).limit(CHUNK)
            if after is not None:
                query = query.where(tuple_(*order) > tuple_(*after))
            rows = connection.execute(query).all()
            yield from map(_cache_row, rows)
            if len(rows) < CHUNK:
                return
            last = rows[-1]
            after = (last.last_used, last.playbook_id, last.version, last.format)

    def earliest_fetch(self) -> float | None:
        with self._database.read() as connection:
            at: float | None = connection.scalar(select(func.min(entries.c.fetched_at)))
        return at

    # -- quarantine -------------------------------------------------------------------------
    def quarantined(self, connection: Connection | None = None) -> list[QuarantineRow]:
        """What is in quarantine, the oldest first."""
        if connection is None:
            with self._database.read() as opened:
                return self.quarantined(opened)
        query = select(quarantined).order_by(quarantined.c.at, quarantined.c.name)
        return [QuarantineRow(*row) for row in connection.execute(query)]

    def put_quarantined(self, row: QuarantineRow, connection: Connection) -> None:
        values = {column: getattr(row, column) for column in QuarantineRow.__slots__}
        connection.execute(self._database.upsert(quarantined, ("name",), [values]), [values])

    def delete_quarantined(self, names: Sequence[str], connection: Connection) -> None:
        for start in range(0, len(names), CHUNK):
            part = names[start : start + CHUNK]
            connection.execute(delete(quarantined).where(quarantined.c.name.in_(part)))

    # -- room -------------------------------------------------------------------------------
    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A write transaction for whoever then takes the lock on the files.

        The room's lock comes first: with rows locked in another order, PostgreSQL ends one of two
        by a deadlock, and where the lock on the files is part of it, sees none.
        """
        with self._database.write() as connection:
            self.lock_room(connection)
            yield connection

    def lock_room(self, connection: Connection) -> None:
        """Let no other transaction reckon with the sizes until this one ends."""
        if self._database.is_sqlite:
            return  # a write transaction is alone there
        row = {"name": ROOM_LOCK, "value": 0}
        connection.execute(self._database.upsert(counters, ("name",), [row]), [row])

    def sizes(self, connection: Connection | None = None) -> Sizes:
        if connection is None:
            with self._database.read() as opened:
                return self.sizes(opened)
        held, count = connection.execute(
            select(func.coalesce(func.sum(entries.c.size_bytes), 0), func.count())
            .select_from(entries)
        ).one()  # fmt: skip
        aside = connection.scalar(select(func.coalesce(func.sum(quarantined.c.size_bytes), 0)))
        copies = connection.scalar(select(func.coalesce(func.sum(script_copies.c.size_bytes), 0)))
        reserved = connection.scalar(select(func.coalesce(func.sum(downloads.c.reserved_bytes), 0)))
        return Sizes(int(held), int(aside or 0), int(reserved or 0), int(count), int(copies or 0))

    def staged_names(self) -> set[str]:
        """Folders in cache/staging that a download has named as its own."""
        with self._database.read() as connection:
            query = select(downloads.c.staged).where(downloads.c.staged.is_not(None))
            return {str(name) for name in connection.scalars(query)}


class ScriptCopyRows:
    """Rows of ``script_copies``: what read-only copies take."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, size_bytes: int, connection: Connection) -> None:
        row = {"name": name, "size_bytes": size_bytes, "made_at": int(time.time())}
        connection.execute(self._database.upsert(script_copies, ("name",), [row]), [row])

    def all(self, connection: Connection) -> dict[str, int]:
        """``{name: size in bytes}``."""
        query = select(script_copies.c.name, script_copies.c.size_bytes)
        return {row.name: row.size_bytes for row in connection.execute(query)}

    def forget(self, names: Sequence[str], connection: Connection) -> None:
        for start in range(0, len(names), CHUNK):
            part = names[start : start + CHUNK]
            connection.execute(delete(script_copies).where(script_copies.c.name.in_(part)))

    def forget_lost(self, there: set[str], before: int, connection: Connection) -> None:
        """Forget those that are not ``there`` and were not made since ``before``."""
        gone = [name for name in self.all(connection) if name not in there]
        for start in range(0, len(gone), CHUNK):
            part = script_copies.c.name.in_(gone[start : start + CHUNK])
            connection.execute(delete(script_copies).where(part, script_copies.c.made_at < before))


class ProofRows:
    """Rows of ``proofs``; losing one costs a hashing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, path: str) -> ProofRow | None:
        with self._database.read() as connection:
            row = connection.execute(select(proofs).where(proofs.c.path == path)).one_or_none()
        return ProofRow(*row) if row is not None else None

    def put(self, row: ProofRow) -> None:
        values = row._asdict()
        with self._database.write() as connection:
            connection.execute(self._database.upsert(proofs, ("path",), [values]), [values])

    def forget(self, before: float, after: float) -> None:
        """Remove those made at or before ``before``, or after ``after`` (Unix seconds)."""
        outdated = or_(proofs.c.verified_at <= before, proofs.c.verified_at > after)
        with self._database.write() as connection:
            connection.execute(delete(proofs).where(outdated))


def _is(key: EntryKey) -> tuple[Any, ...]:
    ref, format_ = key
    return tuple(column == value for column, value in zip(KEY, (*ref, format_), strict=True))


def _values(row: CacheRow) -> dict[str, Any]:
    return {
        "playbook_id": row.ref.playbook_id,
        "version": row.ref.version,
        "format": row.format,
        "source": row.source,
        "entry_point": row.entry_point,
        "files": json.dumps([[file.path, file.size_bytes, file.checksum] for file in row.files]),
        "size_bytes": row.size_bytes,
        "fetched_at": row.fetched_at,
        "last_used": row.last_used,
    }


def _cache_row(row: Row[Any]) -> CacheRow:
    return CacheRow(
        Ref(row.playbook_id, row.version),
        row.format,
        row.source,
        row.entry_point,
        tuple(FileEntry(*item) for item in json.loads(row.files)),
        row.size_bytes,
        row.fetched_at,
        row.last_used,
    )
