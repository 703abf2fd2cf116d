"""Sums over all processes of a home."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, select, text

from core.journal.database import BUSY_TIMEOUT_SECONDS, Database
from core.journal.tables import counters
from core.journal.tables import vectors as table

_ADD = text(
    "INSERT INTO counters (name, value) VALUES (:name, :amount) "
    "ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value"
)


class Counters:
    """Sums over all processes: ``hits``, ``misses``, ``evicted_bytes``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, int]:
        with self._database.read() as connection:
            return {row.name: int(row.value) for row in connection.execute(select(counters))}

    def add(self, amounts: Mapping[str, int], connection: Connection) -> None:
        for name, amount in sorted(amounts.items()):  # in one order: rows are locked as they come
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


# Embeddings by digest of text and model, so nothing is embedded twice.


class Vectors:
    """A cache: any row may be missing; keys are made by ``core.rag``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, keys: Sequence[str]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        with self._database.read() as connection:
            for start in range(0, len(keys), 400):
                query = select(table).where(table.c.key.in_(keys[start : start + 400]))
                for row in connection.execute(query):
                    found[row.key] = np.frombuffer(row.vector, dtype="<f4").tolist()
        return found

    def put_many(self, vectors: Mapping[str, Sequence[float]]) -> None:
        if not vectors:
            return
        rows = [
            {"key": key, "vector": np.asarray(vector, dtype="<f4").tobytes()}
            for key, vector in vectors.items()
        ]
        with self._database.write() as connection:
            connection.execute(self._database.insert_ignore(table), rows)
