"""What became of the server's changes, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.models import Ref
from core.publishing.conflict_rules import Rule, There


@dataclass(frozen=True, slots=True)
class Decided:
    """A rule that concerns the user: what it did about which version, in words."""

    ref: Ref
    rule: Rule
    words: str

    def as_json(self) -> dict[str, Any]:
        return {"ref": str(self.ref), "kind": self.rule.value, "reason": self.words}


@dataclass(slots=True)
class Reconciled:
    """What became of a batch; a version that needed nothing is in none of them."""

    pulled: list[Ref] = field(default_factory=list)
    updated: list[Ref] = field(default_factory=list)
    deleted: list[Ref] = field(default_factory=list)
    to_delete: dict[Ref, There] = field(default_factory=dict)  # not yet: how many are they?
    trashed: list[str] = field(default_factory=list)  # folders in the trash
    conflicts: list[Decided] = field(default_factory=list)
    failed: dict[Ref, Exception] = field(default_factory=dict)
    older: list[Ref] = field(default_factory=list)  # known here at a higher revision
