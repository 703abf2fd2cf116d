"""Carries out fault rules on the wire, as raw ASGI around the whole application.

Cutting a connection needs uvicorn's transport, which its ``receive`` callable belongs to; under
another server (or a test client) a `ConnectionResetError` stands in for it.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import re
import socket
import struct
from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from escher_server.faults import FaultPlan, FaultRule
from escher_server.problems import Problem, problem_response
from escher_server.services import EXPIRE_URLS

_EXEMPT = "/api/reference/"  # or a fault could never be lifted again
_CHECKSUM = re.compile(rb"sha256:[0-9a-f]{64}")
_BOMB_BYTES = 64 << 20
_LOGIN_PAGE = "<!doctype html><title>Sign in</title><h1>Please sign in to this network</h1>"


class FaultMiddleware:
    """Must be the outermost of the application's own middlewares."""

    def __init__(self, app: ASGIApp, plan: FaultPlan) -> None:
        self._app = app
        self._plan = plan
        self._actions: dict[str, Callable[[FaultRule, Scope, Receive, Send], Awaitable[None]]] = {
            "latency": self._latency,
            "stall": self._stall,
            "reset": self._reset,
            "status": self._status,
            "html": self._html,
            "expire_urls": self._expire_urls,
            "truncate_body": self._change_answer,
            "wrong_byte": self._change_answer,
            "longer_body": self._change_answer,
            "short_body": self._change_answer,
            "gzip_bomb": self._change_answer,
            "wrong_checksum": self._change_answer,
            "lose_answer_after_commit": self._lose_answer,
            "cut_request": self._cut_request,
            "corrupt_request": self._corrupt_request,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_EXEMPT):
            await self._app(scope, receive, send)
            return
        rule = self._plan.take(scope["method"], scope["path"])
        if rule is None:
            await self._app(scope, receive, send)
            return
        await self._actions[rule.action](rule, scope, receive, send)

    async def _latency(self, rule: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(rule.latency_seconds)
        await self._app(scope, receive, send)

    async def _stall(self, rule: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        if rule.at is not None:  # the answer begins, and falls silent
            start, body = await self._answer(scope, receive)
            await send(start)
            begun = body[: rule.at]
            await send({"type": "http.response.body", "body": begun, "more_body": True})
        try:
            await asyncio.wait_for(_client_gone(receive), rule.latency_seconds)
        except TimeoutError:
            await _drop(receive, reset=True)

    async def _reset(self, _rule: FaultRule, _scope: Scope, receive: Receive, _send: Send) -> None:
        await _drop(receive, reset=True)

    async def _status(self, rule: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        problem = Problem(rule.status, "A fault was asked for.", retry_after=rule.retry_after)
        await problem_response(problem)(scope, receive, send)

    async def _html(self, _rule: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        await HTMLResponse(_LOGIN_PAGE)(scope, receive, send)

    async def _expire_urls(
        self, _rule: FaultRule, scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope[EXPIRE_URLS] = True
        await self._app(scope, receive, send)

    async def _change_answer(
        self, rule: FaultRule, scope: Scope, receive: Receive, send: Send
    ) -> None:
        start, body = await self._answer(scope, receive)
        headers = MutableHeaders(raw=start["headers"])
        if rule.action == "truncate_body":
            await send(start)
            cut = _offset(rule, len(body))
            await send({"type": "http.response.body", "body": body[:cut], "more_body": True})
            await _drop(receive, reset=False)
            return
        if rule.action == "wrong_byte":
            body = _flip(body, _offset(rule, len(body)))
        elif rule.action == "wrong_checksum":
            body = _CHECKSUM.sub(lambda found: b"sha256:" + found[0][:6:-1], body)
        elif rule.action == "short_body":
            body = body[: _offset(rule, len(body))]
        elif rule.action == "gzip_bomb":
            body = _gzip_bomb()
            headers["content-encoding"] = "gzip"
        else:
            body += bytes(rule.extra_bytes)
        headers["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def _lose_answer(
        self, _rule: FaultRule, scope: Scope, receive: Receive, _send: Send
    ) -> None:
        await self._answer(scope, receive)
        await _drop(receive, reset=True)

    async def _cut_request(
        self, rule: FaultRule, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The connection dies while the body comes in; the application sees it leave."""
        left = _offset(rule, _content_length(scope))

        async def cut() -> Message:
            nonlocal left
            if left <= 0:
                await _drop(receive, reset=True)
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.request":
                message = {**message, "body": message.get("body", b"")[:left], "more_body": True}
                left -= len(message["body"])
            return message

        await self._app(scope, cut, send)

    async def _corrupt_request(
        self, rule: FaultRule, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """One byte of the body changes on its way in."""
        position = _offset(rule, _content_length(scope))
        seen = 0

        async def corrupt() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                body = message.get("body", b"")
                if seen <= position < seen + len(body):
                    message = {**message, "body": _flip(body, position - seen)}
                seen += len(body)
            return message

        await self._app(scope, corrupt, send)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
        """Let the application do its work, and keep its whole answer."""
        start: Message = {}
        body = bytearray()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(scope, receive, keep)
        return start, bytes(body)


@functools.cache
def _gzip_bomb() -> bytes:
    """64 KiB that unpack to 64 MiB of zeros."""
    return gzip.compress(bytes(_BOMB_BYTES), mtime=0)


def _offset(rule: FaultRule, length: int) -> int:
    return length // 2 if rule.at is None else min(rule.at, length)


def _flip(body: bytes, position: int) -> bytes:
    if position >= len(body):
        return body
    return body[:position] + bytes([body[position] ^ 0xFF]) + body[position + 1 :]


def _content_length(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _drop(receive: Receive, *, reset: bool) -> None:
    """Close the connection: at once with a TCP reset, or after what was sent so far."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.Transport):
        raise ConnectionResetError("a fault cut this connection")
    if reset:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # linger of zero seconds: close() sends RST and drops what is unsent
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    await _client_gone(receive)
