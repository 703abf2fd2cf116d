"""Versions that are gone and whose points may still be in the collection.

Written in the transaction that forgets a version, so that a process which can't reach the
collection (it is open in the worker) leaves word for the one that can.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, tuple_

from core.journal.database import Database
from core.journal.schema import stale_points as table
from core.models import Ref

KEY = (table.c.playbook_id, table.c.version)


class StalePoints:
    """Rows are added by `Versions.delete`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def refs(self) -> list[Ref]:
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(select(*KEY))]

    def forget(self, refs: Sequence[Ref]) -> None:
        """Their points are gone, or belong to versions that are there again."""
        with self._database.write() as connection:
            keys = [tuple(ref) for ref in refs]
            connection.execute(delete(table).where(tuple_(*KEY).in_(keys)))
