"""What the server asks of a published playbook (``contract/playbook-files.md``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.types import StrictBool, StrictInt
from semver import Version

from core.errors import UnsafePath
from core.files import check_relative_path
from core.limits import METADATA_BYTES
from escher_server.problems import Problem

LIBRARY_PREFIX = "escher-"
CANDIDATES = frozenset({"approved", "active"})  # statuses that may be "latest"
FORMATS = ("shell", "cloudformation", "arm", "terraform", "python")
SERVER_OWNED = frozenset(
    {
        "status",
        "storage_strategy",
        "deprecated_by",
        "deprecation_reason",
        "created_at",
        "updated_at",
        "execution_count",
        "success_count",
        "last_executed",
    }
)
_MAX_VERSION_CHARS = 64
_MAX_LIST = 50

Status = Literal[
    "draft", "ready", "active", "deprecated", "archived",
    "pending_review", "approved", "rejected", "broken", "needs_update",
]  # fmt: skip


@lru_cache(maxsize=4096)
def precedence(version: str) -> Version:
    """A SemVer 2.0.0 version without build metadata, ordered by precedence; else ValueError."""
    if len(version) > _MAX_VERSION_CHARS or not version.isascii():
        raise ValueError("longer than 64 characters, or not ASCII")
    parsed = Version.parse(version)
    if parsed.build is not None:
        raise ValueError("has build metadata")
    return parsed


def latest(versions: Iterable[str]) -> str | None:
    """The highest by precedence; a pre-release only where there is no release."""
    return max(
        versions,
        key=lambda version: (precedence(version).prerelease is None, precedence(version)),
        default=None,
    )


def has_format(paths: Iterable[str], format_: str) -> bool:
    """Whether one of the paths is of the format; every version has ``""``."""
    return not format_ or any(path.startswith(f"{format_}/") for path in paths)


def _check_version(version: str) -> str:
    precedence(version)
    return version


def _check_path(path: str) -> str:
    try:
        return check_relative_path(path)
    except UnsafePath as error:
        raise ValueError(error.detail) from error


def _at_most_fifty(values: list[str] | None) -> list[str] | None:
    if values is not None and len(values) > _MAX_LIST:
        raise ValueError(f"more than {_MAX_LIST} entries")
    return values


PlaybookId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
PlaybookVersion = Annotated[str, AfterValidator(_check_version)]
RelativePath = Annotated[str, AfterValidator(_check_path)]
Checksum = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_Words = Annotated[list[str] | None, AfterValidator(_at_most_fifty)]


class _Metadata(BaseModel):
    """The known fields; unknown ones are kept as they are."""

    model_config = ConfigDict(extra="allow")

    playbook_id: PlaybookId
    version: PlaybookVersion
    name: Annotated[str, StringConstraints(min_length=3, max_length=200)]
    description: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    purpose: str | None = None
    use_cases: _Words = None
    keywords: _Words = None
    prerequisites: _Words = None
    cloud_provider: list[Literal["aws", "azure", "gcp"]] | None = None
    resource_types: list[str] | None = None
    author: Literal["user_custom", "ai_generated", "escher_library"] | None = None
    storage_strategy: Literal["uploaded_for_review", "uploaded_trusted"]
    status: Status | None = None
    entry_points: dict[str, RelativePath] | None = None
    tags: dict[str, Any] | None = None
    estimated_impact: dict[str, Any] | None = None
    sensitive: StrictBool | None = None
    created_at: StrictInt | None = None
    updated_at: StrictInt | None = None


def check_metadata(metadata: Mapping[str, Any], playbook_id: str, version: str) -> None:
    """Refuse metadata that breaks a rule (400) or may not be on a server at all (403)."""
    if metadata.get("sensitive"):
        raise Problem(403, "A sensitive playbook can't be uploaded.")
    if metadata.get("storage_strategy") in {"local_only", "using_default"}:
        raise Problem(403, f"A {metadata['storage_strategy']} playbook is not for publishing.")
    size = len(
        json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    )
    if size > METADATA_BYTES:
        raise Problem(413, f"metadata has {size} bytes; at most {METADATA_BYTES} are taken here.")
    try:
        known = _Metadata.model_validate(metadata)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)[:10]
        ]
        raise Problem(400, "metadata: " + "; ".join(wrong)) from error
    if (known.playbook_id, known.version) != (playbook_id, version):
        raise Problem(400, "metadata names another playbook_id or version than the request.")


def check_own_id(playbook_id: str) -> None:
    """Refuse (403) an id that is reserved for the Escher Library."""
    if playbook_id.startswith(LIBRARY_PREFIX):
        raise Problem(403, f"Ids beginning with {LIBRARY_PREFIX} belong to the Escher Library.")


class StoredFile(NamedTuple):
    """A file of a version."""

    path: str
    checksum: str
    size_bytes: int
    executable: bool = False

    @property
    def entry(self) -> list[str]:
        """As it stands in the content digest and in a manifest: ``[path, checksum, "x"?]``."""
        return [self.path, self.checksum, *(["x"] if self.executable else [])]


def content_digest(metadata: Mapping[str, Any], files: Iterable[StoredFile]) -> str:
    """The digest of a version: its metadata without what the server owns, and its files.

    400 when the metadata has no RFC 8785 form.
    """
    document: dict[str, Any] = {
        "metadata": {key: value for key, value in metadata.items() if key not in SERVER_OWNED},
        "files": sorted(file.entry for file in files),
    }
    try:
        canonical = rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise Problem(400, "metadata holds a number or text that RFC 8785 can't write.") from error
    return "sha256:" + hashlib.sha256(canonical).hexdigest()
