"""Errors as ``application/problem+json`` (RFC 9457): ``{type, title, status, detail}``.

``type`` is the stable name of an error of `core.errors`; ``remedy`` says what to do about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from core.errors import EscherError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MAX_COMPLAINTS = 10
_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "remedy": {"type": "string"},
        "retry_after": {"type": "number", "description": "seconds"},
        "versions": {
            "type": "array",
            "items": {"type": "object"},
            "description": "of not-runnable: each version with the reason",
        },
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A problem", "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
}


def problem_response(
    status: int,
    *,
    type_: str,
    title: str,
    detail: str,
    remedy: str = "",
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """One problem document; ``retry_after`` in seconds goes into the header too."""
    body: dict[str, Any] = {"type": type_, "title": title, "status": status, "detail": detail}
    body |= members or {}
    more = dict(headers or {})
    if remedy:
        body["remedy"] = remedy
    if retry_after is not None:
        body["retry_after"] = retry_after
        more["Retry-After"] = str(max(1, round(retry_after)))
    return Response(
        json.dumps(body).encode(), status_code=status, media_type=MEDIA_TYPE, headers=more
    )


def install(app: FastAPI) -> None:
    """Let every failure of ``app`` leave as a problem document."""
    app.add_exception_handler(EscherError, _escher)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def _escher(_request: Request, error: Exception) -> Response:
    if not isinstance(error, EscherError):  # registered for that class alone
        raise error
    return problem_response(
        error.http_status,
        type_=error.type,
        title=error.title,
        detail=error.detail,
        remedy=error.remedy,
        retry_after=error.retry_after,
        members=error.members,
    )


def _validation(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    complaints = []
    malformed = False
    for item in error.errors()[:MAX_COMPLAINTS]:
        malformed = malformed or item["type"] == "json_invalid"
        # where and why, never the value: it may be a script or a secret
        where = ".".join(str(part) for part in item["loc"])
        complaints.append(f"{where}: {item['msg']}")
    return problem_response(
        HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.UNPROCESSABLE_ENTITY,
        type_="UsageError",
        title="Wrong request",
        detail="; ".join(complaints),
        remedy="/docs shows what each request takes.",
    )


def _http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    return problem_response(
        error.status_code,
        type_=phrase.replace(" ", ""),
        title=phrase,
        detail=str(error.detail),
        headers=error.headers,
    )


def _unforeseen(request: Request, error: Exception) -> Response:
    # The exception's text may hold anything, so only its kind is answered and logged; where it
    # came from is in the traceback that uvicorn's logger gets.
    logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return problem_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        type_="Unforeseen",
        title="Unexpected error",
        detail=f"{type(error).__name__} in the service itself.",
        remedy="The API's log in <home>/run says where.",
    )
