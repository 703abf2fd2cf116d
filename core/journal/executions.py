"""Which reported runs are to be sent to the server, and what became of those that were.

::

    due ──► sent      the server has counted it; kept for a while, so that it counts once
     ▲  └─► failed    set aside with a reason, after the server refused it again and again
     └──────┘         `retry`, or a later run of the same version that went through
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy import update as update_rows
from sqlalchemy.dialects import postgresql, sqlite

from core.backoff import due
from core.errors import AlreadyExists, NotFound
from core.journal.database import Database
from core.journal.tables import execution_refs, executions, versions
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


# What execution engines reported: every run counted once, in one transaction with its version.
#
# The counts of a version are the server's totals and what the server has not been told yet. Its
# health is this machine's own: three failures in a row break it, the next success mends it.

BROKEN_AFTER = 3  # failures in a row
OK, BROKEN = "ok", "broken"
DUE, SENT, FAILED = "due", "sent", "failed"


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a version: ``duration_ms`` milliseconds, ``at`` Unix seconds."""

    execution_id: str
    success: bool
    duration_ms: int
    at: int
    error: str | None = None

    def as_sent(self) -> dict[str, Any]:
        """What the server is told; the engine's words stay here."""
        return {
            "execution_id": self.execution_id,
            "success": self.success,
            "duration_ms": self.duration_ms,
            "at": self.at,
        }


