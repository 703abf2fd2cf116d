"""The shapes that everything else passes round: references, metadata, files, playbooks, outcomes.

Fields, names and rules are those of ``contract/playbook-files.md``. Versions are SemVer 2.0.0
(https://semver.org/spec/v2.0.0.html) without build metadata.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from semver import Version

from core.bounded_json import (
    MAX_DOCUMENT_BYTES,
    MAX_METADATA_BYTES,
    BadJson,
    read_object,
    read_stored_object,
)
from core.errors import InvalidPlaybook, UsageError
from core.secrets import SecretFinding

FORMATS = ("shell", "cloudformation", "arm", "terraform", "python")
CLOUDS = ("aws", "azure", "gcp")
AUTHORS = ("user_custom", "ai_generated", "escher_library")
METADATA_FILE = "metadata.json"
PARAMETERS_FILE = "parameters.json"
PLAN_FILE = "explain_plan.json"
ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,99}$"
RESERVED_PREFIX = "escher-"  # the Escher Library's
MAX_VERSION_LENGTH = 64  # a version is a folder's name
_ID_RE = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")

# What the server or time owns; an approval changes no digest.
SERVER_OWNED_FIELDS = frozenset({
    "status", "storage_strategy", "deprecated_by", "deprecation_reason", "created_at",
    "updated_at", "execution_count", "success_count", "last_executed",
})  # fmt: skip


class Strategy(StrEnum):
    LOCAL_ONLY = "local_only"
    REVIEW = "uploaded_for_review"
    TRUSTED = "uploaded_trusted"
    DEFAULT = "using_default"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Accept the long names and ``keep|review|trusted``."""
        short = {
            "keep": "local_only",
            "review": "uploaded_for_review",
            "trusted": "uploaded_trusted",
        }
        try:
            return cls(short.get(text, text))
        except ValueError as error:
            raise UsageError(
                f"Strategy {text!r} is unknown.",
                "Use local_only (keep), uploaded_for_review (review) or uploaded_trusted (trusted).",
            ) from error

    @property
    def is_uploaded(self) -> bool:
        return self in {Strategy.REVIEW, Strategy.TRUSTED}


class Status(StrEnum):
    DRAFT = "draft"
    READY = "ready"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    ARCHIVED = "archived"
    PENDING_REVIEW = "pending_review"
    APPROVED = "approved"
    REJECTED = "rejected"
    BROKEN = "broken"
    NEEDS_UPDATE = "needs_update"


class Area(StrEnum):
    """The folder under ``playbooks/`` in which a version stands."""

    LOCAL = "local"
    SYNCED = "synced"
    AI_GENERATED = "ai-generated"


class SyncState(StrEnum):
    LOCAL = "local"
    PENDING = "pending"
    PUBLISHED = "published"
    DEFERRED = "deferred"
    FAILED = "failed"
    CONFLICT = "conflict"


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version:
    """Parse ``text`` (``1.2.3`` or ``1.2.3-rc.1``); raise `InvalidPlaybook` for anything else."""
    remedy = "Use SemVer such as 1.0.0 or 2.1.0-rc.1, without build metadata."
    if len(text) > MAX_VERSION_LENGTH:
        raise InvalidPlaybook(f"Version of {len(text)} characters is too long.", remedy)
    try:
        version = Version.parse(text)
    except (ValueError, TypeError) as error:
        raise InvalidPlaybook(f"Version {text!r} is not SemVer 2.0.0.", remedy) from error
    if version.build is not None or not text.isascii():
        raise InvalidPlaybook(f"Version {text!r} has build metadata.", remedy)
    return version


def latest(versions: Iterable[str]) -> str | None:
    """The highest version by SemVer precedence, or None of none."""
    return max(versions, key=parse_version, default=None)


def sorted_versions(versions: Iterable[str]) -> list[str]:
    """Versions from the lowest to the highest precedence."""
    return sorted(versions, key=parse_version)


def is_higher(a: str, b: str) -> bool:
    """Whether ``a`` has a higher precedence than ``b``."""
    return parse_version(a) > parse_version(b)


def next_patch(version: str, taken: Iterable[str] = ()) -> str:
    """The next free patch version after ``version`` (``1.0.0-rc.1`` gives ``1.0.0``)."""
    used = set(taken)
    candidate = parse_version(version).next_version("patch")
    while str(candidate) in used:
        candidate = candidate.bump_patch()
    return str(candidate)


class Ref(NamedTuple):
    """One version of one playbook; written ``id@version``."""

    playbook_id: str
    version: str

    def __str__(self) -> str:
        return f"{self.playbook_id}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``id@version``, both checked."""
        playbook_id, at, version = text.partition("@")
        if not at:
            raise UsageError(f"{text!r} names no version.", "Write ID@VERSION.")
        try:
            check_id(playbook_id)
            parse_version(version)
        except InvalidPlaybook as error:  # of a request here, not of a playbook
            raise UsageError(error.detail, error.remedy) from error
        return cls(playbook_id, version)


