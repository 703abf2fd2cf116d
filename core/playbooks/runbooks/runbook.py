"""The shape that every tool's runbook takes before it is a playbook: what is kept, what was dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import InvalidPlaybook
from core.files import json_bytes
from core.models import PARAMETERS_FILE, PlaybookDraft

MAX_NAME: Final = 200
MIN_NAME: Final = 3
MAX_DESCRIPTION: Final = 4000
MAX_LIST: Final = 50
MAX_ENTRY: Final = 500
ABSENT: Final = object()
"""The default of a parameter that has none, as ``None`` may be one."""

_SECRET_NAME = re.compile(
    r"(?:^|[_\W]|(?<=[a-z]))(?:password|passwd|passphrase|secret|token|api_?key|private_?key|"
    r"access_?key|client_?secret|credentials?)$",
    re.IGNORECASE,
)
_CLOUDS = (
    ("aws", re.compile(r"\baws(?:::| (?:[a-z0-9-]+) [a-z-]+)|\bamazon\.aws\.|\bboto3?\b|\bec2_|\bs3_|\bGet-EC2|\bAWSPowerShell", re.IGNORECASE)),
    ("azure", re.compile(r"\baz (?:[a-z-]+) [a-z-]+|\bazure|\b[A-Z][a-z]+-Az[A-Z]", re.IGNORECASE)),
    ("gcp", re.compile(r"\bgcloud [a-z]|\bgsutil [a-z]|\bgoogle\.cloud\b|\bgcp_", re.IGNORECASE)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the project's words; ``validation`` speaks as JSON Schema does."""

    name: str
    type: str = "string"
    description: str = ""
    required: bool = False
    default: Any = ABSENT
    sensitive: bool = False
    validation: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "description": self.description,
            "required": self.required,
            "sensitive": self.sensitive,
        }
        if self.default is not ABSENT:
            body["default"] = self.default
        if self.validation:
            body["validation"] = dict(self.validation)
        return body


@dataclass(slots=True)
class Runbook:
    """One runbook; ``files`` are by path in the version's folder, ``generated`` those made here.

    ``kind`` is what its tool calls it, ``dropped`` what is not carried, in words that name it.
    ``incomplete``: it would not do what it did there, so it comes as a draft.
    """

    tool: str
    kind: str
    name: str
    description: str = ""
    parameters: list[Parameter] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    generated: set[str] = field(default_factory=set)
    executable: set[str] = field(default_factory=set)
    entry_points: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    clouds: list[str] = field(default_factory=list)
    resource_types: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    prerequisites: list[str] = field(default_factory=list)
    category: str | None = None
    incomplete: bool = False

    def generate(self, path: str, text: str, *, entry: bool = True) -> None:
        """Add a program made here; ``entry``: it is its format's entry script."""
        self.files[path] = text.encode()
        self.generated.add(path)
        self.executable.add(path)
        if entry:
            self.entry_points[path.partition("/")[0]] = path

    def drop(self, what: str, *, incomplete: bool = False) -> None:
        """Say what is not carried; ``incomplete``: without it the runbook does something else."""
        if what not in self.dropped:
            self.dropped.append(what)
        self.incomplete |= incomplete

    def draft(self, source: str) -> PlaybookDraft:
        """The playbook, without an id; ``source`` is the file it came from."""
        names = [parameter.name for parameter in self.parameters]
        for name in names:
            if not name or len(name) > 128 or not name.isprintable():  # noqa: PLR2004  the contract's
                raise InvalidPlaybook(
                    f"{source} has a parameter whose name no playbook can have.",
                    "Give it 1-128 printable characters.",
                )
        metadata: dict[str, Any] = {
            "version": "1.0.0",
            "name": self.shown_name,
            "description": (self.description.strip() or f"{self.kind} {self.name}.")[
                :MAX_DESCRIPTION
            ],
            "cloud_provider": self.clouds or clouds_in(self.files.values()),
            "resource_types": _list(self.resource_types),
            "keywords": _list([self.tool, *self.keywords]),
            "prerequisites": _list(self.prerequisites),
            "entry_points": dict(self.entry_points),
            "tags": {"category": self.category or "imported", "imported_from": self.tool},
            "imported_from": {
                "tool": self.tool,
                "kind": self.kind,
                "name": self.name,
                "file": source,
                "dropped": list(self.dropped),
            },
        }
        if self.generated:
            metadata["generated"] = sorted(self.generated)
            metadata["tags"]["generated"] = True
        if self.incomplete:
            metadata["status"] = "draft"
        files = dict(self.files)
        if self.parameters:
            listed = {"parameters": [parameter.as_json() for parameter in self.parameters]}
            files[PARAMETERS_FILE] = json_bytes(listed)
        return PlaybookDraft(metadata, files, executable=frozenset(self.executable))

    @property
    def shown_name(self) -> str:
        """The playbook's name: the runbook's own, as long as the rule wants it."""
        name = " ".join(self.name.split())
        return name[:MAX_NAME] if len(name) >= MIN_NAME else f"{self.tool} {name}"


def looks_secret(name: str) -> bool:
    """Whether a parameter of a tool that marks no secrets is one by its name."""
    return _SECRET_NAME.search(name) is not None


def clouds_in(texts: Iterable[bytes]) -> list[str]:
    """The clouds whose commands or modules stand in a runbook."""
    whole = "\n".join(text[: 1 << 20].decode("utf-8", "replace") for text in texts)
    return [cloud for cloud, sign in _CLOUDS if sign.search(whole)]


def one_line(value: Any, limit: int = 300) -> str:
    """Text of a runbook on one line without control characters, for comments and messages."""
    text = " ".join(str(value).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:limit]


def slug(name: str) -> str:
    """A plain file name of a runbook's words."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60] or "step"


def _list(entries: Iterable[str]) -> list[str]:
    kept = dict.fromkeys(one_line(entry, MAX_ENTRY) for entry in entries if str(entry).strip())
    return list(kept)[:MAX_LIST]
