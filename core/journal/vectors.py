"""Embeddings by digest of text and model, so nothing is embedded twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import select

from core.journal.database import Database
from core.journal.schema import vectors as table


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
