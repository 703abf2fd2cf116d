"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

PROBLEM_TYPE = "urn:escher:problem:"


class Problem(Exception):
    """A request refused: ``status``, words for people, and members of the answer's body.

    ``retry_after`` (seconds) says that the same request may succeed later.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after: int | None = None, **members: Any
    ) -> None:
        super().__init__(status, detail, retry_after)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.members = members


def problem_response(problem: Problem) -> JSONResponse:
    """The HTTP answer of a problem."""
    title = HTTPStatus(problem.status).phrase
    body = {
        "type": PROBLEM_TYPE + title.lower().replace(" ", "-"),
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    headers = {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after is not None:
        body["retry_after"] = problem.retry_after
        headers["Retry-After"] = str(problem.retry_after)
    return JSONResponse(
        body, problem.status, headers=headers, media_type="application/problem+json"
    )


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = problem_response(Problem(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    return response


async def _bad_body(_request: Request, error: Exception) -> JSONResponse:
    """Name the fields that are wrong; never repeat their values, which may be private."""
    assert isinstance(error, RequestValidationError)
    wrong = [
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
        for item in error.errors()[:10]
    ]
    return problem_response(Problem(400, "; ".join(wrong)))


async def _crashed(_request: Request, _error: Exception) -> JSONResponse:
    return problem_response(Problem(500, "The server failed; its log says why.", retry_after=5))


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem document."""
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_body)
    app.add_exception_handler(Exception, _crashed)
