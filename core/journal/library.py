"""The rows of ``library_versions``, and which of their scripts are cached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, tuple_, update

from core.journal.database import Database
from core.journal.tables import cache_entries, stale_points
from core.journal.tables import library_versions as table
from core.models import FileEntry, Ref

KEY = (table.c.playbook_id, table.c.version)
CACHE_KEY = (cache_entries.c.playbook_id, cache_entries.c.version, cache_entries.c.format)
CHUNK = 400  # refs in one IN (…)
LIBRARY = "library"  # as ``cache_entries.source`` says it


class LibraryRow(NamedTuple):
    """One row; see `core.journal.tables`."""

    ref: Ref
    digest: str
    indexed_digest: str | None
    used_at: float


class CachedFormat(NamedTuple):
    """A format of a library version that stands in the script cache."""

    ref: Ref
    format: str
    files: tuple[FileEntry, ...]


class LibraryRows:
    """Look up and change; every method is one transaction unless it takes a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading ----------------------------------------------------------------------------
    def all(self, connection: Connection | None = None) -> list[LibraryRow]:
        """Every row, by id."""
        if connection is None:
            with self._database.read() as own:
                return self.all(own)
        return [_row(row) for row in connection.execute(select(table).order_by(*KEY))]

    def get_many(
        self, refs: Sequence[Ref], connection: Connection | None = None
    ) -> dict[Ref, LibraryRow]:
        if connection is None:
            with self._database.read() as own:
                return self.get_many(refs, own)
        found: dict[Ref, LibraryRow] = {}
        for part in _chunks(refs):
            query = select(table).where(tuple_(*KEY).in_(part))
            found.update((row.ref, row) for row in map(_row, connection.execute(query)))
        return found

    def cached(self, connection: Connection | None = None) -> list[CachedFormat]:
        """The cached formats of library versions, by key, whether there is a row or not."""
        if connection is None:
            with self._database.read() as own:
                return self.cached(own)
        query = select(*CACHE_KEY, cache_entries.c.files)
        query = query.where(cache_entries.c.source == LIBRARY).order_by(*CACHE_KEY)
        return [
            CachedFormat(
                Ref(row.playbook_id, row.version),
                row.format,
                tuple(FileEntry(*file) for file in json.loads(row.files)),
            )
            for row in connection.execute(query)
        ]

    # -- writing ----------------------------------------------------------------------------
    def put(self, ref: Ref, digest: str, used_at: float, connection: Connection) -> None:
        """Make a row, or bring it up to date; what is known of its point stays."""
        row = {"playbook_id": ref[0], "version": ref[1], "digest": digest, "used_at": used_at}
        keys = ("playbook_id", "version")
        connection.execute(self._database.upsert(table, keys, [row]), [row])

    def used(self, moments: Mapping[Ref, float]) -> None:
        """Note the last use of versions, Unix seconds."""
        if not moments:
            return
        with self._database.write() as connection:
            for ref, at in moments.items():
                mine = tuple_(*KEY).in_([tuple(ref)])
                connection.execute(update(table).where(mine).values(used_at=at))

    def set_indexed(self, digests: Mapping[Ref, str]) -> set[Ref]:
        """Note in which state points were written; those whose row is there still."""
        there: set[Ref] = set()
        with self._database.write() as connection:
            for ref, digest in digests.items():
                mine = tuple_(*KEY).in_([tuple(ref)])
                statement = update(table).where(mine).values(indexed_digest=digest)
                if connection.execute(statement).rowcount:
                    there.add(ref)
        return there

    def forget_index(self, refs: Sequence[Ref] | None = None) -> None:
        """Note that points are gone: of ``refs``, or all of them when the collection is new."""
        statement = update(table).values(indexed_digest=None)
        with self._database.write() as connection:
            if refs is None:
                connection.execute(statement)
                return
            for part in _chunks(refs):
                connection.execute(statement.where(tuple_(*KEY).in_(part)))

    def forget(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Their metadata is gone: the row goes, and word is left that the point is to go too."""
        for part in _chunks(refs):
            connection.execute(delete(table).where(tuple_(*KEY).in_(part)))
            stale = [{"playbook_id": ref[0], "version": ref[1]} for ref in part]
            connection.execute(self._database.insert_ignore(stale_points), stale)


def _row(row: Row[Any]) -> LibraryRow:
    return LibraryRow(
        Ref(row.playbook_id, row.version), row.digest, row.indexed_digest, row.used_at
    )


def _chunks(refs: Sequence[Ref]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(refs), CHUNK):
        yield [(ref.playbook_id, ref.version) for ref in refs[start : start + CHUNK]]
