"""Read the server's answers as ``contract/server.md`` has them: its replies, and its errors.

Another shape is no Escher server. Unknown members are ignored: a newer server may send more. Times are
Unix seconds, sizes bytes. The server's words go into the error that the user sees, so they are cut, made
one line without control characters, and cleaned of the token and of URL queries, which hold signatures.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from core.bounded_json import MAX_DEPTH, BadJson, read_items, read_object
from core.errors import (
    Conflict,
    EscherError,
    FilesMissing,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    UrlExpired,
)
from core.files import DIGEST_RE
from core.models import Status, Strategy
from core.terminal import one_line

MAX_WORDS = 500
MAX_NAMED_PATHS = 20
LONGEST_RETRY_AFTER = 86_400.0
CHECK_URL = "Check server_url: it must lead to an Escher server."
_TRANSIENT = frozenset({408, 425, 429})
_NEVER_THERE = frozenset({501, 505})  # not implemented: waiting does not help
_QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
_SIGNATURE = re.compile(r"((?:signature|token|credential)=)[^\s&\"'<>]+", re.IGNORECASE)

Checksum = Annotated[str, Field(pattern=DIGEST_RE.pattern)]
S3Path = Annotated[str, Field(pattern=r"^s3://[^\x00-\x1f]+$", max_length=2048)]
Member = Annotated[str | None, Field(max_length=200)]
MAX_NUMBER = 1 << 53  # above it, JSON's readers differ
Revision = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Moment = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
_NAMED_PROBLEMS = 3
_LEVELS_AROUND = 4  # of an answer around a metadata object
_LEVELS_OF_CHANGE = 1  # of an item of the feed around its metadata


class Reply(BaseModel):
    """Strict, so that ``"5"`` is no revision."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class UploadPart(Reply):
    """A slice of a large file that the server has not received yet."""

    number: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=1)]
    url: str


class UploadTarget(Reply):
    """Where the bytes of one file go; neither URL where the server holds them."""

    path: str
    checksum: Checksum
    s3_path: S3Path
    url: str | None = None
    headers: dict[str, str] = {}
    parts: list[UploadPart] | None = None
    complete_url: str | None = None
    expires_at: int | None = None


class Announcement(Reply):
    """The answer to announcing files."""

    s3_base_path: S3Path
    targets: list[UploadTarget] = Field(validation_alias="uploads")

    def target(self, path: str) -> UploadTarget:
        return next(target for target in self.targets if target.path == path)

    @property
    def s3_paths(self) -> dict[str, str]:
        return {target.path: target.s3_path for target in self.targets}


class StatusSet(Reply):
    """The answer to setting a status."""

    revision: Revision
    status: Status
    storage_strategy: Strategy


class Published(StatusSet):
    """What the server made of a publication."""

    published_at: int


class Deleted(Reply):
    """The answer to a deletion; a server may say nothing more than 2xx."""

    revision: Revision | None = None


class StatsCounted(Reply):
    """The answer to reported executions: the version's totals, where the server tells them."""

    execution_count: Annotated[int, Field(ge=0)] | None = None
    success_count: Annotated[int, Field(ge=0)] | None = None
    last_executed: Annotated[int, Field(ge=0)] | None = None


class RemoteFile(Reply):
    path: str
    size_bytes: Annotated[int, Field(ge=0, le=MAX_NUMBER)]
    checksum: Checksum
    s3_path: S3Path
    executable: bool = False


class Change(Reply):
    """One version in the changes feed; a deleted one has neither metadata nor files.

    ``content_digest`` of a deleted one is that of what was deleted. ``published_by`` names the
    member whose token published it; None where the server does not know, or does not tell.
    """

    playbook_id: str
    version: str
    revision: Revision
    content_digest: Checksum
    status: Status
    storage_strategy: Strategy
    deleted: bool
    updated_at: Moment
    published_by: Member = None
    metadata: dict[str, Any] | None = None
    files: list[RemoteFile] = []


