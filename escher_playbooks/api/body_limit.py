"""Limits on request bodies: of their bytes, counted as they arrive, and of the JSON in them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.bounded_json import MAX_DEPTH, BadJson, read_json
from escher_playbooks.api.problems import problem_response

MAX_BODY_DEPTH = MAX_DEPTH + 4  # of a body around a metadata object


class BodyLimit:
    """ASGI middleware: 413 for a body of more than ``max_bytes``."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            refusal = problem_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                type_="TooLarge",
                title="Body too large",
                detail=self._words,
                remedy="Raise max_script_size_mb, or fetch large data at run time.",
            )
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # FastAPI hands an HTTPException from reading the body on as it is
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._words)
            return message

        await self._app(scope, counted, send)

    @property
    def _words(self) -> str:
        return f"A request body may have {self._max_bytes} bytes (twice max_script_size_mb)."


class BoundedRequest(Request):
    """A request whose JSON is read within the limits: depth, no key twice, no NaN."""

    async def json(self) -> Any:
        """The body's value; 400 says what is wrong with it."""
        if not hasattr(self, "_json"):
            content = await self.body()
            try:
                self._json = read_json(content, depth=MAX_BODY_DEPTH, max_bytes=len(content))
            except BadJson as error:
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"The body {error.why}.") from None
        return self._json


class BoundedRoute(APIRoute):
    """A route whose handlers get `BoundedRequest`s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, behind the limits."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(BoundedRequest(request.scope, request.receive))

        return bounded
