"""Runs one step over a batch of versions: leases, threads, rows written as results come in.

A batch is the unit and one bad item never holds it back: whatever happens to an item becomes its own
result. A transient failure is due again as `core.backoff` says (within a call, `core.server.http`
has tried before); a permanent one keeps its reason and waits for the user. When nothing at all
answers any more, the rest of the batch is deferred unasked.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from core.backoff import is_put_off, put_off
from core.errors import Conflict, EscherError, ServerUnreachable
from core.journal import Journal
from core.journal.leases import VERSION, Held
from core.journal.versions import Advance, VersionRecord
from core.models import DONE, Outcome, OutcomeState, Ref, SyncState

SKIPPED = Outcome(OutcomeState.SKIPPED)
WAITING = Outcome(OutcomeState.WAITING)
CONFLICT_REMEDY = "Choose with `escher-playbooks conflicts resolve`; both contents are kept."
NO_ERROR: dict[str, Any] = {
    "error_type": None, "error": None, "attempts": 0, "next_attempt_at": None,
}  # fmt: skip
FLUSH_ITEMS = 16
FLUSH_SECONDS = 2.0

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step for one version: the caller's outcome, and what changes in its row.

    ``facts`` and ``state`` as in `core.journal.versions.Advance`.
    """

    outcome: Outcome = DONE
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


Work = Callable[[VersionRecord], StepResult]


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Turns failures into results; ``clock`` gives Unix seconds."""

    clock: Callable[[], float]
    random: Callable[[], float]

    def result(self, record: VersionRecord, error: Exception) -> StepResult:
        """Defer where a later try may go well, else fail or say that there is a conflict."""
        if not isinstance(error, EscherError):
            return _failed(SyncState.FAILED, type(error).__name__, _unexpected(record, error))
        if is_put_off(error):
            return self.deferred(record, error)
        state = SyncState.CONFLICT if isinstance(error, Conflict) else SyncState.FAILED
        return _failed(state, error.type, str(error))

    def deferred(
        self, record: VersionRecord, error: Exception, facts: dict[str, Any] | None = None
    ) -> StepResult:
        """Put off to a later try, even after an error that is permanent or a mistake of ours."""
        if not isinstance(error, EscherError):
            error = EscherError(_unexpected(record, error))
        outcome = put_off(error, record.attempts, self.clock(), self.random)
        state = {
            "sync_state": SyncState.DEFERRED,
            "attempts": record.attempts + 1,
            "error_type": error.type,
            "error": str(error),
            "next_attempt_at": outcome.next_attempt_at,
        }
        return StepResult(outcome, facts or {}, state)


def _failed(sync_state: SyncState, type_: str, words: str) -> StepResult:
    state = {
        "sync_state": sync_state,
        "error_type": type_,
        "error": words,
        "next_attempt_at": None,
    }
    return StepResult(Outcome(OutcomeState.FAILED, type_, words), state=state)


def _unexpected(record: VersionRecord, error: Exception) -> str:
    """Words for a mistake of ours: told by its kind and place, since its text may hold content."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    kind = type(error).__name__
    log.error("%s failed with %s at %s", record.ref, kind, place)
    return f"Unexpected {kind} at {place}. Please report it; publish again to retry."


