"""``GET /api/agent/ws``: clients that answer searches and hear of changes.

::

    serve ─┬─ read    frames of the client, one at a time
           ├─ write   a bounded queue: nobody who sends waits for a slow client
           └─ watch   hello in time, a ping every 20 s, two pongs missed: the end

All links live in the event loop's thread; only `AgentLinks.notify` may be called from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from escher_server.agent_connection import REPLACED, TOO_BIG, TRY_LATER, Ending, Link
from escher_server.agent_frames import (
    MAX_FRAME_BYTES,
    PROTOCOL,
    ClientResult,
    Frame,
    FrameError,
    error_frame,
    read_frame,
    read_hello,
)
from escher_server.database import Database
from escher_server.problems import Problem, problem_response

router = APIRouter()
logger = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0
MAX_LINKS = 64  # of one tenant


class AgentLinks:
    """The connected clients by tenant; ``deadline_ms`` is what a search gives them."""

    def __init__(self, database: Database, deadline_ms: int) -> None:
        self._database = database
        self._deadline_ms = deadline_ms
        self._loop: asyncio.AbstractEventLoop | None = None
        self._links: defaultdict[str, dict[str, Link]] = defaultdict(dict)
        self._told: dict[str, int] = {}  # the change number up to which a tenant's clients know
        self._lock = threading.Lock()  # of _told and _loop

    def start(self) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        with self._lock:
            self._loop = None

    def count(self, tenant_id: str) -> int:
        """How many clients have said hello."""
        return len(self._links.get(tenant_id, ()))

    # -- for the routes ---------------------------------------------------------------------
    def notify(self, tenant_id: str) -> None:
        """Tell the tenant's clients what changed; to be called after the commit, by any thread.

        Every change number is told once, whichever call sees it first.
        """
        with self._lock:
            told = self._told.get(tenant_id)
            if told is None or self._loop is None:
                return  # nobody listens
            rows = (
                self._database.read()
                .execute(
                    "SELECT seq, playbook_id, version, revision FROM versions "
                    "WHERE tenant_id = ? AND seq > ? ORDER BY seq",
                    (tenant_id, told),
                )
                .fetchall()
            )
            if not rows:
                return
            self._told[tenant_id] = rows[-1]["seq"]
            notices = [
                {name: row[name] for name in ("playbook_id", "version", "revision")} for row in rows
            ]
            self._loop.call_soon_threadsafe(self._broadcast, tenant_id, notices)

    async def ask(
        self, tenant_id: str, query: str, filters: dict[str, list[str]], limit: int
    ) -> list[ClientResult]:
        """What the tenant's clients find; never later than the deadline, whatever they do.

        Who missed the last one is asked again, and not waited for until it has answered.
        """
        body = {
            "query": query,
            "filters": filters,
            "limit": limit,
            "deadline_ms": self._deadline_ms,
        }
        links = list(self._links.get(tenant_id, {}).values())
        answers = {link: link.ask(body, limit) for link in links}
        awaited = [answer for link, answer in answers.items() if not link.is_late]
        try:
            if awaited:
                await asyncio.wait(awaited, timeout=self._deadline_ms / 1000)
            done = [it for it in answers.values() if it.done() and not it.cancelled()]
            return [result for answer in done for result in answer.result()]
        finally:
            for link, answer in answers.items():
                link.is_late = not answer.done()
                answer.cancel()

    # -- a connection -----------------------------------------------------------------------
    async def serve(
        self, websocket: WebSocket, tenant_id: str, is_allowed: Callable[[], bool]
    ) -> None:
        """Talk to one client until either side has had enough, or its token is revoked."""
        link = Link(tenant_id, is_allowed)
        tasks = [
            asyncio.create_task(part)
            for part in (self._read(websocket, link), _write(websocket, link), link.watch())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._leave(link)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            end = None if task.cancelled() else task.exception()
            if isinstance(end, Ending):
                logger.info("agent link of %s closed: %s", tenant_id, end.reason)
                await _within(CLOSE_SECONDS, websocket.close(end.code, end.reason))
                return
            if end is not None and not isinstance(end, WebSocketDisconnect):
                raise end

    async def _read(self, websocket: WebSocket, link: Link) -> None:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text: str | None = message.get("text")
            if text is not None and len(text.encode()) > MAX_FRAME_BYTES:
                # the server under us refuses such a frame itself, if it is set up as `run` does
                raise Ending(TOO_BIG, f"a frame may have {MAX_FRAME_BYTES} bytes")
            try:
                self._take(link, read_frame(text))
            except FrameError as error:
                link.send(error_frame(error))

    def _take(self, link: Link, frame: Frame) -> None:
        match frame["type"]:
            case "ping":
                link.send({"type": "pong", "id": frame["id"]})
            case "pong":
                link.missed_pongs = 0
            case "hello":
                self._hello(link, frame)
            case "search.response" | "error":
                link.answered(frame)
            case _:
                pass  # of a newer protocol: ignored, as the contract says

    def _hello(self, link: Link, frame: Frame) -> None:
        if link.client_id is not None:
            raise FrameError("hello is said once.", frame["id"])
        hello = read_hello(frame)
        if hello.tenant_id != link.tenant_id:
            raise FrameError("hello: the token belongs to another tenant.", frame["id"])
        if hello.protocol != PROTOCOL:
            raise FrameError(f"hello: this server speaks protocol {PROTOCOL}.", frame["id"])
        links = self._links[link.tenant_id]
        earlier = links.pop(hello.client_id, None)
        if earlier is not None:  # what a laptop left behind when it fell asleep
            earlier.end(REPLACED, "the client has connected again")
        if len(links) >= MAX_LINKS:
            link.end(TRY_LATER, f"a tenant may have {MAX_LINKS} links")
            return
        link.client_id = hello.client_id
        links[hello.client_id] = link
        self._listen(link.tenant_id)
        link.greeted.set_result(None)
        link.send({"type": "welcome", "id": frame["id"], "protocol": PROTOCOL})

    def _listen(self, tenant_id: str) -> None:
        with self._lock:
            if tenant_id not in self._told:
                row = (
                    self._database.read()
                    .execute("SELECT last_seq FROM tenants WHERE tenant_id = ?", (tenant_id,))
                    .fetchone()
                )
                self._told[tenant_id] = row["last_seq"]

    def _leave(self, link: Link) -> None:
        link.close()
        links = self._links.get(link.tenant_id, {})
        if link.client_id is not None and links.get(link.client_id) is link:
            del links[link.client_id]
        if not links:
            self._links.pop(link.tenant_id, None)
            with self._lock:
                self._told.pop(link.tenant_id, None)

    def _broadcast(self, tenant_id: str, notices: list[Frame]) -> None:
        for link in list(self._links.get(tenant_id, {}).values()):
            for notice in notices:
                link.send({"type": "playbook.changed", "id": uuid.uuid4().hex, **notice})


async def _write(websocket: WebSocket, link: Link) -> None:
    while True:
        await websocket.send_text(await link.outgoing.get())


async def _within(seconds: float, closing: Coroutine[Any, Any, None]) -> None:
    """Close politely, unless the client is gone or reads no more."""
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, WebSocketDisconnected):
        await asyncio.wait_for(closing, seconds)


@router.websocket("/api/agent/ws")
async def agent_link(websocket: WebSocket, tenant_id: str = "") -> None:
    """The link of one client; a wrong token or tenant is refused before the handshake."""
    services = websocket.app.state.services
    try:
        peer = websocket.client.host if websocket.client is not None else None
        authorization = websocket.headers.get("authorization")
        caller = services.authenticator.caller(authorization, peer)
        caller.require_tenant(tenant_id)
    except Problem as problem:
        await websocket.send_denial_response(problem_response(problem))
        await asyncio.sleep(0)  # else uvicorn 0.54 logs a handshake that was not completed
        return
    services.counters.add(caller.tenant_id, requests=1)
    await websocket.accept()
    await services.links.serve(
        websocket,
        caller.tenant_id,
        is_allowed=lambda: services.authenticator.still_good(authorization),
    )