class ScriptKey(NamedTuple):
    """One format of one version."""

    ref: Ref
    format: str

    def __str__(self) -> str:
        return f"{self.ref} {self.format}"

    @property
    def is_library(self) -> bool:
        """Whether it is the Escher Library's: the prefix is reserved for it."""
        return self.ref.playbook_id.startswith(RESERVED_PREFIX)


def check_id(playbook_id: str) -> str:
    """Return a well-formed id, else raise `InvalidPlaybook`."""
    if not _ID_RE.fullmatch(playbook_id):
        raise InvalidPlaybook(
            f"playbook_id {playbook_id[:120]!r} is not well-formed.",
            "Use 1-100 lower-case letters, digits and hyphens, beginning with a letter or digit.",
        )
    return playbook_id


ShortText = Annotated[str, Field(max_length=500)]
TextList = Annotated[list[ShortText], Field(max_length=50)]


class PlaybookMetadata(BaseModel):
    """``metadata.json``; unknown fields are kept as they are, ``null`` in a known one is its absence."""

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        known = cls.model_fields
        return {k: value for k, value in raw.items() if value is not None or k not in known}

    playbook_id: Annotated[str, Field(pattern=ID_PATTERN)]
    version: str
    name: Annotated[str, Field(min_length=3, max_length=200)]
    description: Annotated[str, Field(min_length=1, max_length=4000)]
    purpose: str | None = None
    use_cases: TextList = []
    keywords: TextList = []
    prerequisites: TextList = []
    cloud_provider: list[Literal["aws", "azure", "gcp"]]
    resource_types: list[ShortText] = []
    author: Literal["user_custom", "ai_generated", "escher_library"] = "user_custom"
    storage_strategy: Annotated[Strategy, Field(strict=False)] = Strategy.LOCAL_ONLY
    status: Annotated[Status, Field(strict=False)] = Status.READY
    entry_points: dict[str, str] | None = None
    tags: dict[str, Any] = {}
    estimated_impact: dict[str, Any] | None = None
    sensitive: bool = False
    based_on_escher: bool | str | None = None
    escher_playbook_id: str | None = None
    escher_version: str | None = None
    deprecated_by: str | None = None
    deprecation_reason: str | None = None
    created_at: Annotated[int, Field(ge=0)]
    updated_at: Annotated[int, Field(ge=0)]

    @property
    def ref(self) -> Ref:
        return Ref(self.playbook_id, self.version)

    def as_json(self) -> dict[str, Any]:
        """The fields that were set, in the form that is written to disk and sent."""
        return self.model_dump(mode="json", exclude_unset=True)


def parse_metadata(raw: Mapping[str, Any], where: str = METADATA_FILE) -> PlaybookMetadata:
    """Check ``raw`` against the contract; every broken rule is named in one error."""
    try:
        metadata = PlaybookMetadata.model_validate(dict(raw))
        parse_version(metadata.version)
        canonical_json(dict(raw))  # not as_json: that would write NaN as null
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg'].lower()}"
            for item in error.errors(include_url=False, include_input=False)[:8]
        )
        raise InvalidPlaybook(
            f"{where}: {problems}.", "See docs/file-structure.md for each field's rule."
        ) from error
    return metadata


def parse_json_object(content: bytes, where: str, *, stored: bool = False) -> dict[str, Any]:
    """Decode a JSON object in UTF-8 or say what is wrong with it and where.

    ``stored``: it is a version's that is kept already, perhaps since before the limits at the door.
    """
    try:
        if stored:
            return read_stored_object(content)
        limit = MAX_METADATA_BYTES if where.endswith(METADATA_FILE) else MAX_DOCUMENT_BYTES
        return read_object(content, max_bytes=limit)
    except BadJson as error:
        remedy = "Save it as a JSON object in UTF-8."
        raise InvalidPlaybook(f"{where} {error.why}.", remedy) from error


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes; a value that has none (a lone surrogate, 2^60) is an `InvalidPlaybook`."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise InvalidPlaybook(
            f"The metadata has no canonical JSON form: {error}.",
            "Use numbers below 2^53 and well-formed Unicode.",
        ) from error


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version: relative path, size in bytes, ``sha256:`` of its clear content.

    ``executable`` is part of a version's digest and of no comparison of bytes.
    """

    path: str
    size_bytes: int
    checksum: str
    executable: bool = field(default=False, compare=False)

    @property
    def format(self) -> str | None:
        """The format folder it stands in, None for ``parameters.json`` and the plan."""
        head, slash, _ = self.path.partition("/")
        return head if slash else None

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "size_bytes": self.size_bytes, "checksum": self.checksum}

    def as_row(self) -> list[Any]:
        """As a list, which its constructor takes again; only of an executable one it says so."""
        return [self.path, self.size_bytes, self.checksum, *([True] if self.executable else [])]


def file_entries(
    contents: Mapping[str, bytes], executable: Collection[str] = ()
) -> tuple[FileEntry, ...]:
    """The entries of ``{path: content}``; ``executable``: the paths that a version's digest marks."""
    return tuple(
        FileEntry(
            path,
            len(content),
            "sha256:" + hashlib.sha256(content).hexdigest(),
            path in executable,
        )
        for path, content in contents.items()
    )


