"""How a job's items and the job itself follow the outcomes of the steps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from core.journal.records import JobState
from core.journal.schema import job_items as items_table
from core.journal.schema import jobs as table
from core.models import Outcome, OutcomeState

FINAL_STEP = {
    "publish": "settle",
    "embed": "embed",
    "reindex": "embed",
    "delete": "delete",
    "download": "verify",
}
# What a job of a kind is about: other steps on the same ref are none of its business.
STEPS = {
    "publish": frozenset({"embed", "upload", "publish", "settle"}),
    "embed": frozenset({"embed"}),
    "reindex": frozenset({"embed"}),
    "delete": frozenset({"delete"}),
    "download": frozenset({"download", "verify"}),
}
OPEN_ITEMS = (JobState.QUEUED, JobState.RUNNING, JobState.DEFERRED)


def progress(row: Row[Any], step: str, outcome: Outcome) -> dict[str, Any]:
    """What an outcome of ``step`` changes in the item ``row``; empty when it says nothing to it."""
    if step not in STEPS.get(row.kind, {step}):
        return {}
    final = FINAL_STEP.get(row.kind, row.kind)
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
