"""What an answer other than 2xx means: the table of ``contract/server.md`` as exceptions.

The server's words go into the error that the user sees, so they are cut, made one line without
control characters, and cleaned of the token and of URL queries, which hold signatures.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from core.bounded_json import BadJson, read_object
from core.errors import (
    Conflict,
    EscherError,
    FilesMissing,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    UrlExpired,
)
from core.terminal import one_line

MAX_WORDS = 500
MAX_NAMED_PATHS = 20
LONGEST_RETRY_AFTER = 86_400.0
CHECK_URL = "Check server_url: it must lead to an Escher server."
_TRANSIENT = frozenset({408, 425, 429})
_NEVER_THERE = frozenset({501, 505})  # not implemented: waiting does not help
_QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
_SIGNATURE = re.compile(r"((?:signature|token|credential)=)[^\s&\"'<>]+", re.IGNORECASE)


def clean_words(text: str, secret: str | None = None) -> str:
    """Words of a stranger, fit to be shown: at most 500 characters, no control, no secret."""
    text = text[: 8 * MAX_WORDS]
    if secret:
        text = text.replace(secret, "***")
    text = _SIGNATURE.sub(r"\1***", _QUERY.sub(r"\1", text))
    shown = one_line(" ".join(text.split()))
    return shown if len(shown) <= MAX_WORDS else shown[: MAX_WORDS - 1] + "…"


def read_problem(body: bytes) -> dict[str, Any] | None:
    """The members of a problem document; None when the body is no JSON object."""
    try:
        return read_object(body)
    except BadJson:
        return None


def retry_after(headers: Mapping[str, str], problem: Mapping[str, Any] | None) -> float | None:
    """Seconds the server asks to wait, from the header (seconds or a date) or the document."""
    value: Any = headers.get("Retry-After")
    if value is None and problem is not None:
        value = problem.get("retry_after")
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            seconds = email.utils.parsedate_to_datetime(str(value)).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None


def api_error(
    status: int, headers: Mapping[str, str], body: bytes, call: str, token: str | None
) -> EscherError:
    """The error of an API answer; ``call`` names method and URL without its query."""
    problem = read_problem(body)
    words = _words(problem, token)
    said = f"{call} answered {status}{': ' + words if words else '.'}"
    if _is_transient(status):
        wait = retry_after(headers, problem)
        return ServerBusy(said, "It is tried again later.", wait)
    if 300 <= status < 400:  # noqa: PLR2004 — the redirects of RFC 9110
        return NotEscherServer(f"{call} answered with a redirect ({status}).", CHECK_URL)
    if problem is None and status in {404, 405}:
        return NotEscherServer(
            f"{call} answered {status}, and not as the contract says.", CHECK_URL
        )
    match status:
        case 401:
            return ServerRejected(said, "Check server_token.")
        case 403:
            return ServerRejected(said, "Check tenant_id and the role of server_token.")
        case 409 | 412:
            server = (problem or {}).get("server")
            held = dict(server) if isinstance(server, dict) else None
            return Conflict(said, "`escher-playbooks conflicts` shows it.", server=held)
        case 424:
            return FilesMissing(said + _missing(problem), "They are uploaded again.")
        case _:
            return ServerRejected(said)


def storage_error(status: int, headers: Mapping[str, str], body: bytes, what: str) -> EscherError:
    """The error of an answer to a pre-signed URL.

    The storage's own words are left out: S3 repeats the signed request in some of them. A 400 is
    the caller's to judge, who can hash the bytes again; it comes out as a `ServerRejected`.
    """
    if _is_transient(status):
        wait = retry_after(headers, read_problem(body))
        return ServerBusy(f"The storage answered {status} to {what}.", "It is tried again.", wait)
    if 300 <= status < 400:  # noqa: PLR2004 — the redirects of RFC 9110
        return NotEscherServer(
            f"The storage redirects {what} elsewhere ({status}).", "Redirects are never followed."
        )
    match status:
        case 403:
            return UrlExpired(f"The URL for {what} has expired.", "A new one is asked for.")
        case 424:
            return FilesMissing(f"Parts of {what} have not arrived.", "They are sent again.")
        case _:
            return ServerRejected(f"The storage refused {what} with {status}.")


def _is_transient(status: int) -> bool:
    return status in _TRANSIENT or (status >= 500 and status not in _NEVER_THERE)  # noqa: PLR2004 — 5xx


def _words(problem: Mapping[str, Any] | None, token: str | None) -> str:
    if problem is None:
        return ""
    parts = [problem.get("title"), problem.get("detail")]
    return clean_words(": ".join(part for part in parts if isinstance(part, str) and part), token)


def _missing(problem: Mapping[str, Any] | None) -> str:
    paths = (problem or {}).get("missing")
    if not isinstance(paths, list) or not paths:
        return ""
    named = [clean_words(str(path)) for path in paths[:MAX_NAMED_PATHS]]
    more = len(paths) - len(named)
    return f" Missing: {', '.join(named)}{f' and {more} more' if more else ''}."
