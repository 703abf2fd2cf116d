"""One piece of work on many items, some at a time, each with an end of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def in_threads(
    work: Callable[[K], T], items: Sequence[K], threads: int
) -> dict[K, T | BaseException]:
    """``work`` on each item, ``threads`` at a time; what it gives or raises, by item."""

    def guarded(item: K) -> T | BaseException:
        try:
            return work(item)
        except Exception as error:  # noqa: BLE001 — any mistake is its item's, never its batch's
            return error

    if len(items) < 2 or threads < 2:  # noqa: PLR2004 — nothing to do at once
        return {item: guarded(item) for item in items}
    with ThreadPoolExecutor(min(threads, len(items)), "scripts") as pool:
        try:
            return dict(zip(items, pool.map(guarded, items), strict=True))
        except BaseException:  # this thread is interrupted: no more is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
