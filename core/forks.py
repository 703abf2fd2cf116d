"""Locks that survive a fork: what another thread of the parent held is free in the child."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class ForkLock:
    """A ``threading.Lock`` for ``with``, new in a forked child.

    Of all threads only the one that forks lives on there, so a lock of any other would be held for
    ever. What it guards must bear being left in the middle of a change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _of_this_process.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def start_anew(self) -> None:
        """Be free, whoever held it."""
        self._lock = threading.Lock()


_of_this_process: WeakSet[ForkLock] = WeakSet()


def _after_fork() -> None:
    for lock in _of_this_process:
        lock.start_anew()


os.register_at_fork(after_in_child=_after_fork)