class ChangePage(Reply):
    """A page of the changes feed, its items unread: a malformed one is no reason to refuse the others.

    What is no JSON object within the limits is its `core.bounded_json.BadJson`. ``cursor`` is where
    the next page starts.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    changes: list[dict[str, Any] | BadJson]
    cursor: str
    more: bool


class ScriptFile(Reply):
    path: str
    url: Annotated[str, Field(repr=False)]  # its query is a permission
    checksum: Checksum
    size_bytes: Annotated[int, Field(ge=0)]
    expires_at: int
    executable: bool = False


class ManifestEntry(NamedTuple):
    """A file as the content digest lists it."""

    path: str
    checksum: str
    executable: bool


def _manifest(told: Any) -> Any:
    """``[[path, checksum, "x"?], …]`` as entries; another shape is refused whole."""
    if told is None:
        return None
    if not isinstance(told, list):
        raise ValueError("no list")  # noqa: TRY004  pydantic passes a TypeError on
    entries = []
    for entry in told:
        match entry:
            case [str(path), str(checksum)]:
                entries.append(ManifestEntry(path, checksum, executable=False))
            case [str(path), str(checksum), "x"]:
                entries.append(ManifestEntry(path, checksum, executable=True))
            case _:
                raise ValueError("an entry is not [path, checksum] or [path, checksum, 'x']")
        if not DIGEST_RE.fullmatch(entries[-1].checksum):
            raise ValueError("a checksum is malformed")
    if len({entry.path for entry in entries}) != len(entries):
        raise ValueError("a path is listed twice")
    return entries


class Script(Reply):
    """Files of a version with their pre-signed GETs; format and entry point where it is one format.

    The last five tell of the whole version, as the changes feed does, so that its digest can be
    computed before a byte is taken; each is None from a server of before they were told. A server
    that tells no status gives no right to run what it hands out.
    """

    playbook_id: str
    version: str
    format: str | None = None
    files: list[ScriptFile]
    entry_point: str | None = None
    status: Status | None = None
    published_by: Member = None
    content_digest: Checksum | None = None
    metadata: dict[str, Any] | None = None
    manifest: Annotated[list[ManifestEntry], BeforeValidator(_manifest)] | None = None


class ReferenceStats(Reply):
    """``{tenant id: {playbooks, versions, revisions, objects, bytes_received, …}}``."""

    tenants: dict[str, dict[str, int]]


R = TypeVar("R", bound=Reply)


def read_change_page(body: bytes, call: str) -> ChangePage:
    """Read a page of the feed, item by item; `NotEscherServer` where the page itself is at fault."""
    try:
        page, items = read_items(body, "changes", depth=MAX_DEPTH + _LEVELS_OF_CHANGE)
    except BadJson as error:
        raise NotEscherServer(
            f"{call} answered, and not as the contract says: it {error.why}.", CHECK_URL
        ) from None
    cursor, more = page.get("cursor"), page.get("more")
    if not isinstance(cursor, str) or not isinstance(more, bool):
        raise NotEscherServer(
            f"{call} answered, and not as the contract says (cursor, more).", CHECK_URL
        )
    read = [
        item if isinstance(item, dict | BadJson) else BadJson("is not a JSON object")
        for item in items
    ]
    return ChangePage.model_construct(changes=read, cursor=cursor, more=more)


def read_reply(kind: type[R], body: bytes, call: str) -> R:
    """Check ``body`` against ``kind``; `NotEscherServer` names the members that are wrong."""
    if not body.lstrip().startswith(b"{"):
        raise NotEscherServer(f"{call} answered something that is not a JSON object.", CHECK_URL)
    problems: list[str] = []
    try:
        read_object(body, depth=MAX_DEPTH + _LEVELS_AROUND, max_bytes=len(body))
    except BadJson as error:
        raise NotEscherServer(f"{call} answered something that {error.why}.", CHECK_URL) from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'answer'}: {item['type']}"
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    more = "" if len(problems) <= _NAMED_PROBLEMS else ", …"
    named = ", ".join(problems[:_NAMED_PROBLEMS])
    raise NotEscherServer(
        f"{call} answered, and not as the contract says ({named}{more}).", CHECK_URL
    )


# -- errors ----------------------------------------------------------------------------------
def clean_words(text: str, secret: str | None = None) -> str:
    """Make a stranger's words fit to be shown: at most 500 characters, no control, no secret."""
    text = text[: 8 * MAX_WORDS]
    if secret:
        text = text.replace(secret, "***")
    text = _SIGNATURE.sub(r"\1***", _QUERY.sub(r"\1", text))
    shown = one_line(" ".join(text.split()))
    return shown if len(shown) <= MAX_WORDS else shown[: MAX_WORDS - 1] + "…"


def read_problem(body: bytes) -> dict[str, Any] | None:
    """Read the members of a problem document; None when the body is no JSON object."""
    try:
        return read_object(body, depth=MAX_DEPTH + _LEVELS_AROUND)
    except BadJson:
        return None


def retry_after(headers: Mapping[str, str], problem: Mapping[str, Any] | None) -> float | None:
    """Read how many seconds the server asks to wait, from the header (seconds or a date) or the document."""
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
    """Make the error of an API answer; ``call`` names method and URL without its query."""
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
    """Make the error of an answer to a pre-signed URL.

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
