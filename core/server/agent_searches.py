"""Searches for the agent link: in threads, a few at once, each answered within its deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from core.errors import EscherError, UsageError
from core.server import agent_frames as frames
from core.server.agent_frames import Frame, SearchRequest

AT_ONCE = 4
WAY_BACK = 0.1  # of the time, for the answer to travel
Search = Callable[[str, Mapping[str, Any], int], Sequence[Mapping[str, Any]]]
_log = logging.getLogger(__name__)


class Searches:
    """Runs ``search(query, filters, limit)``; belongs to one event loop."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="agent-search")
        self._running = 0

    @property
    def are_full(self) -> bool:
        """Whether every thread searches, some perhaps for nobody any more."""
        return self._running >= AT_ONCE

    def begin(self, request: SearchRequest) -> Coroutine[Any, Any, Frame]:
        """Take a thread now; to be awaited: the results, else an ``error``, both in time."""
        search = asyncio.get_running_loop().run_in_executor(
            self._pool, self._search, request.query, request.filters, request.limit
        )
        self._running += 1
        search.add_done_callback(self._ended)
        return self._reply(request, search)

    async def _reply(self, request: SearchRequest, search: asyncio.Future[Any]) -> Frame:
        seconds = request.deadline_ms / 1000 * (1 - WAY_BACK)
        try:
            # shielded, since a thread can't be cancelled: it counts until it has ended
            results = await asyncio.wait_for(asyncio.shield(search), seconds)
            return frames.response(request.id, results, request.limit)
        except EscherError as error:
            return frames.failure(request.id, error)
        except TimeoutError:
            return frames.failure(request.id, UsageError("Not found within deadline_ms."))
        except Exception as error:  # noqa: BLE001  the link outlives a search that fails
            _log.warning("a search of the agent failed: %s", type(error).__name__)
            return frames.failure(request.id, EscherError("The search failed."))

    def close(self) -> None:
        """Take no more; what is under way ends by itself, and nobody waits for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, search: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not search.cancelled():
            search.exception()  # of one that came too late: looked at, so nobody complains
