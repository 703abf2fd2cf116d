"""One attempt for many who ask at once: its threads here, all other processes by the journal.

The first to ask makes the attempt, the others get what came of it: the answer, or the failure.
A failure is shared with those who waited for it and with nobody else: who asks later tries anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from core.errors import TransferInterrupted

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.2
GROWTH = 1.5


def pauses() -> Iterator[float]:
    """Seconds between looks at what another process is doing, from 20 ms to 200 ms."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * GROWTH, LONGEST_PAUSE_SECONDS)


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: T | None = None
        self.error: BaseException | None = None


class SingleFlight(Generic[K, T]):
    """Calls with the same key that overlap in this process are one call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[T]] = {}

    def run(self, key: K, call: Callable[[], T]) -> T:
        """What ``call`` answers, made by the first who asks for ``key``; the others wait for it."""
        with self._lock:
            flight = self._flights.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if is_first:
            return self._lead(key, flight, call)
        flight.over.wait()
        if flight.error is not None:
            raise _copy(flight.error)
        return flight.answer  # type: ignore[return-value]  # an answer of None is one too

    def _lead(self, key: K, flight: _Flight[T], call: Callable[[], T]) -> T:
        try:
            flight.answer = call()
            return flight.answer
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.over.set()


def _copy(error: BaseException) -> BaseException:
    """An exception of its own for each who waited: a traceback belongs to one thread."""
    if not isinstance(error, Exception):  # the first one was interrupted, not those who waited
        return TransferInterrupted("The attempt was interrupted.", "Ask again.")
    try:
        return type(error)(*error.args)
    except TypeError:  # one that can't be rebuilt from its arguments is shared as it is
        return error
