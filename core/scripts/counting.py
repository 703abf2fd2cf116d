"""Hits and misses, gathered in memory and added to the journal now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from core.errors import EscherError
from core.journal.counters import Counters

# Each flush is a commit: it waits for the disk, and ends what all processes remember of the journal
# (`core.journal.script_rows`).
FLUSH_SECONDS = 5.0

log = logging.getLogger(__name__)


class Tally:
    """Counts for all threads of a process; what is lost with a killed one is a few seconds' worth."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pending: Counter[str] = Counter()
        self._flushed_at = time.monotonic()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count one; every few seconds this writes to the journal, and never waits for it."""
        with self._lock:
            self._pending[name] += 1
            due = time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if due:
            self.flush()

    def flush(self, *, wait: bool = False) -> None:
        """Add what was counted to the journal; kept for later while the journal is busy.

        ``wait``: there is no later, so a writer is waited for.
        """
        with self._lock:
            pending, self._pending = self._pending, Counter()
            self._flushed_at = time.monotonic()
        if not pending:
            return
        try:
            added = True
            if wait:
                self._counters.add_all(pending)
            else:
                added = self._counters.add_now(pending)
        except EscherError as error:
            log.debug("the cache's counters were not written: %s", error.detail)
            added = False
        if not added:
            with self._lock:
                self._pending.update(pending)
