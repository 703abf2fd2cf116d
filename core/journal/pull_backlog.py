"""Changes of the server that could not be taken in yet: the cursor goes on, they stay here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, tuple_, update

from core.journal.database import Database
from core.journal.due import due
from core.journal.schema_conflicts import backlog as table

KEY = (table.c.playbook_id, table.c.version)
CHUNK = 400  # names in one IN (…)
Name = tuple[str, str]  # (playbook_id, version) as the server wrote them, cut to the columns


@dataclass(frozen=True, slots=True)
class BacklogItem:
    """One change and why it was not taken; ``next_attempt_at`` in Unix seconds."""

    name: Name
    change: dict[str, Any]
    reason: str
    attempts: int
    next_attempt_at: int


class PullBacklog:
    """Rows of ``pull_backlog``: the last change of each version that failed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, items: Sequence[BacklogItem]) -> None:
        """Keep these changes; each replaces an older one of its version."""
        if not items:
            return
        rows = [
            {
                "playbook_id": item.name[0],
                "version": item.name[1],
                "change": json.dumps(item.change),
                "reason": item.reason,
                "attempts": item.attempts,
                "next_attempt_at": item.next_attempt_at,
            }
            for item in items
        ]
        with self._database.write() as connection:
            for row in rows:  # one by one: a page may name a version twice
                connection.execute(
                    self._database.upsert(table, ("playbook_id", "version"), [row]), [row]
                )

    def get_many(self, names: Sequence[Name]) -> dict[Name, BacklogItem]:
        found: dict[Name, BacklogItem] = {}
        with self._database.read() as connection:
            for start in range(0, len(names), CHUNK):
                part = names[start : start + CHUNK]
                query = select(table).where(tuple_(*KEY).in_(part))
                found.update((item.name, item) for item in map(_item, connection.execute(query)))
        return found

    def due(self, now: float) -> list[BacklogItem]:
        """What is to be tried again at ``now`` (Unix seconds), by name."""
        with self._database.read() as connection:
            query = select(table).where(due(table.c.next_attempt_at, int(now))).order_by(*KEY)
            return [_item(row) for row in connection.execute(query)]

    def all(self) -> list[BacklogItem]:
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(select(table).order_by(*KEY))]

    def retry(self) -> None:
        """All of it is due at once, as if it had not failed before."""
        with self._database.write() as connection:
            connection.execute(update(table).values(attempts=0, next_attempt_at=0))

    def forget(self, names: Sequence[Name]) -> None:
        """They were taken in, or the server has gone on."""
        with self._database.write() as connection:
            for start in range(0, len(names), CHUNK):
                part = names[start : start + CHUNK]
                connection.execute(delete(table).where(tuple_(*KEY).in_(part)))


def _item(row: Any) -> BacklogItem:
    return BacklogItem(
        (row.playbook_id, row.version),
        json.loads(row.change),
        row.reason,
        row.attempts,
        row.next_attempt_at,
    )
