"""Jobs: what somebody asked for, and how far each ref of it is.

A job observes its refs: whatever task brings a ref forward (the job's own message, a later sync,
another job's) notes it here, and every open item of that ref moves with it. The job's state is
derived from its items'.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

from sqlalchemy import Connection, Row, Select, and_, func, insert, or_, select, update

from core.backoff import due
from core.errors import NotFound, UsageError
from core.journal.database import Database
from core.journal.rows import Rows, chunks
from core.journal.tables import JobState
from core.journal.tables import job_items as items_table
from core.journal.tables import jobs as table
from core.models import Outcome, OutcomeState

KINDS = ("publish", "sync", "download", "embed", "evict", "reindex", "verify", "import", "delete")
# What a job of a kind is about; its last step ends an item. Other steps on the same ref are none of its
# business. A kind that is not here ends with the step of its name.
STEPS = {
    "publish": ("embed", "upload", "publish", "settle"),
    "embed": ("embed",),
    "reindex": ("embed",),
    "delete": ("delete",),
    "download": ("download", "verify"),
}
OPEN = (JobState.QUEUED, JobState.RUNNING)
OPEN_ITEMS = (*OPEN, JobState.DEFERRED)


@dataclass(frozen=True, slots=True)
class JobItem:
    """How far one ref of a job is."""

    ref: str
    state: JobState
    step: str | None = None
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None
    next_attempt_at: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Job:
    """What somebody asked for and how far it is; the contract's job document."""

    job_id: str
    kind: str
    request: dict[str, Any]
    state: JobState
    total: int
    succeeded: int
    failed: int
    deferred: int
    cancelled: int
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    items: tuple[JobItem, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Nothing is left for a worker now; what was deferred waits for a later sync."""
        done = self.succeeded + self.failed + self.deferred + self.cancelled
        return not self.state.is_open or (self.total > 0 and done >= self.total)

    def as_json(self, *, with_items: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": self.state.value,
            "total": self.total,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "deferred": self.deferred,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }
        if self.error:
            body["error"] = self.error
        if self.result is not None:
            body["result"] = self.result
        if with_items:
            body["items"] = [item.as_json() for item in self.items]
        return body


_ITEMS = Rows(items_table, JobItem)


def progress(row: Row[Any], step: str, outcome: Outcome) -> dict[str, Any]:
    """What an outcome of ``step`` changes in the item ``row``; empty when it says nothing to it."""
    steps = STEPS.get(row.kind)
    if steps is not None and step not in steps:
        return {}
    final = steps[-1] if steps else row.kind
    values: dict[str, Any] = {
        "step": step,
        "error": outcome.error,
        "error_type": outcome.error_type,
        "next_attempt_at": outcome.next_attempt_at,
    }
    match outcome.state:
        case OutcomeState.DONE if step == final:
            values["state"] = JobState.SUCCEEDED
        case OutcomeState.DONE:
            if row.state == JobState.DEFERRED:
                return {}  # an earlier step that has nothing to do says nothing new
            values["state"] = JobState.RUNNING
        case OutcomeState.SKIPPED:
            values["state"] = JobState.CANCELLED
        case OutcomeState.FAILED:
            values["state"] = JobState.FAILED
            values["attempts"] = row.attempts + 1
        case OutcomeState.DEFERRED:
            values["state"] = JobState.DEFERRED
            values["attempts"] = row.attempts + 1
        case OutcomeState.WAITING:
            return {}
    return values


def settle(connection: Connection, job_ids: Iterable[str]) -> None:
    """Derive each job's state from its items'."""
    ids = list(job_ids)
    counts = count_states(connection, ids)
    now = int(time.time())
    for job_id in ids:
        state = _derive(counts.get(job_id, {}))
        values: dict[str, Any] = {"state": state}
        values["finished_at"] = None if state.is_open else now
        connection.execute(
            update(table)
            .where(table.c.job_id == job_id, table.c.cancelled.is_(False))
            .values(started_at=func.coalesce(table.c.started_at, now), **values)
        )


def _derive(counts: Mapping[str, int]) -> JobState:
    present = {state for state, count in counts.items() if count}
    if present & {JobState.QUEUED, JobState.RUNNING}:
        return JobState.RUNNING
    if present <= {JobState.SUCCEEDED}:
        return JobState.SUCCEEDED
    if present == {JobState.DEFERRED}:
        return JobState.QUEUED  # nothing failed; the next sync goes on with it
    if present == {JobState.CANCELLED}:
        return JobState.CANCELLED
    return JobState.PARTIAL if JobState.SUCCEEDED in present else JobState.FAILED


def count_states(connection: Connection, job_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """``{job id: {item state: how many}}``."""
    counts: dict[str, dict[str, int]] = {}
    query = (
        select(items_table.c.job_id, items_table.c.state, func.count())
        .where(items_table.c.job_id.in_(job_ids))
        .group_by(items_table.c.job_id, items_table.c.state)
    )
    for job_id, state, count in connection.execute(query):
        counts.setdefault(job_id, {})[state] = count
    return counts


class Jobs:
    """Make jobs, bring their items forward, and end them: ``jobs`` and ``job_items``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        kind: str,
        request: Mapping[str, Any],
        refs: Sequence[str] = (),
        idempotency_key: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> tuple[str, bool]:
        """A new job as ``(job_id, True)``; a known idempotency key gives the first and False."""
        if kind not in KINDS:
            raise UsageError(f"Job kind {kind!r} is unknown.", f"Use one of {', '.join(KINDS)}.")
        job_id = str(uuid.uuid4())
        body = _as_stored(request)
        with self._database.write() as connection:
            if idempotency_key is not None:
                known = _known(connection, idempotency_key, kind, body)
                if known is not None:
                    return known, False
            connection.execute(
                insert(table).values(
                    job_id=job_id,
                    kind=kind,
                    request=body,
                    idempotency_key=idempotency_key,
                    state=JobState.QUEUED,
                    total=len(refs),
                    result=dict(result) if result else None,
                    created_at=int(time.time()),
                    sequence=time.time_ns(),
                )
            )
            if refs:
                connection.execute(insert(items_table), _new_items(job_id, kind, refs))
        return job_id, True

    def known(self, idempotency_key: str, kind: str, request: Mapping[str, Any]) -> str | None:
        """The job that was made under this key; `UsageError` when it was for another request."""
        with self._database.read() as connection:
            return _known(connection, idempotency_key, kind, _as_stored(request))

    def get(self, job_id: str) -> Job:
        """The job with its items; `NotFound` when there is none."""
        with self._database.read() as connection:
            [job] = _jobs(connection, _the_job(job_id)) or _no_job(job_id)
            query = _ITEMS.select(items_table.c.job_id == job_id).order_by(items_table.c.ref)
            return replace(job, items=tuple(_ITEMS.records(connection.execute(query))))

    def summary(self, job_id: str) -> Job:
        """The job with its counts and without its items, for those who watch it."""
        with self._database.read() as connection:
            [job] = _jobs(connection, _the_job(job_id)) or _no_job(job_id)
            return job

    def recent(self, limit: int = 50) -> list[Job]:
        """The newest jobs first, without their items."""
        with self._database.read() as connection:
            return _jobs(connection, select(table).order_by(table.c.sequence.desc()).limit(limit))

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state that has any."""
        query = select(table.c.state, func.count()).group_by(table.c.state)
        return {row[0]: row[1] for row in self._database.rows(query)}

    def is_cancelled(self, job_id: str | None) -> bool:
        if job_id is None:
            return False
        query = select(table.c.cancelled).where(table.c.job_id == job_id)
        return bool(self._database.scalar(query))

    def unfinished(self) -> list[Job]:
        """Open jobs, oldest first, without their items."""
        query = select(table).where(table.c.state.in_(OPEN)).order_by(table.c.sequence)
        with self._database.read() as connection:
            return _jobs(connection, query)

    def open_items(self) -> dict[str, list[str]]:
        """``{kind: refs}`` of the items that are not at their end, each ref once a kind."""
        query = select(items_table.c.kind, items_table.c.ref).distinct()
        found: dict[str, list[str]] = {}
        for kind, ref in self._database.rows(query.where(items_table.c.state.in_(OPEN_ITEMS))):
            found.setdefault(kind, []).append(ref)
        return found

    def due_items(self, job_id: str, now: float) -> list[str]:
        """The refs of a job that a worker is to go on with: not at their end, and not deferred."""
        ready = or_(
            items_table.c.state.in_(OPEN),
            and_(items_table.c.state == JobState.DEFERRED, due(items_table.c.next_attempt_at, now)),
        )
        query = select(items_table.c.ref).where(items_table.c.job_id == job_id, ready)
        return self._database.scalars(query.order_by(items_table.c.ref))

    def add_items(self, job_id: str, refs: Sequence[str]) -> None:
        """Give a job the refs that became known only when it started; known ones stay."""
        with self._database.write() as connection:
            kind = connection.scalar(select(table.c.kind).where(table.c.job_id == job_id))
            rows = _new_items(job_id, kind, refs)
            self._database.put_new(items_table, rows, connection)
            connection.execute(
                update(table).where(table.c.job_id == job_id).values(total=len(rows))
            )
            settle(connection, [job_id])

    def start(self, job_id: str) -> None:
        queued = update(table).where(table.c.job_id == job_id, table.c.state == JobState.QUEUED)
        self._database.run(queued.values(state=JobState.RUNNING, started_at=int(time.time())))

    def finish(
        self, job_id: str, state: JobState, *, result: Any = None, error: str | None = None
    ) -> None:
        """Close a job that has no refs of its own; one that was cancelled stays so."""
        values = {"state": state, "error": error, "finished_at": int(time.time())}
        values |= {} if result is None else {"result": result}
        mine = update(table).where(table.c.job_id == job_id, table.c.cancelled.is_(False))
        self._database.run(mine.values(**values))

    def note_result(self, job_ids: Sequence[str], result: Mapping[str, Any]) -> None:
        """Write what open jobs have to tell already; their end replaces it."""
        with self._database.write() as connection:
            for part in chunks(job_ids):
                connection.execute(
                    update(table)
                    .where(table.c.job_id.in_(part), table.c.finished_at.is_(None))
                    .values(result=dict(result))
                )

    def note(
        self, step: str, outcomes: Mapping[str, Outcome], only_job: str | None = None
    ) -> list[str]:
        """Bring every open item of these refs forward; the ids of the jobs that moved.

        ``step`` names the task (embed, upload, publish, settle …); an item is done when its
        kind's last step is. ``only_job``: the step is nothing to any other job.
        """
        if not outcomes:
            return []
        touched: set[str] = set()
        with self._database.write() as connection:
            for part in chunks(list(outcomes)):
                query = select(items_table).where(
                    items_table.c.ref.in_(part), items_table.c.state.in_(OPEN_ITEMS)
                )
                if only_job is not None:
                    query = query.where(items_table.c.job_id == only_job)
                rows = connection.execute(query).all()
                for row in rows:
                    values = progress(row, step, outcomes[row.ref])
                    if values:
                        connection.execute(
                            update(items_table)
                            .where(items_table.c.job_id == row.job_id, items_table.c.ref == row.ref)
                            .values(**values)
                        )
                        touched.add(row.job_id)
            settle(connection, touched)
        return sorted(touched)

    def cancel(self, job_id: str) -> Job:
        """Stop what has not been done; what is published stays published."""
        self.get(job_id)
        with self._database.write() as connection:
            connection.execute(update(table).where(table.c.job_id == job_id).values(cancelled=True))
            connection.execute(
                update(items_table)
                .where(items_table.c.job_id == job_id, items_table.c.state.in_(OPEN_ITEMS))
                .values(state=JobState.CANCELLED)
            )
            open_states = [JobState.QUEUED, JobState.RUNNING, JobState.PARTIAL]
            connection.execute(
                update(table)
                .where(table.c.job_id == job_id, table.c.state.in_(open_states))
                .values(state=JobState.CANCELLED, finished_at=int(time.time()))
            )
        return self.get(job_id)

    def reopen(self, job_id: str) -> list[str]:
        """Queue the failed, deferred and cancelled items again; their refs.

        A job of which everything succeeded stays as it is.
        """
        has_items = bool(self.get(job_id).total)
        again = [JobState.FAILED, JobState.DEFERRED, JobState.CANCELLED]
        mine = items_table.c.job_id == job_id
        with self._database.write() as connection:
            query = select(items_table.c.ref).where(mine, items_table.c.state.in_(again))
            refs = list(connection.scalars(query))
            if has_items and not refs:
                return []
            connection.execute(
                update(items_table)
                .where(mine, items_table.c.state.in_(again))
                .values(state=JobState.QUEUED, error=None, error_type=None, next_attempt_at=None)
            )
            connection.execute(
                update(table)
                .where(table.c.job_id == job_id)
                .values(state=JobState.QUEUED, cancelled=False, error=None, finished_at=None)
            )
        return refs


def _as_stored(request: Mapping[str, Any]) -> Any:
    """A request as it is read back: lists for tuples, plain words for enumerations."""
    return json.loads(json.dumps(dict(request)))


def _new_items(job_id: str, kind: str | None, refs: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"job_id": job_id, "ref": ref, "kind": kind, "state": JobState.QUEUED} for ref in refs
    ]  # fmt: skip


def _known(connection: Connection, idempotency_key: str, kind: str, request: Any) -> str | None:
    query = select(table.c.job_id, table.c.kind, table.c.request)
    row = connection.execute(query.where(table.c.idempotency_key == idempotency_key)).one_or_none()
    if row is None:
        return None
    if (row.kind, row.request) != (kind, request):
        raise UsageError(
            "This Idempotency-Key was used for another request.",
            "Send a new key with a new request.",
        )
    return str(row.job_id)


def _the_job(job_id: str) -> Select[Any]:
    return select(table).where(table.c.job_id == job_id)


def _no_job(job_id: str) -> NoReturn:
    raise NotFound(f"There is no job {job_id!r}.", "`escher-playbooks jobs ls` lists them.")


def _jobs(connection: Connection, query: Select[Any]) -> list[Job]:
    """The jobs of these rows, with what their items say and without the items."""
    rows = connection.execute(query).all()
    counts = count_states(connection, [row.job_id for row in rows])
    jobs = []
    for row in rows:
        states = counts.get(row.job_id, {})
        jobs.append(
            Job(
                job_id=row.job_id,
                kind=row.kind,
                request=row.request,
                state=row.state,
                total=row.total,
                succeeded=states.get(JobState.SUCCEEDED, 0),
                failed=states.get(JobState.FAILED, 0),
                deferred=states.get(JobState.DEFERRED, 0),
                cancelled=states.get(JobState.CANCELLED, 0),
                created_at=row.created_at,
                started_at=row.started_at,
                finished_at=row.finished_at,
                error=row.error,
                result=row.result,
            )
        )
    return jobs
