"""How far this home has read the server's changes, kept as facts of the home.

::

    changes_cursor      where the next pull goes on
    pulled_at           when a pull last came to the feed's end
    full_pass_at        when one last read it from its beginning
    full_pass_wanted    why the next one is to do so
    deletions_taken     [[when, how many] …] of the server's deletions that were carried out

Times are Unix seconds.
"""

from __future__ import annotations

import json
import time

from core.journal.database import HomeFacts

CURSOR = "changes_cursor"
PULLED_AT, FULL_AT, WANTED = "pulled_at", "full_pass_at", "full_pass_wanted"
TAKEN = "deletions_taken"
DAY_SECONDS = 86_400
STALE_SECONDS = DAY_SECONDS
REMEMBERED_SECONDS = 15.0


class PullState:
    """Reads and writes these facts."""

    def __init__(self, facts: HomeFacts) -> None:
        self._facts = facts
        self._read_at = float("-inf")
        self._read: int | None = None

    @property
    def cursor(self) -> str | None:
        return self._facts.get(CURSOR)

    def keep_cursor(self, cursor: str) -> None:
        self._facts.set(CURSOR, cursor)

    def full_pass_due(self, now: float) -> bool:
        """Whether the next pull is to begin at the beginning: daily, and when something asks."""
        at = _number(self._facts.get(FULL_AT))
        old = at is None or not 0 <= now - at < DAY_SECONDS  # a clock that was set back, too
        return old or self.cursor is None or self._facts.get(WANTED) is not None

    def want_full_pass(self, why: str) -> None:
        """Have the next pull read everything again."""
        self._facts.set(WANTED, why)

    def completed(self, now: float, *, full: bool) -> None:
        """A pull came to the end of the feed."""
        self._facts.set(PULLED_AT, str(int(now)))
        self._read, self._read_at = int(now), time.monotonic()
        if full:
            self._facts.set(FULL_AT, str(int(now)))
            self._facts.remove(WANTED)

    # -- how old what is known is -----------------------------------------------------------
    def last_complete(self) -> int | None:
        """When a pull last came to the end; None before the first. Read every 15 s at most."""
        now = time.monotonic()
        if now - self._read_at >= REMEMBERED_SECONDS:
            self._read, self._read_at = _number(self._facts.get(PULLED_AT)), now
        return self._read

    def is_stale(self, now: float) -> bool:
        """Whether the last complete pull is older than 24 h; a home that never pulled is not."""
        at = self.last_complete()
        return at is not None and abs(now - at) > STALE_SECONDS  # a clock that was set back, too

    # -- deletions --------------------------------------------------------------------------
    def deletions_taken(self, now: float) -> int:
        """How many of the server's deletions were carried out within the last 24 h."""
        return sum(count for _, count in self._recent(now))

    def note_deletions(self, now: float, count: int) -> None:
        self._facts.set(TAKEN, json.dumps([*self._recent(now), [int(now), count]]))

    def _recent(self, now: float) -> list[list[int]]:
        entries = json.loads(self._facts.get(TAKEN) or "[]")
        return [[at, count] for at, count in entries if abs(now - at) < DAY_SECONDS]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
