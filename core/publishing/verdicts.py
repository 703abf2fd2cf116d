"""What a step makes of one version: an outcome for the caller and what changes in its row.

A transient failure is due again as `core.backoff` says (within a call, `core.server.retry` has
tried before); a permanent one keeps its reason and waits for the user.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from core.backoff import is_put_off, put_off
from core.errors import Conflict, EscherError
from core.journal.records import VersionRecord
from core.models import DONE, Outcome, OutcomeState, SyncState

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
