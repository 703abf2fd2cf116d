"""The shapes of requests; those of answers come from the models' own ``as_json``."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from core.errors import InvalidPlaybook
from core.files import json_bytes
from core.limits import FILES
from core.models import PARAMETERS_FILE, PLAN_FILE, PlaybookDraft
from core.service.executions import MAX_INTEGER

MAX_SCRIPTS = FILES
MAX_REFS = 10_000
RefText = Annotated[str, Field(min_length=1, max_length=170)]
StrategyText = Literal[
    "local_only", "uploaded_for_review", "uploaded_trusted", "keep", "review", "trusted"
]


class _Request(BaseModel):
    """A request: a field that is not known is refused, so a typing error can't pass."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class RunQuery(_Request):
    """What a caller who wants to run a script overrides for this call; see ``docs/trust.md``."""

    allow_unreviewed: Annotated[bool, Field(description="Also what nobody reviewed.")] = False
    allow_deprecated: Annotated[bool, Field(description="Also what is deprecated.")] = False
    copy_: Annotated[
        bool, Field(alias="copy", description="A read-only copy that nothing changes.")
    ] = False
    ignore_state: Annotated[
        bool, Field(description="Also where the state of a run lies beside the scripts.")
    ] = False


class Script(_Request):
    """A script as text in ``content``, or any bytes in ``content_base64``."""

    path: Annotated[str, Field(description="Relative, as on disk: shell/stop.sh.", max_length=1024)]
    content: str | None = None
    content_base64: str | None = None
    executable: Annotated[
        StrictBool | None,
        Field(description="Of a program or a script with #!; else as in the version before."),
    ] = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.content is None) == (self.content_base64 is None):
            raise ValueError("give content or content_base64, one of them")
        return self

    def as_bytes(self) -> bytes:
        """The script's bytes; `InvalidPlaybook` names a path whose content can't be decoded."""
        try:
            if self.content is not None:
                return self.content.encode("utf-8")
            return base64.b64decode(self.content_base64 or "", validate=True)
        except (UnicodeEncodeError, binascii.Error, ValueError) as error:
            raise InvalidPlaybook(
                f"The content of {self.path!r} is neither UTF-8 text nor base64.",
                "Send bytes as content_base64.",
            ) from error


class PlaybookBody(_Request):
    """The body of ``POST /v1/playbooks`` and ``PUT /v1/playbooks/{id}``."""

    metadata: dict[str, Any]
    parameters: dict[str, Any] | list[Any] | None = None
    explain_plan: dict[str, Any] | None = None
    scripts: Annotated[list[Script], Field(max_length=MAX_SCRIPTS)] = []
    strategy: StrategyText | None = None

    def draft(self) -> PlaybookDraft:
        """What the store takes: raw metadata and the bytes of each file."""
        files: dict[str, bytes] = {}
        for script in self.scripts:
            if script.path in files or script.path in {PARAMETERS_FILE, PLAN_FILE}:
                raise InvalidPlaybook(
                    f"{script.path!r} is given twice.", "Give each path once in scripts."
                )
            files[script.path] = script.as_bytes()
        if self.parameters is not None:
            listed = isinstance(self.parameters, list)
            value = {"parameters": self.parameters} if listed else self.parameters
            files[PARAMETERS_FILE] = _json_file(value, PARAMETERS_FILE)
        if self.explain_plan is not None:
            files[PLAN_FILE] = _json_file(self.explain_plan, PLAN_FILE)
        told = [script for script in self.scripts if script.executable is not None]
        marked = frozenset(script.path for script in told if script.executable)
        return PlaybookDraft(self.metadata, files, executable=marked if told else None)


def _json_file(value: Any, name: str) -> bytes:
    try:
        return json_bytes(value)
    except (ValueError, UnicodeEncodeError) as error:
        raise InvalidPlaybook(
            f"{name} can't be written as JSON.", "Use finite numbers and well-formed Unicode."
        ) from error


class StatusBody(_Request):
    status: Annotated[str, Field(max_length=40)]
    reason: Annotated[str | None, Field(max_length=500)] = None


class ExecutionBody(_Request):
    """A run as an execution engine saw it."""

    execution_id: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="Counts once; else one is made."),
    ] = None
    success: StrictBool
    duration_ms: Annotated[StrictInt, Field(ge=0, le=MAX_INTEGER)] = 0
    error: Annotated[str | None, Field(description="Kept here, never sent.")] = None
    at: Annotated[
        StrictInt | None, Field(ge=0, le=MAX_INTEGER, description="Unix seconds; else now.")
    ] = None


class DecisionBody(_Request):
    decision: Annotated[
        str, Field(max_length=40, description="keep, review, trusted or discard.")
    ]  # fmt: skip


class HeldBody(_Request):
    decision: Literal["accept", "discard"]


class DeclassifyBody(_Request):
    confirm: Annotated[
        Literal[True], Field(description="That it is to lie in clear, and may be published.")
    ]


class ResolutionBody(_Request):
    """One of the three: ours as another version, ours under another id, or theirs."""

    as_version: Annotated[str | None, Field(max_length=64)] = None
    rename: Annotated[str | None, Field(max_length=100)] = None
    take: Literal["theirs"] | None = None


class AcceptedFinding(_Request):
    """A finding of the scan for secrets that may pass, by its key, and why."""

    key: Annotated[str, Field(min_length=1, max_length=64)]
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class JobBody(_Request):
    """The body of ``POST /v1/jobs``."""

    kind: Literal["publish", "sync", "download", "embed", "evict", "reindex", "verify", "import"]
    refs: Annotated[list[RefText] | None, Field(max_length=MAX_REFS)] = None
    all_: Annotated[bool, Field(alias="all")] = False
    as_: Annotated[
        Literal["review", "trusted", "uploaded_for_review", "uploaded_trusted"] | None,
        Field(alias="as"),
    ] = None
    path: Annotated[str | None, Field(max_length=4096)] = None
    format: str | None = None
    from_: Annotated[
        Literal["ssm", "rundeck", "stackstorm", "ansible", "azure-runbook"] | None,
        Field(alias="from", description="Of an import: the tool whose runbooks lie at path."),
    ] = None
    secrets_gate: Annotated[
        Literal["off", "warn", "block"] | None,
        Field(description="The caller's setting; the stricter of it and the worker's counts."),
    ] = None
    accept_findings: Annotated[
        list[AcceptedFinding],
        Field(max_length=100, description="With publish: findings of the versions in refs."),
    ] = []
    accept_deletions: Annotated[
        bool, Field(description="Of a sync: carry out the server's deletions that wait.")
    ] = False


TextOrList = str | list[str]


class SearchFilters(_Request):
    cloud_provider: TextOrList | None = None
    resource_types: TextOrList | None = None
    status: TextOrList | None = None
    author: TextOrList | None = None


class SearchBody(_Request):
    """The body of ``POST /v1/search``."""

    query: Annotated[str, Field(min_length=1, max_length=4000)]
    filters: SearchFilters = SearchFilters()
    limit: Annotated[int, Field(ge=1, le=100)] = 10


def event_data(body: dict[str, Any]) -> str:
    """The ``data`` of a server-sent event: JSON on one line."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
