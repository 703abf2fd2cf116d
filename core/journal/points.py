"""What the collection's points were last written of, and the Escher Library's versions used here.

::

    versions           ``indexed_digest``: the state in which a version's point was last written;
    library_versions   None: it has no point (any more)
    stale_points       versions that are gone and whose points may still be in the collection
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from sqlalchemy import Connection, Table, delete, select, tuple_, update

from core.journal.database import Database
from core.journal.tables import library_versions, stale_points
from core.models import Ref

CHUNK = 400  # refs in one IN (…)
_KEYS = ("playbook_id", "version")


class PointStates:
    """Notes in which state the points of one table's versions were written, or that they are gone."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table
        self._key = tuple_(*(table.c[name] for name in _KEYS))

    def note(self, digests: Mapping[Ref, str]) -> set[Ref]:
        """Keep the state of each point; returns the versions that have a row."""
        there: set[Ref] = set()
        if not digests:
            return there
        with self._database.write() as connection:
            for ref, digest in digests.items():
                statement = update(self._table).where(self._key.in_([tuple(ref)]))
                if connection.execute(statement.values(indexed_digest=digest)).rowcount:
                    there.add(ref)
        return there

    def forget(self, refs: Sequence[Ref] | None = None) -> None:
        """Note that points are gone: of ``refs``, or all of them when the collection is new."""
        statement = update(self._table).values(indexed_digest=None)
        with self._database.write() as connection:
            if refs is None:
                connection.execute(statement)
                return
            for part in _chunks(refs):
                connection.execute(statement.where(self._key.in_(part)))


class StalePoints:
    """Versions that are gone, kept until their points are taken out of the collection.

    A process that can't reach the collection (it is open in the worker) leaves word for the one
    that can.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = tuple_(*(stale_points.c[name] for name in _KEYS))

    def refs(self) -> list[Ref]:
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(select(stale_points))]

    def add(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Leave word in the transaction that forgets the versions."""
        if rows := [ref._asdict() for ref in refs]:
            connection.execute(self._database.insert_ignore(stale_points), rows)

    def forget(self, refs: Sequence[Ref]) -> None:
        """Their points are gone, or belong to versions that are there again."""
        with self._database.write() as connection:
            for part in _chunks(refs):
                connection.execute(delete(stale_points).where(self._key.in_(part)))


class LibraryRow(NamedTuple):
    """A library version whose metadata is kept: ``digest`` of its bytes, ``used_at`` Unix seconds."""

    ref: Ref
    digest: str
    indexed_digest: str | None
    used_at: float


class LibraryRows(PointStates):
    """The Escher Library's versions that were used here; no other module reads their table."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, library_versions)
        self._stale = StalePoints(database)

    def get(
        self, refs: Sequence[Ref] | None = None, connection: Connection | None = None
    ) -> dict[Ref, LibraryRow]:
        """Those of ``refs`` (None: all) that have a row, by id."""
        query = select(library_versions).order_by(*(library_versions.c[name] for name in _KEYS))
        queries = (
            [query] if refs is None else [query.where(self._key.in_(p)) for p in _chunks(refs)]
        )
        opened = nullcontext(connection) if connection is not None else self._database.read()
        with opened as reading:
            rows = [row for query in queries for row in reading.execute(query)]
        return {
            (ref := Ref(row.playbook_id, row.version)): LibraryRow(
                ref, row.digest, row.indexed_digest, row.used_at
            )
            for row in rows
        }

    def put(self, ref: Ref, digest: str, used_at: float, connection: Connection) -> None:
        """Add a row, or bring it up to date; what is known of its point stays."""
        row = {**ref._asdict(), "digest": digest, "used_at": used_at}
        connection.execute(self._database.upsert(library_versions, _KEYS, [row]), [row])

    def note_use(self, moments: Mapping[Ref, float]) -> None:
        """Keep the last use of versions, Unix seconds."""
        if not moments:
            return
        with self._database.write() as connection:
            for ref, at in moments.items():
                mine = self._key.in_([tuple(ref)])
                connection.execute(update(library_versions).where(mine).values(used_at=at))

    def delete(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Remove rows whose metadata is gone; word is left that their points are to go too."""
        for part in _chunks(refs):
            connection.execute(delete(library_versions).where(self._key.in_(part)))
        self._stale.add(refs, connection)


def _chunks(refs: Sequence[Ref]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(refs), CHUNK):
        yield [(ref.playbook_id, ref.version) for ref in refs[start : start + CHUNK]]
