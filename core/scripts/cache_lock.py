"""The lock between those who use an entry and those who take it away.

A resolver holds it shared for the instant in which it marks an entry as used. Whoever evicts,
replaces or quarantines holds it exclusively while looking at that mark and renaming, so what was
marked in time stays. Order: first a write transaction of the journal, in it the room's lock
(`ScriptCacheRows.changing`), then this lock; never the other way round. The kernel releases it when
its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StorageError, storage_error
from core.files import make_private_dir

LOCK_SECONDS = 30.0
POLL_SECONDS = 0.001
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class CacheLock:
    """An advisory lock on a file; it holds between threads and between processes."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        """``check`` is asked before each exclusive hold; it refuses a cache of somebody else's."""
        self._check = check
        self._path = str(path)
        self._folder = path.parent

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Raises ``OSError`` as it comes where the lock's file can't be opened."""
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            self._take(fd, fcntl.LOCK_SH)
            yield
        finally:
            _give_back(fd)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """`StorageError` when it can't be had, `Refused` where the cache is not this home's."""
        self._check()
        if not self._folder.is_dir():
            make_private_dir(self._folder)
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            raise storage_error(error, f"Taking the lock {self._path}") from error
        try:
            self._take(fd, fcntl.LOCK_EX)
            yield
        finally:
            _give_back(fd)

    def _take(self, fd: int, kind: int) -> None:
        deadline = None
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + LOCK_SECONDS
                if now > deadline:
                    raise StorageError(
                        f"The cache's lock {self._path} was held for {LOCK_SECONDS:.0f} s.",
                        "A process that evicts hangs; `escher-playbooks status` shows what runs.",
                    ) from None
                time.sleep(POLL_SECONDS)
            else:
                return


def _give_back(fd: int) -> None:
    # a child forked meanwhile has a copy of the descriptor: closing ours alone would not release
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
