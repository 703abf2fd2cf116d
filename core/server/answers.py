"""The server's answers as ``contract/server.md`` has them; another shape is no Escher server.

Unknown members are ignored: a newer server may send more. Times are Unix seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from core.bounded_json import MAX_DEPTH, BadJson, read_items, read_object
from core.errors import NotEscherServer
from core.files import DIGEST_RE
from core.models import Status, Strategy
from core.server.problems import CHECK_URL

Checksum = Annotated[str, Field(pattern=DIGEST_RE.pattern)]
S3Path = Annotated[str, Field(pattern=r"^s3://[^\x00-\x1f]+$", max_length=2048)]
Member = Annotated[str | None, Field(max_length=200)]
MAX_NUMBER = 1 << 53  # above it, JSON's readers differ
Revision = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Moment = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
_NAMED_PROBLEMS = 3
_LEVELS_AROUND = 4  # of an answer around a metadata object


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
    """Where the bytes of one file go; ``needs_bytes`` is false where the server holds them."""

    path: str
    checksum: Checksum
    s3_path: S3Path
    url: str | None = None
    headers: dict[str, str] = {}
    parts: list[UploadPart] | None = None
    complete_url: str | None = None
    expires_at: int | None = None

    @property
    def needs_bytes(self) -> bool:
        return self.url is not None or self.complete_url is not None


class Announcement(Reply):
    """The answer to announcing files."""

    s3_base_path: S3Path
    targets: list[UploadTarget] = Field(validation_alias="uploads")

    def target(self, path: str) -> UploadTarget:
        return next(target for target in self.targets if target.path == path)

    @property
    def s3_paths(self) -> dict[str, str]:
        return {target.path: target.s3_path for target in self.targets}


class Published(Reply):
    """What the server made of a publication."""

    revision: Revision
    status: Status
    storage_strategy: Strategy
    published_at: int


class StatusSet(Reply):
    """The answer to setting a status."""

    revision: Revision
    status: Status
    storage_strategy: Strategy


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


class Changes(Reply):
    """A page of the changes feed; ``cursor`` is where the next one starts."""

    changes: list[Change]
    cursor: str
    more: bool


class ChangePage(Reply):
    """`Changes` with its items unread: one that is malformed is no reason to refuse the others.

    What is no JSON object within the limits is its `core.bounded_json.BadJson`.
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


class RemoteResult(Reply):
    playbook_id: str
    version: str
    source: Literal["tenant", "escher_library", "client"]
    score: float
    status: str
    warning: str | None = None


class RemoteResults(Reply):
    results: list[RemoteResult]


class ReferenceStats(Reply):
    """``{tenant id: {playbooks, versions, revisions, objects, bytes_received, …}}``."""

    tenants: dict[str, dict[str, int]]


R = TypeVar("R", bound=Reply)


def read_change_page(body: bytes, call: str) -> ChangePage:
    """A page of the feed, item by item; `NotEscherServer` where the page itself is at fault."""
    try:
        page, items = read_items(body, "changes")
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
