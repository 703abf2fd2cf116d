"""Disagreements with the server: open ones wait for the user, kept ones point at a copy."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, tuple_, update

from core.journal.database import Database
from core.journal.tables import conflicts as table
from core.journal.tables import held_edits as held_edits_table
from core.journal.tables import versions
from core.models import Ref

KEEP_SETTLED_SECONDS = 90 * 86400
CHUNK = 400  # refs in one IN (…)


class ConflictState(StrEnum):
    OPEN = "open"  # the user is to choose
    KEPT = "kept"  # decided by a rule; a copy of what gave way is in ``folder``
    SETTLED = "settled"  # nothing more to do


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A folder set aside as it stood on disk; ``generation`` is that of its encrypted content."""

    folder: str
    generation: int


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """One row; the server's side as far as it is known."""

    conflict_id: str
    ref: Ref
    kind: str
    state: ConflictState
    reason: str
    folder: str | None = None
    generation: int | None = None
    server_revision: int | None = None
    server_digest: str | None = None
    created_at: int = 0
    settled_at: int | None = None
    resolution: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "conflict_id": self.conflict_id,
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "kind": self.kind,
            "state": self.state.value,
            "reason": self.reason,
            "folder": self.folder,
            "server": {"revision": self.server_revision, "content_digest": self.server_digest},
            "created_at": self.created_at,
            "settled_at": self.settled_at,
            "resolution": self.resolution,
        }


class Conflicts:
    """Rows of ``conflicts``; a version has one open row at most."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(
        self,
        ref: Ref,
        kind: str,
        reason: str,
        *,
        server_revision: int | None = None,
        server_digest: str | None = None,
    ) -> str:
        """Have one open row that says this; its id. What is not given now and was known stays."""
        known = {"server_revision": server_revision, "server_digest": server_digest}
        values: dict[str, Any] = {"kind": kind, "reason": reason}
        values |= {name: value for name, value in known.items() if value is not None}
        with self._database.write() as connection:
            found = connection.scalar(select(table.c.conflict_id).where(_open_of([ref])))
            if found is not None:
                connection.execute(
                    update(table).where(table.c.conflict_id == found).values(**values)
                )
                return str(found)
            return _insert(connection, ref, ConflictState.OPEN, values)

    def note(
        self,
        ref: Ref,
        kind: str,
        reason: str,
        resolution: str,
        copy: KeptCopy | None = None,
    ) -> str:
        """Write down what a rule decided, with the copy that it kept; the row's id.

        The same copy is written down once: a step that is done again finds its row.
        """
        state = ConflictState.SETTLED if copy is None else ConflictState.KEPT
        with self._database.write() as connection:
            if copy is not None:
                known = connection.scalar(
                    select(table.c.conflict_id).where(table.c.folder == copy.folder)
                )
                if known is not None:
                    return str(known)
            values = {
                "kind": kind,
                "reason": reason,
                "folder": copy.folder if copy else None,
                "generation": copy.generation if copy else None,
                "resolution": resolution,
                "settled_at": int(time.time()),
            }
            return _insert(connection, ref, state, values)

    def settle(self, refs: Sequence[Ref], resolution: str, *, copy: KeptCopy | None = None) -> int:
        """Close the open rows of ``refs``; how many there were. ``copy``: what was set aside."""
        values: dict[str, Any] = {
            "state": ConflictState.SETTLED.value if copy is None else ConflictState.KEPT.value,
            "resolution": resolution,
            "settled_at": int(time.time()),
        }
        if copy is not None:
            values |= {"folder": copy.folder, "generation": copy.generation}
        closed = 0
        with self._database.write() as connection:
            for start in range(0, len(refs), CHUNK):
                where = _open_of(refs[start : start + CHUNK])
                closed += connection.execute(update(table).where(where).values(**values)).rowcount
        return closed

    def open_of(self, ref: Ref) -> ConflictRecord | None:
        """The open row of a version."""
        with self._database.read() as connection:
            row = connection.execute(select(table).where(_open_of([ref]))).one_or_none()
        return None if row is None else _record(row)

    def open_of_id(self, playbook_id: str) -> list[ConflictRecord]:
        """The open rows of all versions of an id, the oldest first."""
        mine = and_(table.c.playbook_id == playbook_id, table.c.state == ConflictState.OPEN.value)
        with self._database.read() as connection:
            rows = connection.execute(select(table).where(mine).order_by(table.c.created_at))
            return [_record(row) for row in rows]

    def open_count(self) -> int:
        """How many decisions wait."""
        query = select(func.count()).where(table.c.state == ConflictState.OPEN.value)
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def open_refs(self) -> set[Ref]:
        """The versions that have an open row."""
        query = select(table.c.playbook_id, table.c.version)
        query = query.where(table.c.state == ConflictState.OPEN.value)
        with self._database.read() as connection:
            return {Ref(*row) for row in connection.execute(query)}

    def entries(self, *, everything: bool = False) -> list[ConflictRecord]:
        """Open decisions and kept copies, the oldest first; ``everything``: settled ones too."""
        query = select(table)
        if not everything:
            query = query.where(table.c.state != ConflictState.SETTLED.value)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.created_at, table.c.conflict_id))
            return [_record(row) for row in rows]

    def open_ones(self) -> list[ConflictRecord]:
        """What waits for a decision, the oldest first."""
        return [found for found in self.entries() if found.state is ConflictState.OPEN]

    def prune(self, now: float) -> None:
        """Forget what was settled long ago; open rows and those with a copy stay."""
        old = table.c.settled_at < int(now) - KEEP_SETTLED_SECONDS
        with self._database.write() as connection:
            connection.execute(
                delete(table).where(and_(table.c.state == ConflictState.SETTLED.value, old))
            )


def _open_of(refs: Sequence[Ref]) -> Any:
    keys = [tuple(ref) for ref in refs]
    mine = tuple_(table.c.playbook_id, table.c.version).in_(keys)
    return and_(mine, table.c.state == ConflictState.OPEN.value)


def _insert(connection: Connection, ref: Ref, state: ConflictState, values: dict[str, Any]) -> str:
    conflict_id = uuid.uuid4().hex
    row = {
        "conflict_id": conflict_id,
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "state": state.value,
        "created_at": int(time.time()),
        **values,
    }
    connection.execute(insert(table).values(**row))
    return conflict_id


def _record(row: Row[Any]) -> ConflictRecord:
    return ConflictRecord(
        conflict_id=row.conflict_id,
        ref=Ref(row.playbook_id, row.version),
        kind=row.kind,
        state=ConflictState(row.state),
        reason=row.reason,
        folder=row.folder,
        generation=row.generation,
        server_revision=row.server_revision,
        server_digest=row.server_digest,
        created_at=row.created_at,
        settled_at=row.settled_at,
        resolution=row.resolution,
    )


# Edits of sensitive content that are held, sealed, beside the content that goes on being answered.


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
                self._database.upsert(held_edits_table, ("playbook_id", "version"), [row]), [row]
            )

    def entries(self) -> list[HeldEdit]:
        """Those of versions that are there, by name."""
        is_there = (versions.c.playbook_id == held_edits_table.c.playbook_id) & (
            versions.c.version == held_edits_table.c.version
        )
        query = (
            select(held_edits_table)
            .join(versions, is_there)
            .order_by(held_edits_table.c.playbook_id, held_edits_table.c.version)
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
                delete(held_edits_table).where(
                    held_edits_table.c.playbook_id == ref.playbook_id,
                    held_edits_table.c.version == ref.version,
                )
            )
