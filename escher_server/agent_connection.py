"""One client's end of the agent link: what waits to be sent to it, what it was asked, when it ends."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

from escher_server.agent_frames import ClientResult, Frame, read_results

HELLO_SECONDS = 10.0
PING_SECONDS = 20.0
MISSED_PONGS = 2
MAX_WAITING_FRAMES = 1024  # a client that has not read so many is better off with a new link

# close codes of RFC 6455, and one of ours
GOING_AWAY, POLICY, TOO_BIG, TRY_LATER, REPLACED = 1001, 1008, 1009, 1013, 4000


class Ending(Exception):
    """Why a link is closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Link:
    """One client's connection, after its handshake."""

    def __init__(self, tenant_id: str, is_allowed: Callable[[], bool] = lambda: True) -> None:
        """``is_allowed`` is asked with each ping: whether the client's token is still good."""
        loop = asyncio.get_running_loop()
        self.tenant_id = tenant_id
        self._is_allowed = is_allowed
        self.client_id: str | None = None
        self.outgoing: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING_FRAMES)
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.missed_pongs = 0
        self.is_late = False  # it missed a deadline, and has answered nothing since
        self._ending: asyncio.Future[Ending] = loop.create_future()
        self._asked: dict[str, tuple[int, asyncio.Future[list[ClientResult]]]] = {}

    def send(self, frame: Frame) -> None:
        """Queue a frame; a full queue ends the link."""
        try:
            self.outgoing.put_nowait(json.dumps(frame, separators=(",", ":")))
        except asyncio.QueueFull:
            self.end(TRY_LATER, "too many frames wait for this client")

    def end(self, code: int, reason: str) -> None:
        """Have the link closed; the first reason counts."""
        if not self._ending.done():
            self._ending.set_result(Ending(code, reason))

    def ask(self, body: Frame, limit: int) -> asyncio.Future[list[ClientResult]]:
        """Send a ``search.request``; its results, cancelled when the link ends first."""
        frame_id = uuid.uuid4().hex
        answer: asyncio.Future[list[ClientResult]] = asyncio.get_running_loop().create_future()
        self._asked[frame_id] = (limit, answer)
        answer.add_done_callback(lambda _answer: self._asked.pop(frame_id, None))
        self.send({"type": "search.request", "id": frame_id, **body})
        return answer

    def answered(self, frame: Frame) -> None:
        """Take a ``search.response``, or the ``error`` in its place; a late one is dropped."""
        self.is_late = False
        limit, answer = self._asked.get(frame["id"], (0, None))
        if answer is None or answer.done():
            return
        results: list[ClientResult] = []
        try:
            if frame["type"] != "error":
                results = read_results(frame, limit)
        finally:  # a malformed answer is none: nobody waits for another
            answer.set_result(results)

    def close(self) -> None:
        for _limit, answer in list(self._asked.values()):
            answer.cancel()

    async def watch(self) -> None:
        """Raise the reason for which the link is to end, when there is one."""
        await self._wait(HELLO_SECONDS, self.greeted)
        if not self.greeted.done():
            self.end(POLICY, f"no hello within {HELLO_SECONDS:g} s")
        while True:
            await self._wait(PING_SECONDS)
            if self.missed_pongs >= MISSED_PONGS:
                self.end(GOING_AWAY, f"{MISSED_PONGS} pongs missed")
            if not self._is_allowed():
                self.end(POLICY, "the token was revoked")
            if self._ending.done():
                raise self._ending.result()
            self.missed_pongs += 1
            self.send({"type": "ping", "id": uuid.uuid4().hex})

    async def _wait(self, seconds: float, *others: asyncio.Future[Any]) -> None:
        """Until the link is to end, at most ``seconds``, or less when another is done."""
        await asyncio.wait(
            [self._ending, *others], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
