"""Which reported runs are to be sent to the server, and what became of those that were.

::

    due ──► sent      the server has counted it; kept for a while, so that it counts once
     ▲  └─► failed    set aside with a reason, after the server refused it again and again
     └──────┘         `retry`, or a later run of the same version that went through
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from core.backoff import due
from core.journal.database import Database
from core.journal.executions import (
    DUE,
    FAILED,
    SENT,
    Execution,
    ExecutionRows,
    Totals,
    of_ref,
)
from core.journal.schema import versions
from core.journal.schema_executions import execution_refs, executions
from core.models import RESERVED_PREFIX, Ref

CHUNK = 400

_KEY = (executions.c.playbook_id, executions.c.version)


class ExecutionQueue:
    """The rows of ``executions`` on their way to the server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = ExecutionRows(database)

    def due_refs(self, now: int) -> list[Ref]:
        """Versions whose runs are to be sent now, those first whose runs have waited longest.

        The server must know the version: it is published, or of the Escher Library.
        """
        published = and_(versions.c.revision.is_not(None), versions.c.deleting.is_(False))
        library = and_(
            versions.c.playbook_id.is_(None),
            executions.c.playbook_id.startswith(RESERVED_PREFIX, autoescape=True),
        )
        query = (
            select(*_KEY)
            .join(versions, _same(versions), isouter=True)
            .join(execution_refs, _same(execution_refs), isouter=True)
            .where(
                executions.c.state == DUE,
                or_(published, library),
                due(execution_refs.c.next_attempt_at, now),
            )
            .group_by(*_KEY)
            .order_by(func.min(executions.c.sequence))
        )
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(query)]

    def due(self, ref: Ref, limit: int) -> list[Execution]:
        """The first runs of a version that are to be sent, in the order of their arrival."""
        query = (
            select(executions)
            .where(of_ref(executions, ref), executions.c.state == DUE)
            .order_by(executions.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                Execution(row.execution_id, row.success, row.duration_ms, row.at, row.error)
                for row in connection.execute(query)
            ]

    def sent(
        self, ref: Ref, execution_ids: Sequence[str], totals: Totals | None, *, now: int
    ) -> None:
        """The server has counted these; with its ``totals`` the version's counts follow them.

        What was set aside of this version is tried again: the server takes its runs.
        """
        with self._database.write() as connection:
            for start in range(0, len(execution_ids), CHUNK):
                part = executions.c.execution_id.in_(execution_ids[start : start + CHUNK])
                connection.execute(
                    update(executions).where(part).values(state=SENT, state_since=now)
                )
            aside = and_(of_ref(executions, ref), executions.c.state == FAILED)
            connection.execute(update(executions).where(aside).values(state=DUE, state_since=now))
            _note(ref, connection, attempts=0, next_attempt_at=None, reason=None)
            if totals is not None:
                self._rows.take_totals(ref, totals, connection)

    def attempts(self, ref: Ref) -> int:
        """How often sending failed since it last went well."""
        query = select(execution_refs.c.attempts).where(of_ref(execution_refs, ref))
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def defer(self, ref: Ref, attempts: int, next_attempt_at: int, reason: str) -> None:
        """Sending failed for now."""
        with self._database.write() as connection:
            _note(
                ref, connection, attempts=attempts, next_attempt_at=next_attempt_at, reason=reason
            )

    def set_aside(self, ref: Ref, reason: str, *, now: int) -> None:
        """Send no more of what waits for this version."""
        with self._database.write() as connection:
            waiting = and_(of_ref(executions, ref), executions.c.state == DUE)
            connection.execute(
                update(executions).where(waiting).values(state=FAILED, state_since=now)
            )
            _note(ref, connection, attempts=0, next_attempt_at=None, reason=reason)

    def retry(self, refs: Sequence[Ref] | None, *, now: int) -> int:
        """Bring back what was set aside, of these or (None) of all; how many runs that are."""
        back = update(executions).where(executions.c.state == FAILED)
        back = back.values(state=DUE, state_since=now)
        at_once = update(execution_refs).values(attempts=0, next_attempt_at=None)
        with self._database.write() as connection:
            if refs is None:
                connection.execute(at_once)
                return connection.execute(back).rowcount
            brought = 0
            for ref in refs:
                connection.execute(at_once.where(of_ref(execution_refs, ref)))
                brought += connection.execute(back.where(of_ref(executions, ref))).rowcount
            return brought

    def set_aside_reasons(self) -> dict[Ref, str]:
        """Why the runs of each version were set aside."""
        query = (
            select(*_KEY, execution_refs.c.reason)
            .join(execution_refs, _same(execution_refs), isouter=True)
            .where(executions.c.state == FAILED)
            .distinct()
        )
        with self._database.read() as connection:
            return {Ref(row[0], row[1]): row[2] or "" for row in connection.execute(query)}

    def prune(self, before: int) -> int:
        """Forget what was sent or set aside before ``before``; how many runs that are."""
        old = and_(executions.c.state != DUE, executions.c.state_since < before)
        with self._database.write() as connection:
            return connection.execute(delete(executions).where(old)).rowcount


def _note(ref: Ref, connection: Connection, **values: Any) -> None:
    connection.execute(update(execution_refs).where(of_ref(execution_refs, ref)).values(**values))


def _same(table: Any) -> ColumnElement[bool]:
    return and_(
        table.c.playbook_id == executions.c.playbook_id, table.c.version == executions.c.version
    )
