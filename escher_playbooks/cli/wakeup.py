"""Sleep that a signal or a child's end cuts short."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator


class Wakeup:
    """Calls ``on_stop`` for SIGTERM, SIGINT and SIGHUP while `listening`."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._fd: int | None = None

    def wait(self, seconds: float) -> None:
        """Sleep; while listening, a signal or a child's end wakes up at once."""
        if self._fd is None:
            time.sleep(seconds)  # the poll interval of a supervisor outside the main thread
            return
        readable, _, _ = select.select([self._fd], [], [], seconds)
        if readable:
            os.read(self._fd, 4096)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over, and give them back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        handlers: dict[signal.Signals, Callable[..., None]] = {
            signal.SIGTERM: lambda *_: self._on_stop(),
            signal.SIGINT: lambda *_: self._on_stop(),
            signal.SIGHUP: lambda *_: self._on_stop(),
            signal.SIGCHLD: lambda *_: None,  # ignored by default, and then it wakes nobody
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        old_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._fd = reading
        try:
            yield
        finally:
            self._fd = None
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)
