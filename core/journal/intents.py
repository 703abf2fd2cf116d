"""Changes to the folders that have begun: written before the first rename, gone with the last row."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, tuple_

from core.journal.database import Database
from core.journal.records import Intent, dump_record, load_record
from core.journal.schema import intents as table
from core.models import Area, Ref

KEY = (table.c.playbook_id, table.c.version)


class Intents:
    """At most one open intent a version; the store's lock keeps writers apart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, intents: Sequence[Intent]) -> None:
        """Make the intents durable before anything is renamed."""
        rows = [
            {
                "playbook_id": intent.ref.playbook_id,
                "version": intent.ref.version,
                "kind": intent.kind,
                "staged": intent.staged,
                "from_area": intent.from_area,
                "to_area": intent.to_area,
                "record": dump_record(intent.record, intent.files) if intent.record else None,
                "created_at": int(time.time()),
            }
            for intent in intents
        ]
        with self._database.write() as connection:
            connection.execute(insert(table), rows)

    def open(self) -> list[Intent]:
        """What was begun and not finished."""
        with self._database.read() as connection:
            rows = connection.execute(select(table)).all()
        intents = []
        for row in rows:
            record, files = load_record(row.record) if row.record else (None, ())
            intents.append(
                Intent(
                    ref=Ref(row.playbook_id, row.version),
                    kind=row.kind,
                    staged=row.staged,
                    from_area=Area(row.from_area) if row.from_area else None,
                    to_area=Area(row.to_area) if row.to_area else None,
                    record=record,
                    files=files,
                )
            )
        return intents

    def finish(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Close intents in the transaction that writes what they led to."""
        keys = [tuple(ref) for ref in refs]
        connection.execute(delete(table).where(tuple_(*KEY).in_(keys)))
