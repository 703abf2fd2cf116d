"""What execution engines reported: every run counted once, and sent to the server when it is due.

::

    due ──► sent      the server has counted it; kept for a while, so that it counts once
     ▲  └─► failed    set aside, after the server refused it again and again
     └──────┘         `retry`, or a later run of the same version that went through

The counts of a version are the server's totals and what the server has not been told yet. Its
health is this machine's own: three failures in a row break it, the next success mends it. Each run
keeps how many failures there are in a row with it, so a failure that was the last run is not pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, update

from core.backoff import due
from core.errors import AlreadyExists, NotFound
from core.journal.database import Database
from core.journal.rows import Rows, among, chunks, key, of_ref, same_ref
from core.journal.tables import executions as table
from core.journal.tables import versions
from core.models import RESERVED_PREFIX, Ref

BROKEN_AFTER = 3  # failures in a row
OK, BROKEN = "ok", "broken"
DUE, SENT, FAILED = "due", "sent", "failed"
_AT_ONCE = {"state": DUE, "attempts": 0, "next_attempt_at": None}


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


_RUNS = Rows(table, Execution)


class ExecutionRows:
    """Rows of ``executions``, and what follows from them in ``versions``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- what was reported ------------------------------------------------------------------
    def record(self, ref: Ref, run: Execution, *, now: int, is_ours: bool = True) -> Recorded:
        """Count one run; the same ``execution_id`` again counts nothing.

        Not ``is_ours``: a version without a row, such as the Escher Library's. Raises `NotFound`,
        or `AlreadyExists` for an id that a run of another version has.
        """
        with self._database.write() as connection:
            known = connection.scalar(select(versions.c.health).where(of_ref(versions, ref)))
            if known is None and is_ours:
                raise NotFound(
                    f"There is no {ref}.", "`escher-playbooks list` shows what there is."
                )
            failures = _failures_in_a_row(ref, connection)
            before = known or _health(failures)
            if _is_known(ref, run.execution_id, connection):
                return Recorded(False, _totals(ref, connection), before, False)
            failures = 0 if run.success else failures + 1
            row = {**ref._asdict(), **_RUNS.values(run), "failures_in_a_row": failures}
            connection.execute(table.insert(), [{**row, "state": DUE, "state_since": now}])
            health = OK if run.success else BROKEN if _health(failures) == BROKEN else before
            last = versions.c.last_executed
            connection.execute(
                update(versions)
                .where(of_ref(versions, ref))
                .values(
                    execution_count=versions.c.execution_count + 1,
                    success_count=versions.c.success_count + int(run.success),
                    last_executed=case((or_(last.is_(None), last < run.at), run.at), else_=last),
                    health=health,
                )
            )
            return Recorded(True, _totals(ref, connection), health, health != before)

    def take_totals(self, ref: Ref, totals: Totals, within: Connection | None = None) -> None:
        """The server's counts of a version, and beside them what it has not been told yet."""
        with self._database.write_within(within) as connection:
            untold = _sum_of(connection, of_ref(table, ref), table.c.state != SENT)
            moments = [at for at in (totals.last_executed, untold.last_executed) if at is not None]
            connection.execute(
                update(versions)
                .where(of_ref(versions, ref))
                .values(
                    execution_count=totals.execution_count + untold.execution_count,
                    success_count=totals.success_count + untold.success_count,
                    last_executed=max(moments, default=None),
                )
            )

    def last_error(self, ref: Ref) -> str | None:
        """What the engine said of the last run, None when that went well or it said nothing."""
        query = select(case((table.c.success, None), else_=table.c.error)).where(of_ref(table, ref))
        error: str | None = self._database.scalar(query.order_by(table.c.sequence.desc()).limit(1))
        return error

    def without_row(self, refs: Sequence[Ref]) -> dict[Ref, tuple[Totals, str]]:
        """Totals (of what is kept) and health of versions that are not ours, see `record`."""
        with self._database.read() as connection:
            return {
                ref: (
                    _sum_of(connection, of_ref(table, ref)),
                    _health(_failures_in_a_row(ref, connection)),
                )
                for ref in refs
            }

    def counts(self) -> dict[str, int]:
        """``{due, sent, failed}``: how many runs wait, were sent lately, or were set aside."""
        query = select(table.c.state, func.count()).group_by(table.c.state)
        found = {row[0]: row[1] for row in self._database.rows(query)}
        return {state: found.get(state, 0) for state in (DUE, SENT, FAILED)}

    # -- what is to be sent -----------------------------------------------------------------
    def due_refs(self, now: int) -> list[Ref]:
        """Versions whose runs are to be sent now, those first whose runs have waited longest.

        The server must know the version: it is published, or of the Escher Library. A run that
        came while others of its version are put off waits with them.
        """
        published = and_(versions.c.revision.is_not(None), versions.c.deleting.is_(False))
        library = and_(
            versions.c.playbook_id.is_(None),
            table.c.playbook_id.startswith(RESERVED_PREFIX, autoescape=True),
        )
        query = (
            select(*key(table))
            .join(versions, same_ref(versions, table), isouter=True)
            .where(table.c.state == DUE, or_(published, library))
            .group_by(*key(table))
            .having(due(func.max(table.c.next_attempt_at), now))
            .order_by(func.min(table.c.sequence))
        )
        return [Ref(*row) for row in self._database.rows(query)]

    def due(self, ref: Ref, limit: int) -> list[Execution]:
        """The first runs of a version that are to be sent, in the order of their arrival."""
        query = _RUNS.select(of_ref(table, ref), table.c.state == DUE)
        return _RUNS.records(self._database.rows(query.order_by(table.c.sequence).limit(limit)))

    def sent(
        self, ref: Ref, execution_ids: Sequence[str], totals: Totals | None, *, now: int
    ) -> None:
        """The server has counted these; with its ``totals`` the version's counts follow them.

        What was set aside of this version is tried again: the server takes its runs.
        """
        with self._database.write() as connection:
            for part in chunks(execution_ids):
                told = update(table).where(table.c.execution_id.in_(part))
                connection.execute(told.values(state=SENT, state_since=now))
            others = update(table).where(of_ref(table, ref), table.c.state != SENT)
            connection.execute(others.values(**_AT_ONCE, state_since=now))
            if totals is not None:
                self.take_totals(ref, totals, connection)

    def attempts(self, ref: Ref) -> int:
        """How often sending failed since it last went well."""
        query = select(func.max(table.c.attempts)).where(of_ref(table, ref), table.c.state == DUE)
        return self._database.scalar(query) or 0

    def defer(self, ref: Ref, attempts: int, next_attempt_at: int) -> None:
        """Sending failed for now."""
        waiting = update(table).where(of_ref(table, ref), table.c.state == DUE)
        self._database.run(waiting.values(attempts=attempts, next_attempt_at=next_attempt_at))

    def set_aside(self, ref: Ref, *, now: int) -> None:
        """Send no more of what waits for this version."""
        waiting = update(table).where(of_ref(table, ref), table.c.state == DUE)
        self._database.run(waiting.values(state=FAILED, state_since=now))

    def retry(self, refs: Sequence[Ref] | None, *, now: int) -> int:
        """Bring back what was set aside, of these or (None) of all; how many runs that are.

        What was put off is due at once, too.
        """
        aside = table.c.state == FAILED
        put_off = table.c.next_attempt_at.is_not(None)
        parts = [None] if refs is None else [among(table, part) for part in chunks(refs)]
        brought = 0
        with self._database.write() as connection:
            for part in parts:
                mine = [] if part is None else [part]
                at_once = update(table).values(**_AT_ONCE)
                connection.execute(at_once.where(table.c.state == DUE, put_off, *mine))
                back = at_once.where(aside, *mine).values(state_since=now)
                brought += connection.execute(back).rowcount
        return brought

    def prune(self, before: int) -> int:
        """Forget what was sent or set aside before ``before``; how many runs that are.

        A failure that was the last run of its version stays: the next one goes on counting from it.
        """
        last = select(func.max(table.c.sequence)).group_by(*key(table))
        needed = and_(table.c.failures_in_a_row > 0, table.c.sequence.in_(last))
        old = and_(table.c.state != DUE, table.c.state_since < before)
        return self._database.run(delete(table).where(old, ~needed))


