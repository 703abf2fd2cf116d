"""When a failure is tried again: one rule for every place that puts something off.

::

    wait = max(full jitter over base · 2ⁿ, at most cap;  Retry-After, at most its own cap)
    n    = failures before this one, from 0

Full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015) spreads those
who failed together over the whole wait. What is put off until later than any wait, by a clock that
was wrong then, is due at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import EscherError, NotEscherServer, TransientError
from core.models import Outcome, OutcomeState

if TYPE_CHECKING:  # most who wait for something have no table to look into
    from sqlalchemy import ColumnElement

LONGEST_WAIT_SECONDS = 3600.0  # nothing is put off for longer
_SLACK_SECONDS = 60

Random = Callable[[], float]
"""A number from 0 up to 1, as `random.random` gives."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after failures; ``retry_after_cap_seconds`` None: as the wait's own cap."""

    base_seconds: float
    cap_seconds: float
    retry_after_cap_seconds: float | None = None

    def seconds(
        self, failures: int, retry_after: float | None = None, random: Random = random.random
    ) -> float:
        """Seconds before the next try; ``failures`` counts those before the one just seen."""
        # 2**failures is cut off first: a row may have failed thousands of times
        jitter = random() * min(self.cap_seconds, self.base_seconds * 2.0 ** min(failures, 32))
        cap = self.retry_after_cap_seconds
        return max(jitter, min(retry_after or 0.0, self.cap_seconds if cap is None else cap))


BETWEEN_SYNCS = Backoff(5.0, LONGEST_WAIT_SECONDS)
"""5 s, 10 s, 20 s … up to an hour: what the journal keeps until a later sync."""


def is_put_off(error: EscherError) -> bool:
    """Whether a later try may go well: a permanent error waits for the user instead."""
    # an answer that is no Escher server's (a hotel's sign-in page) says nothing of the item
    return isinstance(error, TransientError | NotEscherServer)


def next_attempt(
    error: EscherError, failures: int, now: float, random: Random = random.random
) -> int:
    """When what failed by ``error`` is tried again `BETWEEN_SYNCS`; Unix seconds, as ``now`` is."""
    return math.ceil(now + BETWEEN_SYNCS.seconds(failures, error.retry_after, random))


def put_off(
    error: EscherError, failures: int, now: float, random: Random = random.random
) -> Outcome:
    """The outcome of what is tried again at `next_attempt`."""
    later = next_attempt(error, failures, now, random)
    return Outcome(OutcomeState.DEFERRED, error.type, str(error), later)


def outcome_of(
    error: EscherError, failures: int, now: float, random: Random = random.random
) -> Outcome:
    """Deferred or failed, as ``error`` is transient or permanent; arguments as in `put_off`."""
    if is_put_off(error):
        return put_off(error, failures, now, random)
    return Outcome(OutcomeState.FAILED, error.type, str(error))


def is_due(next_attempt_at: int | None, now: float) -> bool:
    """Whether the time has come; one further off than any wait is of a clock that was wrong."""
    return next_attempt_at is None or not now < next_attempt_at <= _latest(now)


def due(column: ColumnElement[Any], now: float) -> ColumnElement[bool]:
    """`is_due` of a column."""
    return column.is_(None) | (column <= now) | (column > _latest(now))


def _latest(now: float) -> float:
    return now + LONGEST_WAIT_SECONDS + _SLACK_SECONDS
