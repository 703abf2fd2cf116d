"""A process' death, its network and its clock, for homes that share one Python process.

A home that dies makes no further change: from the n-th change on (a commit, a rename, a file that
is opened to be written, a request) every change raises `Died`, those of ``finally`` blocks too.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from core.errors import ServerUnreachable
from core.server.http import Http
from support.die_at_step import CHANGES, WRITE
from support.reference import SERVER_THREADS

_real_time, _real_time_ns = time.time, time.time_ns


class Died(BaseException):
    """Not an `Exception`: nobody may handle it."""


class Death:
    """Comes at the ``at``-th change of the armed home; there is one, as there is one process."""

    def __init__(self) -> None:
        self.at = 0
        self.seen = 0
        self.armed = False
        self._is_listening = False

    @contextmanager
    def after(self, changes: int) -> Iterator[None]:
        """Within, the change after ``changes`` others is not made any more; 0: all are."""
        self._listen()
        self.at, self.seen, self.armed = changes, 0, changes > 0
        try:
            yield
        finally:
            self.armed = False

    def step(self) -> None:
        """A change is about to be made."""
        if self.armed:
            self.seen += 1
            if self.seen >= self.at:
                raise Died

    def _listen(self) -> None:
        if not self._is_listening:  # an audit hook stays for good
            sys.addaudithook(self._heard)
            event.listen(Engine, "commit", lambda _connection: self.step())
            self._is_listening = True

    def _heard(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or (name not in CHANGES and name != "open"):
            return
        if name == "open" and not int(arguments[2] or 0) & WRITE:
            return
        if not is_server():
            self.step()


DEATH = Death()


def is_server() -> bool:
    """Whether this thread is the reference server's."""
    return threading.current_thread().name.startswith(SERVER_THREADS)


class Network:
    """A home's; ``good_calls`` go through (None: all), the next loses its answer or is lost."""

    def __init__(self) -> None:
        self.good_calls: int | None = None
        self.loses_an_answer = False

    def wrap(self, http: Http) -> None:
        """Let the requests of ``http`` go through here."""
        real = http.open
        vars(http)["open"] = lambda *args, **named: self._open(real, *args, **named)

    def _open(self, real: Callable[..., Any], *args: Any, **named: Any) -> Any:
        DEATH.step()
        if self.good_calls == 0 and not self.loses_an_answer:
            raise ServerUnreachable("The network is gone.", "It is tried again.")
        incoming = real(*args, **named)
        if self.good_calls == 0:
            self.loses_an_answer = False
            incoming.read()
            vars(incoming)["_response"].close()
            raise ServerUnreachable("The answer was lost.", "It is tried again.")
        if self.good_calls is not None:
            self.good_calls -= 1
        return incoming


class Clock:
    """What `time.time` tells a home: ``skew`` seconds from the server and the file system."""

    def __init__(self) -> None:
        self.skew = 0.0

    def __call__(self) -> float:
        return _real_time() + (0.0 if is_server() else self.skew)

    def ns(self) -> int:
        return _real_time_ns() + (0 if is_server() else int(self.skew * 1e9))


CLOCK = Clock()


def install_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all of ``core`` ask `CLOCK`, those that were told `time.time` at their definition too."""
    from core.publishing.publisher import Publisher
    from core.publishing.pull import Puller
    from core.scripts.cache import ScriptCache
    from core.scripts.downloads import ScriptDownloads
    from core.service.executions import Executions

    monkeypatch.setattr(time, "time", CLOCK)
    monkeypatch.setattr(time, "time_ns", CLOCK.ns)
    for made in (Executions, Publisher, Puller, ScriptCache, ScriptDownloads):
        defaults = made.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "clock", CLOCK)
