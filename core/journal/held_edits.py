"""Edits of sensitive content that are held, sealed, beside the content that goes on being answered."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select

from core.journal.database import Database
from core.journal.schema import held_edits as table
from core.journal.schema import versions
from core.models import Ref


@dataclass(frozen=True, slots=True)
class HeldEdit:
    """What somebody laid over sealed content; ``folder`` has it, sealed under ``generation``."""

    ref: Ref
    paths: tuple[str, ...]
    flag: bool  # whether `sensitive` was edited
    folder: str
    generation: int
    held_at: int = 0

    def as_text(self) -> str:
        """What was found and what to do, without any of the content."""
        found = []
        if self.flag:
            found.append("its `sensitive` was edited")
        if self.paths:
            found.append(
                f"clear text was laid over its sealed content ({', '.join(self.paths[:5])})"
            )
        return (
            f"{self.ref} was tampered with: {' and '.join(found)}. That is held, sealed; the content"
            f" from before goes on being answered. `escher-playbooks update {self.ref}` takes the"
            f" edit, `update {self.ref} --discard` drops it."
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "ref": str(self.ref),
            "paths": list(self.paths),
            "flag": self.flag,
            "folder": self.folder,
            "held_at": self.held_at,
        }


class HeldEdits:
    """At most one a version: a later edit takes the place of an earlier one, whose files stay."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, edit: HeldEdit) -> None:
        row = {
            "playbook_id": edit.ref.playbook_id,
            "version": edit.ref.version,
            "paths": json.dumps(list(edit.paths)),
            "flag": edit.flag,
            "folder": edit.folder,
            "generation": edit.generation,
            "held_at": int(time.time()),
        }
        with self._database.write() as connection:
            connection.execute(
                self._database.upsert(table, ("playbook_id", "version"), [row]), [row]
            )

    def entries(self) -> list[HeldEdit]:
        """Those of versions that are there, by name."""
        is_there = (versions.c.playbook_id == table.c.playbook_id) & (
            versions.c.version == table.c.version
        )
        query = (
            select(table).join(versions, is_there).order_by(table.c.playbook_id, table.c.version)
        )
        with self._database.read() as connection:
            return [
                HeldEdit(
                    Ref(row.playbook_id, row.version),
                    tuple(json.loads(row.paths)),
                    row.flag,
                    row.folder,
                    row.generation,
                    row.held_at,
                )
                for row in connection.execute(query)
            ]

    def get(self, ref: Ref) -> HeldEdit | None:
        return next((edit for edit in self.entries() if edit.ref == ref), None)

    def remove(self, ref: Ref) -> None:
        with self._database.write() as connection:
            connection.execute(
                delete(table).where(
                    table.c.playbook_id == ref.playbook_id, table.c.version == ref.version
                )
            )