def executables(files: Iterable[FileEntry]) -> set[str]:
    """The paths of the files that are executable, as the version's digest says."""
    return {file.path for file in files if file.executable}


def content_digest(metadata: Mapping[str, Any], files: Iterable[FileEntry]) -> str:
    """SHA-256 over the RFC 8785 form of ``{metadata, files}`` as the contract defines it."""
    document = {
        "metadata": {
            key: value for key, value in metadata.items() if key not in SERVER_OWNED_FIELDS
        },
        "files": sorted(
            [file.path, file.checksum, *(["x"] if file.executable else [])] for file in files
        ),
    }
    return "sha256:" + hashlib.sha256(canonical_json(document)).hexdigest()


@dataclass(frozen=True, slots=True)
class PlaybookDraft:
    """What a caller hands in: raw metadata, and ``{relative path: clear bytes}`` for all else.

    ``files`` holds the scripts and, where there are any, ``parameters.json`` and
    ``explain_plan.json``. ``executable`` are the paths with that mode; None: the source knows no
    modes. ``renamed`` and ``linked`` are paths that stand in the source under another Unicode form,
    and as a link to a file beside them.
    """

    metadata: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # names in the folder that are no part of a playbook
    asked: dict[str, Any] = field(default_factory=dict)  # what the file asked for in vain
    executable: frozenset[str] | None = None
    renamed: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()  # the formats whose entry point the rule has filled in


@dataclass(frozen=True, slots=True)
class SyncInfo:
    """Where a version stands towards the server."""

    state: SyncState = SyncState.LOCAL
    revision: int | None = None
    error: str | None = None
    next_attempt_at: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"state": self.state.value}


@dataclass(frozen=True, slots=True)
class Playbook:
    """A stored version: the contract's ``Playbook``."""

    metadata: PlaybookMetadata
    files: tuple[FileEntry, ...]
    content_digest: str
    area: Area
    sync: SyncInfo = SyncInfo()
    health: str = "ok"
    warnings: tuple[str, ...] = ()
    execution_count: int = 0
    success_count: int = 0
    last_executed: int | None = None
    findings: tuple[SecretFinding, ...] = ()  # of the scan for secrets; a list of many has none
    asked: Mapping[str, Any] = field(default_factory=dict)  # what its file asked for in vain

    @property
    def ref(self) -> Ref:
        return self.metadata.ref

    def as_json(self, *, with_files: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {
            "playbook_id": self.metadata.playbook_id,
            "version": self.metadata.version,
            "metadata": self.metadata.as_json(),
            "content_digest": self.content_digest,
            "sync": self.sync.as_json(),
            "health": self.health,
            "execution_count": self.execution_count,
            "success_count": self.success_count,
            "last_executed": self.last_executed,
            "area": self.area.value,
            "warnings": list(self.warnings),
            "asked": dict(self.asked),
        }
        if with_files:
            body["files"] = [
                {**file.as_json(), "executable": file.executable} for file in self.files
            ]
            body["findings"] = [finding.as_json() for finding in self.findings]
        return body


class OutcomeState(StrEnum):
    DONE = "done"  # this step is done, now or earlier
    SKIPPED = "skipped"  # nothing to do: deleted, or not meant for this step
    WAITING = "waiting"  # an earlier step is not done, or another worker holds the lease
    DEFERRED = "deferred"  # transient: next_attempt_at says when
    FAILED = "failed"  # permanent: error says why


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task did to one ref; holds no content and no secret."""

    state: OutcomeState
    error_type: str | None = None
    error: str | None = None
    next_attempt_at: int | None = None

    def as_json(self) -> dict[str, Any]:
        body = asdict(self) | {"state": self.state.value}
        return {key: value for key, value in body.items() if value is not None}


DONE = Outcome(OutcomeState.DONE)


@dataclass(frozen=True, slots=True)
class Move:
    """A version's way into another area, with the changes of its ``metadata.json``."""

    ref: Ref
    to_area: Area
    metadata: dict[str, Any] = field(default_factory=dict)
