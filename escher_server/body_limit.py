"""The door of every call: JSON bodies are bounded in size and depth, and say each thing once.

Object bodies have a cap of their own. A body that is no JSON is for the routes to refuse.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from escher_server.problems import Problem, problem_response

MAX_DEPTH = 33  # of a body, so 32 of the metadata inside it
_THREAD_BYTES = 64 * 1024  # larger bodies are read in a thread, so that nobody waits for them


class BodyLimitMiddleware:
    """Refuses bodies over ``max_bytes`` (413), nested too deeply or with a key twice (400)."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/objects/"):
            await self._app(scope, receive, send)
            return
        problem: Problem | None = None
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        messages: list[Message] = []
        if not announced.isdigit() or len(announced) > 18 or int(announced) > self._max_bytes:  # noqa: PLR2004  digits of 2**63
            problem = self._too_large()
        else:
            body, messages = await self._read(receive)
            if body is None:  # a chunked body announces no length
                problem = self._too_large()
            elif len(body) > _THREAD_BYTES:
                problem = await run_in_threadpool(_fault_of, body)
            elif body:
                problem = _fault_of(body)
        if problem is not None:
            await problem_response(problem)(scope, receive, send)
            return

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    async def _read(self, receive: Receive) -> tuple[bytes | None, list[Message]]:
        """The body (None: too large), and the messages it came in."""
        body = bytearray()
        messages: list[Message] = []
        while True:
            message = await receive()
            messages.append(message)
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                return None, []
            if message["type"] != "http.request" or not message.get("more_body", False):
                return bytes(body), messages

    def _too_large(self) -> Problem:
        return Problem(413, f"A JSON body may have {self._max_bytes} bytes here.")


class _Twice(ValueError):
    """A key stands twice in one object."""


def _fault_of(body: bytes) -> Problem | None:
    """What is wrong with a JSON body; None for a good one, and for what is no JSON at all."""
    try:
        value = json.loads(body, object_pairs_hook=_each_once)
    except _Twice:
        return Problem(400, "The JSON gives a key twice in one object.")
    except RecursionError:
        return Problem(400, f"The JSON is nested over {MAX_DEPTH} levels.")
    except ValueError:
        return None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return None
    if any(isinstance(value, dict | list) for value in level):
        return Problem(400, f"The JSON is nested over {MAX_DEPTH} levels.")
    return None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _inside(value: Any) -> list[Any]:
    """The containers that stand directly in ``value``, and the rest too."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
