"""Caps JSON bodies, so that no caller can fill the memory. Object bodies have their own cap."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from escher_server.problems import Problem, problem_response


class BodyLimitMiddleware:
    """Refuses (413) bodies over ``max_bytes`` on everything but the object routes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/objects/"):
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._max_bytes:
            problem = Problem(413, f"A JSON body may have {self._max_bytes} bytes here.")
            await problem_response(problem)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:  # a chunked body announces no length
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)
