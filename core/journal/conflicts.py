"""What is undecided between this home and the server, and the edits that wait because of it.

::

    conflicts        open: the user is to choose; kept: a rule chose, and ``folder`` has a copy of what
                     gave way; settled: nothing more to do
    held edits       edits of sensitive content, sealed beside the content that goes on being answered
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from core.journal.database import Database
from core.journal.rows import Rows, among, chunks, key, of_ref, same_ref
from core.journal.tables import ConflictState, versions
from core.journal.tables import conflicts as table
from core.journal.tables import held_edits as held_table
from core.models import Ref

KEEP_SETTLED_SECONDS = 90 * 86400


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A folder set aside as it stood on disk; ``generation`` is that of its encrypted content."""

    folder: str
    generation: int


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """One row; the server's side as far as it is known."""

    ref: Ref
    conflict_id: str
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


_CONFLICTS = Rows(table, ConflictRecord, Ref)
_IS_OPEN = table.c.state == ConflictState.OPEN


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
        mine = and_(of_ref(table, ref), _IS_OPEN)
        with self._database.write() as connection:
            found: str | None = connection.scalar(select(table.c.conflict_id).where(mine))
            if found is None:
                return _insert(connection, ref, ConflictState.OPEN, values)
            connection.execute(update(table).where(table.c.conflict_id == found).values(**values))
            return found

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
        values = {"kind": kind, "reason": reason, **_closed(resolution, copy)}
        with self._database.write() as connection:
            if copy is not None:
                query = select(table.c.conflict_id).where(table.c.folder == copy.folder)
                known: str | None = connection.scalar(query)
                if known is not None:
                    return known
            return _insert(connection, ref, values.pop("state"), values)

    def settle(self, refs: Sequence[Ref], resolution: str, *, copy: KeptCopy | None = None) -> int:
        """Close the open rows of ``refs``; how many there were. ``copy``: what was set aside."""
        close = update(table).where(_IS_OPEN).values(**_closed(resolution, copy))
        with self._database.write() as connection:
            return sum(
                connection.execute(close.where(among(table, part))).rowcount
                for part in chunks(refs)
            )

    def open_of(self, ref: Ref) -> ConflictRecord | None:
        """The open row of a version."""
        return next(iter(self._records(of_ref(table, ref), _IS_OPEN)), None)

    def open_of_id(self, playbook_id: str) -> list[ConflictRecord]:
        """The open rows of all versions of an id, the oldest first."""
        return self._records(table.c.playbook_id == playbook_id, _IS_OPEN)

    def open_count(self) -> int:
        """How many decisions wait."""
        return int(self._database.scalar(select(func.count()).where(_IS_OPEN)))

    def open_refs(self) -> set[Ref]:
        """The versions that have an open row."""
        return {Ref(*row) for row in self._database.rows(select(*key(table)).where(_IS_OPEN))}

    def entries(self, *, everything: bool = False) -> list[ConflictRecord]:
        """Open decisions and kept copies, the oldest first; ``everything``: settled ones too."""
        return self._records(*(() if everything else (table.c.state != ConflictState.SETTLED,)))

    def open_ones(self) -> list[ConflictRecord]:
        """What waits for a decision, the oldest first."""
        return self._records(_IS_OPEN)

    def _records(self, *where: ColumnElement[bool]) -> list[ConflictRecord]:
        query = _CONFLICTS.select(*where).order_by(table.c.created_at, table.c.conflict_id)
        return _CONFLICTS.records(self._database.rows(query))

    def prune(self, now: float) -> None:
        """Forget what was settled long ago; open rows and those with a copy stay."""
        old = table.c.settled_at < int(now) - KEEP_SETTLED_SECONDS
        self._database.run(delete(table).where(table.c.state == ConflictState.SETTLED, old))


def _closed(resolution: str, copy: KeptCopy | None) -> dict[str, Any]:
    values: dict[str, Any] = {"resolution": resolution, "settled_at": int(time.time())}
    if copy is None:
        return {**values, "state": ConflictState.SETTLED}
    kept = {"folder": copy.folder, "generation": copy.generation}
    return {**values, **kept, "state": ConflictState.KEPT}


def _insert(connection: Connection, ref: Ref, state: ConflictState, values: dict[str, Any]) -> str:
    conflict_id = uuid.uuid4().hex
    row = {
        **ref._asdict(),
        "conflict_id": conflict_id,
        "state": state,
        "created_at": int(time.time()),
        **values,
    }
    connection.execute(insert(table).values(**row))
    return conflict_id


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


_HELD = Rows(held_table, HeldEdit, Ref)


class HeldEdits:
    """At most one a version: a later edit takes the place of an earlier one, whose files stay."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, edit: HeldEdit) -> None:
        self._database.put(held_table, [{**_HELD.values(edit), "held_at": int(time.time())}])

    def entries(self, *where: ColumnElement[bool]) -> list[HeldEdit]:
        """Those of versions that are there, by name."""
        query = _HELD.select(*where).join(versions, same_ref(held_table, versions))
        return _HELD.records(self._database.rows(query.order_by(*key(held_table))))

    def get(self, ref: Ref) -> HeldEdit | None:
        return next(iter(self.entries(of_ref(held_table, ref))), None)

    def remove(self, ref: Ref) -> None:
        self._database.run(delete(held_table).where(of_ref(held_table, ref)))
