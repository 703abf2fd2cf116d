"""The clock that a test hands to what it tests.

`support.mortal` has another, which moves all of a process at once.
"""

from __future__ import annotations

import time


class Clock:
    """Stands at ``now`` (the test's beginning, unless said otherwise) until the test moves it."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now
