"""Whether an edit has been quiet long enough, by a clock that may have been set meanwhile."""

from __future__ import annotations

import time

from core.journal.scan_rows import ScanRows
from core.playbooks.folderstat import FolderStat

NANO = 1_000_000_000


class Quiet:
    """Ages of changes during one scan; `keep` remembers those that seem to lie in the future."""

    def __init__(self, rows: ScanRows, seconds: float, now_ns: int | None = None) -> None:
        self._rows = rows
        self._quiet_ns = int(seconds * NANO)
        self._now_ns = now_ns
        self._waiting = rows.waiting()
        self._still: dict[str, tuple[bytes, int]] = {}
        self._left_ns: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds until all that was too young will be quiet; None when nothing was."""
        return None if self._left_ns is None else self._left_ns / NANO

    def is_quiet(self, folder: str, seen: FolderStat) -> bool:
        """Whether nothing in ``folder`` (below ``playbooks/``) changed for the quiet time.

        A change after now is of a clock that was wrong: it is quiet once we have seen it unchanged
        for as long.
        """
        now = self._now_ns or time.time_ns()
        if seen.newest_ns <= now:
            return self._is_old_enough(now - seen.newest_ns)
        fingerprint, since = self._waiting.get(folder, (b"", now))
        if fingerprint != seen.fingerprint or since > now:
            since = now
        self._still[folder] = (seen.fingerprint, since)
        return self._is_old_enough(now - since)

    def is_quiet_since(self, changed_ns: int) -> bool:
        """Whether the quiet time has passed since ``changed_ns``; the future counts as now."""
        now = self._now_ns or time.time_ns()
        return changed_ns > now or self._is_old_enough(now - changed_ns)

    def keep(self) -> None:
        """Remember since when changes with a future time are as they are."""
        new = [
            (folder, *seen)
            for folder, seen in self._still.items()
            if self._waiting.get(folder) != seen
        ]
        self._rows.wait(new, done=set(self._waiting) - set(self._still))

    def _is_old_enough(self, age_ns: int) -> bool:
        left = self._quiet_ns - age_ns
        if left > 0:
            self._left_ns = max(left, self._left_ns or 0)
        return left <= 0
