"""What the larger operations answer: plans, reports, search answers. None holds content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from core.errors import EscherError
from core.models import Ref
from core.secrets import SecretFinding, findings_json

MAX_FINDINGS = 500  # named in a report of many; `show` has them all
MAX_SKIPPED = 200  # of them, too
MAX_WARNED = 200  # versions, too


@dataclass(frozen=True, slots=True)
class PlaybookSearchResult:
    """One answer of a search; ``score`` is higher for better, ``warning`` says why it ranks lower.

    ``execution_count`` runs were reported, ``success_count`` of them went well, the last one at
    ``last_executed`` (Unix seconds).
    """

    playbook_id: str
    version: str
    name: str
    description: str
    score: float
    status: str
    warning: str | None = None
    health: str = "ok"
    execution_count: int = 0
    success_count: int = 0
    last_executed: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"score": round(self.score, 4)}


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Results, best first; ``degraded``: by words only, as the model or collection was out of reach."""

    results: list[PlaybookSearchResult]
    degraded: bool = False

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"results": [result.as_json() for result in self.results]}
        if self.degraded:
            body["degraded"] = True
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        results = [PlaybookSearchResult(**item) for item in body["results"]]
        return cls(results, bool(body.get("degraded", False)))


@dataclass(slots=True)
class ImportReport:
    """What an import took in, and what it could not, with the reason."""

    imported: list[Ref] = field(default_factory=list)
    existing: list[Ref] = field(default_factory=list)
    failed: list[tuple[str, EscherError]] = field(default_factory=list)
    warnings: int = 0
    warned: dict[Ref, tuple[str, ...]] = field(default_factory=dict)  # but for what was left out
    findings: dict[Ref, tuple[SecretFinding, ...]] = field(default_factory=dict)
    kept_private: int = 0  # whose files asked for something else than to stay here
    left_out: dict[Ref, tuple[str, ...]] = field(default_factory=dict)  # no part of a playbook
    notes: list[str] = field(default_factory=list)  # ids that are not the plain ones of the names
    dropped: dict[Ref, tuple[str, ...]] = field(default_factory=dict)  # of runbooks, not carried
    skipped: list[str] = field(default_factory=list)  # files that are no playbook's or runbook's

    @property
    def total(self) -> int:
        return len(self.imported) + len(self.existing) + len(self.failed)

    def as_json(self) -> dict[str, Any]:
        return {
            "imported": len(self.imported),
            "existing": len(self.existing),
            "warnings": self.warnings,
            "warned": {
                str(ref): list(words) for ref, words in list(self.warned.items())[:MAX_WARNED]
            },
            "findings": findings_json(self.findings)[:MAX_FINDINGS],
            "kept_private": self.kept_private,
            "left_out": {str(ref): list(names) for ref, names in self.left_out.items()},
            "notes": self.notes,
            "dropped": {str(ref): list(what) for ref, what in self.dropped.items()},
            "skipped": self.skipped[:MAX_SKIPPED],
            "failed": [
                {"name": name, "type": error.type, "detail": str(error)}
                for name, error in self.failed
            ],
        }


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """``deleted`` are gone; ``waiting`` stand until the server has confirmed."""

    deleted: list[Ref]
    waiting: list[Ref]
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "deleted": [str(ref) for ref in self.deleted],
            "waiting": [str(ref) for ref in self.waiting],
            "warnings": self.warnings,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `verify` found: about which version and file, what, and what to do."""

    ref: str
    path: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """``checked`` versions, and what is wrong with them."""

    checked: int
    problems: list[Finding]

    @property
    def clean(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "clean": self.clean,
            "problems": [problem.as_json() for problem in self.problems],
        }
