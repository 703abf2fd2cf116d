"""Executions that an engine reports: counted here at once, told to the server with the next sync.

The server counts by ``execution_id``, so what may have arrived is simply sent again: none is lost
and none counts twice. Runs of a version that is not published wait until it is.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from core.backoff import is_put_off, next_attempt
from core.errors import EscherError, ServerUnreachable, UsageError
from core.journal import Journal
from core.journal.executions import Execution, Recorded, Totals
from core.models import Ref
from core.server.answers import StatsCounted

BATCH = 500  # runs in one call
KEPT_SECONDS = 30 * 86400  # for so long the same execution_id counts nothing
MAX_ID_CHARACTERS = 200
MAX_ERROR_CHARACTERS = 2000
MAX_INTEGER = 2**53  # what JSON carries exactly
TRIES = 10  # refusals until a version's runs are set aside: about an hour
GIVE_UP_AFTER = 3  # versions in a row that a troubled server can't take

_log = logging.getLogger(__name__)


class StatsServer(Protocol):
    """What is needed of the server's client."""

    def send_stats(self, ref: Ref, executions: Sequence[dict[str, Any]]) -> StatsCounted:
        """Count runs once by their ``execution_id``."""
        ...


@dataclass(frozen=True, slots=True)
class ExecutionReport:
    """A reported run and where its version stands with it."""

    ref: Ref
    execution_id: str
    recorded: Recorded

    @property
    def health_changed(self) -> bool:
        """Whether the version broke, or was mended: its point is to be written again."""
        return self.recorded.health_changed

    def as_json(self) -> dict[str, Any]:
        totals = self.recorded.totals
        return {
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "execution_id": self.execution_id,
            "counted": self.recorded.is_new,
            "health": self.recorded.health,
            "execution_count": totals.execution_count,
            "success_count": totals.success_count,
            "last_executed": totals.last_executed,
        }


@dataclass(slots=True)
class ExecutionsSent:
    """What a sync told the server; reasons by version for what waits, and for what was set aside."""

    sent: int = 0
    deferred: dict[Ref, str] = field(default_factory=dict)
    failed: dict[Ref, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "deferred": {str(ref): reason for ref, reason in self.deferred.items()},
            "failed": {str(ref): reason for ref, reason in self.failed.items()},
        }


class Executions:
    """One home's reported runs.

    ``is_library`` tells which versions of the Escher Library were used here: they have no row.
    """

    def __init__(
        self,
        journal: Journal,
        is_library: Callable[[Ref], bool] = lambda _ref: False,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._is_library = is_library
        self._clock = clock
        self._random = random

    def report(
        self,
        ref: Ref,
        *,
        success: bool,
        duration_ms: int = 0,
        execution_id: str | None = None,
        error: str | None = None,
        at: int | None = None,
    ) -> ExecutionReport:
        """Count a run, durably when this returns; the same ``execution_id`` again is harmless.

        ``at`` is in Unix seconds (None: now). ``error`` is kept here and never sent. Raises
        `NotFound`, `UsageError`, or `AlreadyExists` for an id that another version's run has.
        """
        now = int(self._clock())
        run = Execution(
            _checked_id(execution_id or uuid.uuid4().hex),
            success,
            _checked_number(duration_ms, "duration_ms"),
            now if at is None else _checked_number(at, "at"),
            _cleaned(error),
        )
        recorded = self._journal.executions.record(
            ref, run, now=now, is_ours=not self._is_library(ref)
        )
        if recorded.health_changed:
            _log.info("%s is %s by its executions", ref, recorded.health)
        return ExecutionReport(ref, run.execution_id, recorded)

    def send(self, server: StatsServer) -> ExecutionsSent:
        """Tell the server what it has not been told yet, version by version.

        What fails is due again as `core.backoff` says. A version whose runs are
        refused `TRIES` times is set aside with the reason (`retry`). Never raises for the server.
        """
        queue, result = self._journal.executions, ExecutionsSent()
        queue.prune(int(self._clock()) - KEPT_SECONDS)
        in_a_row = 0
        for ref in queue.due_refs(int(self._clock())):
            try:
                result.sent += self._send(ref, server)
                in_a_row = 0
            except ServerUnreachable as error:  # nobody answers: that is no version's fault
                result.deferred[ref] = str(error)
                break
            except EscherError as error:
                is_refused = not is_put_off(error)
                if self._is_set_aside(ref, error, is_refused=is_refused):
                    result.failed[ref] = str(error)
                else:
                    result.deferred[ref] = str(error)
                in_a_row = 0 if is_refused else in_a_row + 1
                if in_a_row == GIVE_UP_AFTER:
                    break
        return result

    def retry(self, refs: Sequence[Ref] | None = None) -> int:
        """Bring back the runs that were set aside (None: of all versions); how many they are."""
        return self._journal.executions.retry(refs, now=int(self._clock()))

    def _send(self, ref: Ref, server: StatsServer) -> int:
        queue, sent = self._journal.executions, 0
        while runs := queue.due(ref, BATCH):
            counted = server.send_stats(ref, [run.as_sent() for run in runs])
            ids = [run.execution_id for run in runs]
            queue.sent(ref, ids, _totals(counted), now=int(self._clock()))
            sent += len(runs)
            if len(runs) < BATCH:  # what is reported meanwhile goes with the next sync
                break
        return sent

    def _is_set_aside(self, ref: Ref, error: EscherError, *, is_refused: bool) -> bool:
        queue = self._journal.executions
        attempts = queue.attempts(ref)
        if is_refused and attempts + 1 >= TRIES:
            _log.error("executions of %s are set aside: %s", ref, error)
            queue.set_aside(ref, now=int(self._clock()))
            return True
        later = next_attempt(error, attempts, self._clock(), self._random)
        queue.defer(ref, attempts + 1, later)
        return False


def _totals(counted: StatsCounted) -> Totals | None:
    if counted.execution_count is None or counted.success_count is None:
        return None
    return Totals(counted.execution_count, counted.success_count, counted.last_executed)


def _checked_id(text: str) -> str:
    if len(text) > MAX_ID_CHARACTERS or not text.isprintable():
        raise UsageError(
            "The execution_id is too long or not printable.",
            f"Give 1 to {MAX_ID_CHARACTERS} printable characters, or none: then one is made.",
        )
    return text


def _checked_number(value: int, name: str) -> int:
    if not 0 <= value <= MAX_INTEGER:
        raise UsageError(f"{name} {value} is out of bounds.", "Give a whole number from 0.")
    return value


def _cleaned(error: str | None) -> str | None:
    """An engine's words, fit to be kept and shown."""
    if error is None:
        return None
    cut = error[:MAX_ERROR_CHARACTERS]
    return "".join(sign if sign.isprintable() or sign in "\n\t" else " " for sign in cut).strip()