class Batch:
    """The leased versions of one step; made by `open_batch`."""

    def __init__(self, journal: Journal, failures: FailurePolicy, held: Held[Ref]) -> None:
        self._journal = journal
        self._failures = failures
        self._lease = held.token
        self.records = journal.versions.get_many(sorted(held.items))  # read again, under the lease
        self.outcomes: dict[Ref, Outcome] = {}

    def write(self, results: Iterable[tuple[VersionRecord, StepResult]]) -> None:
        """Write results in one transaction and note their outcomes.

        Where the lease or the content is gone the outcome is `WAITING`: a later run sees to it.
        """
        pairs = list(results)
        steps = [
            Advance(record.ref, self._lease, record.content_digest, result.facts, result.state)
            for record, result in pairs
        ]
        written = self._journal.versions.advance(steps) if steps else []
        for (record, result), is_written in zip(pairs, written, strict=True):
            self.outcomes[record.ref] = result.outcome if is_written else WAITING

    def work(self, records: Sequence[VersionRecord], work: Work, threads: int) -> None:
        """Run ``work`` on every record, ``threads`` at a time, and write what it gives."""
        if not records:
            return
        attempt = _Attempts(work, self._failures, gives_up_after=threads)
        with ThreadPoolExecutor(min(threads, len(records)), "publishing") as pool:
            open_: dict[Future[StepResult], VersionRecord] = {
                pool.submit(attempt, record): record for record in records
            }
            finished: list[tuple[VersionRecord, StepResult]] = []
            flushed_at = time.monotonic()
            try:
                while open_:
                    done, _ = wait(open_, timeout=FLUSH_SECONDS, return_when=FIRST_COMPLETED)
                    finished += [(open_.pop(future), future.result()) for future in done]
                    if (
                        len(finished) >= FLUSH_ITEMS
                        or time.monotonic() - flushed_at > FLUSH_SECONDS
                    ):
                        self.write(finished)
                        finished, flushed_at = [], time.monotonic()
            finally:  # also when this thread is interrupted: what was done is kept
                for future in open_:
                    future.cancel()
                self.write(finished)


@contextmanager
def open_batch(journal: Journal, refs: Sequence[Ref], failures: FailurePolicy) -> Iterator[Batch]:
    """Lease ``refs`` for one step.

    A ref that is gone gets `SKIPPED`, one that another worker holds `WAITING`.
    """
    wanted = list(dict.fromkeys(refs))
    with journal.leases.holding(VERSION, wanted) as held:
        batch = Batch(journal, failures, held)
        others = journal.versions.get_many([ref for ref in wanted if ref not in held])
        for ref in wanted:
            if ref not in batch.records:
                batch.outcomes[ref] = WAITING if ref in others else SKIPPED
        yield batch


class _Attempts:
    """Runs the work of one item, and no more of it once nothing answers."""

    def __init__(self, work: Work, failures: FailurePolicy, *, gives_up_after: int) -> None:
        self._work = work
        self._failures = failures
        self._gives_up_after = gives_up_after
        self._silent = 0
        self._error: ServerUnreachable | None = None
        self._lock = threading.Lock()

    def __call__(self, record: VersionRecord) -> StepResult:
        with self._lock:
            given_up = self._error if self._silent >= self._gives_up_after else None
        if given_up is not None:
            return self._failures.deferred(record, given_up)
        try:
            result = self._work(record)
        except Exception as error:  # noqa: BLE001 — any mistake is its item's, never its batch's
            if isinstance(error, EscherError):
                self._note(error if isinstance(error, ServerUnreachable) else None)
            return self._failures.result(record, error)
        self._note(None)
        return result

    def _note(self, error: ServerUnreachable | None) -> None:
        with self._lock:
            self._silent = 0 if error is None else self._silent + 1
            self._error = error


def at_once_or_each(
    items: Sequence[T],
    do: Callable[[Sequence[T]], object],
    on_failure: Callable[[T, Exception], object],
) -> list[T]:
    """Call ``do`` with all items, else with one at a time, so that one can't stop the others.

    Returns the items that were done; the others' errors go to ``on_failure``.
    """
    if not items:
        return []
    try:
        do(items)
    except Exception as error:  # noqa: BLE001 — an item's mistake is its own, as in `Batch.work`
        if len(items) > 1:
            return [one for item in items for one in at_once_or_each([item], do, on_failure)]
        on_failure(items[0], error)
        return []
    return list(items)


def set_rows(journal: Journal, changes: Mapping[Ref, dict[str, Any]]) -> list[Ref]:
    """Set values of versions' rows, leased or not; returns the versions that are there."""
    if not changes:
        return []
    is_there = journal.versions.set_many([(ref, None, row) for ref, row in changes.items()])
    return [ref for ref, was_set in zip(changes, is_there, strict=True) if was_set]
