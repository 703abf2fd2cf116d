"""Removes clear text of sensitive scripts when its time is over; a small program of its own.

    python -I -S reaper.py ROOT MAX_SECONDS

A command that resolved a sensitive playbook ends long before the lease does, so it leaves this
behind: standard library only, one a root (the others end at once), gone with the last lease. What
a lease folder is called stands here too::

    ROOT/.reaper                                         flock'ed by the reaper
    ROOT/<end>-<kind>-<16 hex>@<owner>/     end: Unix seconds; kind t or h; owner: its maker

``t``: handed out until its end, whoever made it lives or not. ``h``: held by its maker, and of no
use once that process is dead (see `core.scripts.clear_text`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

LOCK_NAME = ".reaper"
SCAN_SECONDS = 1.0
# A reaper that still holds the lock after this has looked at the folder since we were started.
YIELD_SECONDS = 3 * SCAN_SECONDS
# before 0.2.0 two more numbers stood in it; such a name says when it ends, too
_NAME = re.compile(r"(\d{1,12})-([th])-((?:\d{1,10}-\d{1,12}-)?[0-9a-f]{16})@([^/@]+)")


class LeaseName(NamedTuple):
    """The parts of a lease folder's name; times in Unix seconds."""

    ends_at: int
    kind: str
    token: str
    owner: str  # a `core.processes.Owner`

    @property
    def text(self) -> str:
        return f"{self.ends_at}-{self.kind}-{self.token}@{self.owner}"


def read_name(name: str) -> LeaseName | None:
    """The lease that a folder's name tells of; None for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    end, kind, token, owner = found.groups()
    return LeaseName(int(end), kind, token, owner)


def leases(root: str) -> list[LeaseName]:
    """The leases under ``root``, the first to end first; none when it is not there."""
    try:
        with os.scandir(root) as entries:
            found = [read_name(entry.name) for entry in entries]
    except FileNotFoundError:
        return []
    return sorted(lease for lease in found if lease is not None)


def remove(root: str, lease: LeaseName) -> None:
    """Remove one lease's folder; another process may be doing the same."""
    path = f"{root}/{lease.text}"
    # twice: of two that remove at once, each trips over what the other has taken away
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def reap(root: str, max_seconds: float) -> None:
    """Stay until every timed lease under ``root`` has ended, and remove each when it does.

    ``max_seconds`` bounds a lease's stay by our own clock: the wall clock can be set back.
    """
    first_seen: dict[str, float] = {}
    while True:
        timed = [lease for lease in leases(root) if lease.kind == "t"]
        if not timed:
            return
        for lease in timed:
            since = first_seen.setdefault(lease.text, time.monotonic())
            if lease.ends_at <= time.time() or time.monotonic() - since >= max_seconds:
                remove(root, lease)
        time.sleep(SCAN_SECONDS)


def main(root: str, max_seconds: float) -> int:
    """Be the root's reaper, unless there is one; the exit code."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        fd = os.open(f"{root}/{LOCK_NAME}", flags, 0o600)
    except FileNotFoundError:  # `down` was quicker
        return 0
    deadline = time.monotonic() + YIELD_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return 0
            time.sleep(SCAN_SECONDS / 4)
        else:
            reap(root, max_seconds)
            with contextlib.suppress(OSError):  # a new lease stands there, or `down` was quicker
                Path(root, LOCK_NAME).unlink()
                Path(root).rmdir()
            return 0


if __name__ == "__main__":
    if os.fork():  # who started us waits for this process only, and is left with no zombie
        os._exit(0)
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
