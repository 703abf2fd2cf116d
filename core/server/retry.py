"""When a call is tried again, and when it is given up: the one layer that retries in place.

Every call of the contract is harmless to repeat (announcing and PUTs are addressed by content,
publishing carries an ``Idempotency-Key``, deleting an ``If-Match``), so all transient failures are
retried: at most `RetryPolicy.tries` times, within one total deadline, put off as
`core.backoff` says. What still fails is left to the journal and a later sync.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from core.backoff import Backoff
from core.errors import ServerBusy, ServerUnreachable, TransferInterrupted, TransientError

T = TypeVar("T")
RETRIED: tuple[type[TransientError], ...] = (ServerUnreachable, ServerBusy, TransferInterrupted)


IN_PLACE = Backoff(0.2, 5.0, retry_after_cap_seconds=10.0)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long; times in seconds."""

    tries: int = 4
    deadline_seconds: float = 60.0
    backoff: Backoff = IN_PLACE


class Deadline:
    """The moment by which a call, all its tries together, must be over."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - self._clock())

    @property
    def is_over(self) -> bool:
        return self.remaining() <= 0


class Retrier:
    """Runs a call under a `RetryPolicy`; sleep, clock and random are given by tests."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._clock = clock
        self._random = random

    def call(self, attempt: Callable[[Deadline], T], *, extra_seconds: float = 0.0) -> T:
        """Call ``attempt(deadline)`` until it returns; its last error when it never does.

        ``extra_seconds`` is added to the deadline, for bodies whose size sets the time they need.
        """
        deadline = Deadline(self._policy.deadline_seconds + extra_seconds, self._clock)
        failures = 0
        while True:
            try:
                return attempt(deadline)
            except RETRIED as error:
                failures += 1
                delay = self._policy.backoff.seconds(failures - 1, error.retry_after, self._random)
                if failures >= self._policy.tries or delay >= deadline.remaining():
                    raise
            self._sleep(delay)
