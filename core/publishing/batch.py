"""What a step makes of one version: an outcome for the caller and what changes in its row.

A transient failure is due again as `core.backoff` says (within a call, `core.server.retry` has
tried before); a permanent one keeps its reason and waits for the user.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from core.backoff import is_put_off, put_off
from core.errors import Conflict, EscherError, ServerUnreachable
from core.journal import Journal
from core.journal.leases import VERSION, Held
from core.journal.records import Advance, VersionRecord
from core.models import DONE, Outcome, OutcomeState, Ref, SyncState

SKIPPED = Outcome(OutcomeState.SKIPPED)
WAITING = Outcome(OutcomeState.WAITING)
CONFLICT_REMEDY = "Choose with `escher-playbooks conflicts resolve`; both contents are kept."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``facts`` and ``state`` as in `core.journal.records.Advance`."""

    outcome: Outcome = DONE
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judge:
    """Turns failures into verdicts; ``clock`` gives Unix seconds."""

    clock: Callable[[], float]
    random: Callable[[], float]

    def failure(
        self, record: VersionRecord, error: Exception, facts: dict[str, Any] | None = None
    ) -> Verdict:
        """The verdict of ``error``: deferred, failed or in conflict."""
        if not isinstance(error, EscherError):
            return self._unexpected(record, error)
        if is_put_off(error):
            return self.deferred(record, error, facts)
        conflict = isinstance(error, Conflict)
        return self._refused(
            SyncState.CONFLICT if conflict else SyncState.FAILED, error.type, str(error), facts
        )

    def deferred(
        self, record: VersionRecord, error: EscherError, facts: dict[str, Any] | None = None
    ) -> Verdict:
        """Due again later, whatever kind of error it is."""
        outcome = put_off(error, record.attempts, self.clock(), self.random)
        state = {
            "sync_state": SyncState.DEFERRED,
            "attempts": record.attempts + 1,
            "error_type": error.type,
            "error": str(error),
            "next_attempt_at": outcome.next_attempt_at,
        }
        return Verdict(outcome, facts or {}, state)

    def again(self, record: VersionRecord, error: Exception) -> Verdict:
        """Due again later, even after an error that is permanent or a mistake of ours."""
        if not isinstance(error, EscherError):
            error = EscherError(self._unexpected(record, error).outcome.error or "")
        return self.deferred(record, error)

    @staticmethod
    def _refused(
        sync_state: SyncState, type_: str, words: str, facts: dict[str, Any] | None
    ) -> Verdict:
        state = {
            "sync_state": sync_state,
            "error_type": type_,
            "error": words,
            "next_attempt_at": None,
        }
        return Verdict(Outcome(OutcomeState.FAILED, type_, words), facts or {}, state)

    def _unexpected(self, record: VersionRecord, error: Exception) -> Verdict:
        """A mistake of ours: told by its kind and place, since its text may hold content."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
        kind = type(error).__name__
        log.error("%s failed with %s at %s", record.ref, kind, place)
        words = f"Unexpected {kind} at {place}. Please report it; publish again to retry."
        return self._refused(SyncState.FAILED, kind, words, None)


# One step over a batch: leases, threads, and rows written as results come in.
#
# A batch is the unit and one bad item never holds it back: whatever happens to an item becomes its
# own verdict. When nothing at all answers any more, the rest of the batch is deferred unasked.


FLUSH_ITEMS = 16
FLUSH_SECONDS = 2.0

Work = Callable[[VersionRecord], Verdict]


class Batch:
    """The leased versions of one step; made by `open_batch`."""

    def __init__(self, journal: Journal, judge: Judge, held: Held[Ref]) -> None:
        self._journal = journal
        self._judge = judge
        self._lease = held.token
        self.records = journal.versions.get_many(sorted(held.items))  # read again, under the lease
        self.outcomes: dict[Ref, Outcome] = {}

    def settle(self, verdicts: Iterable[tuple[VersionRecord, Verdict]]) -> None:
        """Write verdicts in one transaction and note their outcomes.

        Where the lease or the content is gone the outcome is `WAITING`: a later run sees to it.
        """
        pairs = list(verdicts)
        steps = [
            Advance(
                record.ref,
                self._lease,
                record.content_digest,
                verdict.facts,
                verdict.state,
            )
            for record, verdict in pairs
        ]
        written = self._journal.versions.advance(steps) if steps else []
        for (record, verdict), is_written in zip(pairs, written, strict=True):
            self.outcomes[record.ref] = verdict.outcome if is_written else WAITING

    def work(self, records: Sequence[VersionRecord], work: Work, threads: int) -> None:
        """Run ``work`` on every record, ``threads`` at a time, and settle what it gives."""
        if not records:
            return
        attempt = _Attempts(work, self._judge, gives_up_after=threads)
        with ThreadPoolExecutor(min(threads, len(records)), "publishing") as pool:
            open_: dict[Future[Verdict], VersionRecord] = {
                pool.submit(attempt, record): record for record in records
            }
            finished: list[tuple[VersionRecord, Verdict]] = []
            flushed_at = time.monotonic()
            try:
                while open_:
                    done, _ = wait(open_, timeout=FLUSH_SECONDS, return_when=FIRST_COMPLETED)
                    finished += [(open_.pop(future), future.result()) for future in done]
                    if (
                        len(finished) >= FLUSH_ITEMS
                        or time.monotonic() - flushed_at > FLUSH_SECONDS
                    ):
                        self.settle(finished)
                        finished, flushed_at = [], time.monotonic()
            finally:  # also when this thread is interrupted: what was done is kept
                for future in open_:
                    future.cancel()
                self.settle(finished)


@contextmanager
def open_batch(journal: Journal, refs: Sequence[Ref], judge: Judge) -> Iterator[Batch]:
    """Lease ``refs`` for one step.

    A ref that is gone gets `SKIPPED`, one that another worker holds `WAITING`.
    """
    wanted = list(dict.fromkeys(refs))
    with journal.leases.holding(VERSION, wanted) as held:
        batch = Batch(journal, judge, held)
        others = journal.versions.get_many([ref for ref in wanted if ref not in held])
        for ref in wanted:
            if ref not in batch.records:
                batch.outcomes[ref] = WAITING if ref in others else SKIPPED
        yield batch


class _Attempts:
    """Runs the work of one item, and no more of it once nothing answers."""

    def __init__(self, work: Work, judge: Judge, *, gives_up_after: int) -> None:
        self._work = work
        self._judge = judge
        self._gives_up_after = gives_up_after
        self._silent = 0
        self._error: ServerUnreachable | None = None
        self._lock = threading.Lock()

    def __call__(self, record: VersionRecord) -> Verdict:
        with self._lock:
            given_up = self._error if self._silent >= self._gives_up_after else None
        if given_up is not None:
            return self._judge.deferred(record, given_up)
        try:
            verdict = self._work(record)
        except ServerUnreachable as error:
            self._note(error)
            return self._judge.failure(record, error)
        except EscherError as error:
            self._note(None)
            return self._judge.failure(record, error)
        except Exception as error:  # noqa: BLE001 — any mistake is its item's, never its batch's
            return self._judge.failure(record, error)
        self._note(None)
        return verdict

    def _note(self, error: ServerUnreachable | None) -> None:
        with self._lock:
            self._silent = 0 if error is None else self._silent + 1
            self._error = error
