"""Single values of a home: facts by key, sums over all processes, vectors by digest."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, true

from core.journal.database import BUSY_TIMEOUT_SECONDS, Database
from core.journal.rows import chunks
from core.journal.tables import counters, home
from core.journal.tables import vectors as vectors_table

FLOAT_BYTES = 4  # without numpy, whose import is a tenth of a short command
_ADD = text(
    "INSERT INTO counters (name, value) VALUES (:name, :amount) "
    "ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value"
)


class HomeFacts:
    """The ``home`` table: a few facts about the whole home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        found: str | None = self._database.scalar(select(home.c.value).where(home.c.key == key))
        return found

    def set(self, key: str, value: str) -> None:
        self._database.put(home, [{"key": key, "value": value}])

    def remove(self, key: str, value: str | None = None) -> None:
        """Remove a fact; where ``value`` is given, only while it says that."""
        is_this = true() if value is None else home.c.value == value
        self._database.run(delete(home).where(home.c.key == key, is_this))

    def set_once(self, key: str, value: str) -> str:
        """Store ``value`` unless the key has one; return what stands there."""
        with self._database.write() as connection:
            found = connection.scalar(select(home.c.value).where(home.c.key == key))
            if found is None:
                connection.execute(insert(home).values(key=key, value=value))
            return value if found is None else found


class Counters:
    """Sums over all processes: ``hits``, ``misses``, ``evicted_bytes``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, int]:
        rows = self._database.rows(select(counters))
        return {row.name: int(row.value) for row in rows}

    def add(self, amounts: Mapping[str, int], connection: Connection) -> None:
        for name, amount in amounts.items():
            connection.execute(_ADD, {"name": name, "amount": amount})

    def add_all(self, amounts: Mapping[str, int]) -> None:
        """Add in a transaction of its own, after whoever is writing."""
        with self._database.write() as connection:
            self.add(amounts, connection)

    def add_now(self, amounts: Mapping[str, int]) -> bool:
        """Add without waiting for a writer; False when there is one, and nothing was added."""
        if not self._database.is_sqlite:
            with self._database.write_unless_busy() as connection:
                if connection is not None:
                    self.add(amounts, connection)
                return connection is not None
        if not self._database.writing.acquire(blocking=False):
            return False
        try:
            return self._add_unless_busy(amounts)
        finally:
            self._database.writing.release()

    def _add_unless_busy(self, amounts: Mapping[str, int]) -> bool:
        with self._database.read() as connection:
            plain: Any = connection.connection.driver_connection
            connection.rollback()  # the transaction that SQLAlchemy has begun
            plain.execute("PRAGMA busy_timeout=0")
            try:
                plain.execute("BEGIN IMMEDIATE")
                rows = [{"name": name, "amount": amount} for name, amount in amounts.items()]
                plain.executemany(_ADD.text, rows)
                plain.execute("COMMIT")
            except sqlite3.Error:  # a writer, or a disk that is full or can't be written
                return False
            finally:
                if plain.in_transaction:
                    plain.rollback()
                plain.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
        return True


class Vectors:
    """Embeddings by digest of text and model, so nothing is embedded twice.

    A cache: any row may be missing; keys are made by ``core.rag``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, keys: Sequence[str]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        with self._database.read() as connection:
            for part in chunks(keys):
                query = select(vectors_table).where(vectors_table.c.key.in_(part))
                for row in connection.execute(query):
                    count = len(row.vector) // FLOAT_BYTES
                    found[row.key] = list(struct.unpack(f"<{count}f", row.vector))
        return found

    def put_many(self, vectors: Mapping[str, Sequence[float]]) -> None:
        rows = [
            {"key": key, "vector": struct.pack(f"<{len(vector)}f", *vector)}
            for key, vector in vectors.items()
        ]
        self._database.put_new(vectors_table, rows)