def forget_executions(refs: Sequence[Ref], connection: Connection) -> None:
    """What was reported of versions that are deleted goes in the transaction that forgets them."""
    connection.execute(delete(table).where(among(table, refs)))


def _is_known(ref: Ref, execution_id: str, connection: Connection) -> bool:
    query = select(*key(table)).where(table.c.execution_id == execution_id)
    owner = connection.execute(query).one_or_none()
    if owner is not None and tuple(owner) != ref:
        raise AlreadyExists(
            f"The execution {execution_id!r} was reported for {Ref(*owner)}.",
            "Give every run an id of its own, or none: then one is made.",
        )
    return owner is not None


def _failures_in_a_row(ref: Ref, connection: Connection) -> int:
    query = select(table.c.failures_in_a_row).where(of_ref(table, ref))
    return connection.scalar(query.order_by(table.c.sequence.desc()).limit(1)) or 0


def _health(failures_in_a_row: int) -> str:
    return BROKEN if failures_in_a_row >= BROKEN_AFTER else OK


def _totals(ref: Ref, connection: Connection) -> Totals:
    columns = versions.c.execution_count, versions.c.success_count, versions.c.last_executed
    row = connection.execute(select(*columns).where(of_ref(versions, ref))).one_or_none()
    return Totals(*row) if row is not None else _sum_of(connection, of_ref(table, ref))


def _sum_of(connection: Connection, *where: ColumnElement[bool]) -> Totals:
    successes = func.coalesce(func.sum(case((table.c.success, 1), else_=0)), 0)
    query = select(func.count(), successes, func.max(table.c.at)).where(*where)
    count, well, last = connection.execute(query).one()
    return Totals(count, int(well), last)
