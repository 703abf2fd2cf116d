"""Which versions' paths were handed out lately, so that a sync lets whoever runs them finish.

::

    <home>/run/leases/<id>@<version>          its mtime: when a path into its folder was last given
    <home>/run/leases/<id>@<version>.waits    its mtime: since when something waits for that

Who moves, restores or removes a version by itself (a sync, the settling of what was published) waits
until ``cache_lease_seconds`` after the last hand-out, and at most once so long, however often it is
handed out meanwhile. A command of the user does not wait. Nothing here touches the journal: a
resolve must stay cheap.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

from core.errors import LeaseHeld
from core.files import make_private_dir
from core.models import Ref
from core.settings import Settings

MARK_SECONDS = 1.0  # a process notes a version at most so often; the lease is much longer
REMEMBERED = 4096
_log = logging.getLogger(__name__)


class HandedOut:
    """Notes which versions' paths were handed out, and says who has to wait; shared by all processes of a home."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._folder = f"{settings.run_path}/leases"
        self._run_path = settings.run_path
        self._seconds = settings.cache_lease_seconds
        self._clock = clock
        self._marked: dict[Ref, float] = {}

    def note(self, ref: Ref) -> None:
        """Note that a path into the version's folder is given to somebody now."""
        now = self._clock()
        if 0 <= now - self._marked.get(ref, now - MARK_SECONDS) < MARK_SECONDS:
            return
        path = self._path(ref)
        try:
            try:
                os.utime(path, (now, now))
            except FileNotFoundError:
                make_private_dir(self._run_path / "leases")
                _touch(path, now)
        except OSError as error:  # a home that can't be written: nothing moves there either
            _log.debug("the hand-out of %s was not noted: %s", ref, error.strerror)
        if len(self._marked) >= REMEMBERED:
            self._marked.clear()
        self._marked[ref] = now

    def ago(self, ref: Ref) -> float | None:
        """Return the seconds since it was handed out, or None where that is beyond the lease."""
        used = _modified(self._path(ref))
        if used is None:
            return None
        ago = max(0.0, self._clock() - used)
        return ago if ago < self._seconds else None

    def must_wait(self, ref: Ref) -> bool:
        """Whether a sync has to leave the version as it stands for now."""
        waits = f"{self._path(ref)}.waits"
        if self.ago(ref) is None:
            self._forget(ref)
            return False
        now = self._clock()
        since = _modified(waits)
        # one of long ago belongs to an earlier change
        if since is None or not 0 <= now - since < 2 * self._seconds:
            since = now
            with suppress(OSError):
                _touch(waits, now)
        return now - since < self._seconds

    def check(self, ref: Ref) -> None:
        """Raise `LeaseHeld` where `must_wait`."""
        if self.must_wait(ref):
            raise LeaseHeld(
                f"{ref} was handed out to be run less than {self._seconds:.0f} s ago.",
                "It is left as it stands until then (cache_lease_seconds).",
            )

    def warning(self, ref: Ref) -> str | None:
        """Return what a command of the user says, which does not wait, or None."""
        ago = self.ago(ref)
        if ago is None:
            return None
        return f"{ref} was handed out to be run {ago:.0f} s ago: what runs may find it changed"

    def _path(self, ref: Ref) -> str:
        return f"{self._folder}/{ref.playbook_id}@{ref.version}"

    def _forget(self, ref: Ref) -> None:
        path = self._path(ref)
        for name in (path, f"{path}.waits"):
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108  text, as in `note`


def _touch(path: str, now: float) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    os.utime(path, (now, now))


def _modified(path: str) -> float | None:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return None
