"""What the collection's points were last written from, and the Escher Library's versions used here.

::

    versions           ``indexed_digest``: the state in which a version's point was last written;
    library_versions   None: it has no point (any more)
    stale_points       versions that are gone and whose points may still be in the collection
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Table, delete, select, update

from core.journal.database import Database
from core.journal.rows import Rows, among, chunks, key, of_ref
from core.journal.tables import library_versions, stale_points
from core.models import Ref


class PointStates:
    """Notes in which state the points of one table's versions were written, or that they are gone."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table

    def note(self, digests: Mapping[Ref, str]) -> set[Ref]:
        """Keep the state of each point; returns the versions that have a row."""
        there: set[Ref] = set()
        if not digests:
            return there
        with self._database.write() as connection:
            for ref, digest in digests.items():
                statement = update(self._table).where(of_ref(self._table, ref))
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
            for part in chunks(refs):
                connection.execute(statement.where(among(self._table, part)))


class StalePoints:
    """Versions that are gone, kept until their points are taken out of the collection.

    A process that can't reach the collection (it is open in the worker) leaves word for the one
    that can.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def refs(self) -> list[Ref]:
        return [Ref(*row) for row in self._database.rows(select(*key(stale_points)))]

    def add(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Leave word in the transaction that forgets the versions."""
        self._database.put_new(stale_points, [ref._asdict() for ref in refs], connection)

    def forget(self, refs: Sequence[Ref]) -> None:
        """Their points are gone, or belong to versions that are there again."""
        with self._database.write() as connection:
            for part in chunks(refs):
                connection.execute(delete(stale_points).where(among(stale_points, part)))


class LibraryRow(NamedTuple):
    """A library version whose metadata is kept: ``digest`` of its bytes, ``used_at`` Unix seconds."""

    ref: Ref
    digest: str
    indexed_digest: str | None
    used_at: float


ROWS = Rows(library_versions, LibraryRow, Ref)


class LibraryRows(PointStates):
    """The Escher Library's versions that were used here; no other module reads their table."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, library_versions)
        self._stale = StalePoints(database)

    def get(
        self, refs: Sequence[Ref] | None = None, connection: Connection | None = None
    ) -> dict[Ref, LibraryRow]:
        """Those of ``refs`` (None: all) that have a row, by id."""
        query = ROWS.select().order_by(*key(library_versions))
        parts = [None] if refs is None else [among(library_versions, p) for p in chunks(refs)]
        with self._database.read(connection) as opened:
            queries = [query if part is None else query.where(part) for part in parts]
            found = [row for one in queries for row in ROWS.records(opened.execute(one))]
        return {row.ref: row for row in found}

    def put(self, ref: Ref, digest: str, used_at: float, connection: Connection) -> None:
        """Add a row, or bring it up to date; what is known of its point stays."""
        row = {**ref._asdict(), "digest": digest, "used_at": used_at}
        self._database.put(library_versions, [row], connection)

    def note_use(self, moments: Mapping[Ref, float]) -> None:
        """Keep the last use of versions, Unix seconds."""
        if not moments:
            return
        with self._database.write() as connection:
            for ref, at in moments.items():
                mine = of_ref(library_versions, ref)
                connection.execute(update(library_versions).where(mine).values(used_at=at))

    def delete(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Remove rows whose metadata is gone; word is left that their points are to go too."""
        for part in chunks(refs):
            connection.execute(delete(library_versions).where(among(library_versions, part)))
        self._stale.add(refs, connection)