@dataclass(frozen=True, slots=True)
class Totals:
    """A version's runs: how many, how many of them went well, when the last one was."""

    execution_count: int
    success_count: int
    last_executed: int | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report led to; ``is_new`` is false when this very run had been reported before."""

    is_new: bool
    totals: Totals
    health: str
    health_changed: bool


class ExecutionRows:
    """Rows of ``executions``, and what follows from them in ``versions``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, ref: Ref, run: Execution, *, now: int, is_ours: bool = True) -> Recorded:
        """Count one run; the same ``execution_id`` again counts nothing.

        Not ``is_ours``: a version without a row, such as the Escher Library's. Raises `NotFound`,
        or `AlreadyExists` for an id that a run of another version has.
        """
        with self._database.write() as connection:
            row = connection.execute(
                select(versions.c.health)
                .where(of_ref(versions, ref))
                .with_for_update()  # two reports of one version, one after the other
            ).one_or_none()
            if row is None and is_ours:
                raise NotFound(
                    f"There is no {ref}.", "`escher-playbooks list` shows what there is."
                )
            before = row.health if row is not None else _health_by_streak(ref, connection)
            if not self._insert(ref, run, now, connection):
                _check_owner(ref, run.execution_id, connection)
                return Recorded(False, _totals(ref, connection), before, False)
            self._count_failure(ref, connection, success=run.success)
            broke = _health_by_streak(ref, connection) == BROKEN
            health = OK if run.success else BROKEN if broke else before
            connection.execute(
                update_rows(versions)
                .where(of_ref(versions, ref))
                .values(
                    execution_count=versions.c.execution_count + 1,
                    success_count=versions.c.success_count + int(run.success),
                    last_executed=_later(run.at),
                    health=health,
                )
            )
            return Recorded(True, _totals(ref, connection), health, health != before)

    def _insert(self, ref: Ref, run: Execution, now: int, connection: Connection) -> bool:
        statement = self._database.insert_ignore(executions).values(
            execution_id=run.execution_id,
            playbook_id=ref.playbook_id,
            version=ref.version,
            success=run.success,
            duration_ms=run.duration_ms,
            error=run.error,
            at=run.at,
            state=DUE,
            state_since=now,
        )
        # not its rowcount, which PostgreSQL's driver does not tell of a row with a sequence
        made = connection.execute(statement.returning(executions.c.execution_id))
        return made.first() is not None

    def _count_failure(self, ref: Ref, connection: Connection, *, success: bool) -> None:
        make = sqlite.insert if self._database.is_sqlite else postgresql.insert
        more = execution_refs.c.failures_in_a_row + 1
        connection.execute(
            make(execution_refs)
            .values(
                playbook_id=ref.playbook_id,
                version=ref.version,
                failures_in_a_row=0 if success else 1,
            )
            .on_conflict_do_update(
                index_elements=["playbook_id", "version"],
                set_={"failures_in_a_row": 0 if success else more},
            )
        )

    def take_totals(
        self, ref: Ref, totals: Totals, connection: Connection | None = None
    ) -> None:  # fmt: skip
        """The server's counts of a version, and beside them what it has not been told yet."""
        if connection is None:
            with self._database.write() as own:
                self.take_totals(ref, totals, own)
            return
        untold = _sum_of(connection, of_ref(executions, ref), executions.c.state != SENT)
        moments = [at for at in (totals.last_executed, untold.last_executed) if at is not None]
        connection.execute(
            update_rows(versions)
            .where(of_ref(versions, ref))
            .values(
                execution_count=totals.execution_count + untold.execution_count,
                success_count=totals.success_count + untold.success_count,
                last_executed=max(moments, default=None),
            )
        )

    def last_error(self, ref: Ref) -> str | None:
        """What the engine said of the last run, None when that went well or it said nothing."""
        query = (
            select(executions.c.error, executions.c.success)
            .where(of_ref(executions, ref))
            .order_by(executions.c.sequence.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None or row.success else row.error

    def without_row(self, refs: Sequence[Ref]) -> dict[Ref, tuple[Totals, str]]:
        """Totals (of what is kept) and health of versions that are not ours, see `record`."""
        with self._database.read() as connection:
            return {
                ref: (
                    _sum_of(connection, of_ref(executions, ref)),
                    _health_by_streak(ref, connection),
                )
                for ref in refs
            }

    def counts(self) -> dict[str, int]:
        """``{due, sent, failed}``: how many runs wait, were sent lately, or were set aside."""
        query = select(executions.c.state, func.count()).group_by(executions.c.state)
        with self._database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in (DUE, SENT, FAILED)}


def forget_executions(refs: Sequence[tuple[str, str]], connection: Connection) -> None:
    """What was reported of versions that are deleted goes in the transaction that forgets them."""
    for table in (executions, execution_refs):
        key = tuple_(table.c.playbook_id, table.c.version)
        connection.execute(delete(table).where(key.in_(refs)))


def of_ref(table: Any, ref: Ref) -> ColumnElement[bool]:
    """The rows of ``table`` that belong to one version."""
    return and_(table.c.playbook_id == ref.playbook_id, table.c.version == ref.version)


def _check_owner(ref: Ref, execution_id: str, connection: Connection) -> None:
    columns = executions.c.playbook_id, executions.c.version
    query = select(*columns).where(executions.c.execution_id == execution_id)
    owner = connection.execute(query).one_or_none()
    if owner is not None and Ref(*owner) != ref:
        raise AlreadyExists(
            f"The execution {execution_id!r} was reported for {Ref(*owner)}.",
            "Give every run an id of its own, or none: then one is made.",
        )


def _health_by_streak(ref: Ref, connection: Connection) -> str:
    query = select(execution_refs.c.failures_in_a_row).where(of_ref(execution_refs, ref))
    return BROKEN if (connection.scalar(query) or 0) >= BROKEN_AFTER else OK


def _totals(ref: Ref, connection: Connection) -> Totals:
    columns = versions.c.execution_count, versions.c.success_count, versions.c.last_executed
    row = connection.execute(select(*columns).where(of_ref(versions, ref))).one_or_none()
    return Totals(*row) if row is not None else _sum_of(connection, of_ref(executions, ref))


def _sum_of(connection: Connection, *where: ColumnElement[bool]) -> Totals:
    successes = func.coalesce(func.sum(case((executions.c.success, 1), else_=0)), 0)
    query = select(func.count(), successes, func.max(executions.c.at)).where(*where)
    count, well, last = connection.execute(query.select_from(executions)).one()
    return Totals(count, int(well), last)


def _later(at: int) -> ColumnElement[Any]:
    last = versions.c.last_executed
    return case((or_(last.is_(None), last < at), at), else_=last)
