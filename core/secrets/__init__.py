"""Finds secrets in what may leave this machine: at intake, shown before an upload, stopped there.

::

    bytes ──► contents (encodings, archives) ──► scanner ──► tokens · assignments · commands · structure
                                                    │             by names and values; needles finds where
    SecretsGate: scans each file's content once,  ◄─┘
                 keeps the result by checksum; off · warn · block, with what the user accepted

Here is what a scan finds and how sure it is, never the secret itself; `core.models` needs no more, so
nothing that scans is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

KEY_CHARS = 16
MAX_NAMED = 10


class Degree(StrEnum):
    """How sure a finding is; `block` stops the certain ones."""

    CERTAIN = "certain"  # the form of a secret, or nobody can say what is in there
    POSSIBLE = "possible"  # worth a look


class Spot(NamedTuple):
    """One finding in one content, as it is kept by checksum.

    ``line`` is 0 for a whole file. ``marked``: an allow-list comment stands on the line. ``member``
    is the path inside an archive.
    """

    line: int
    kind: str
    degree: Degree
    marked: bool = False
    member: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Who let a finding pass, when (Unix seconds) and why."""

    by: str
    at: int
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SecretFinding:
    """Where something looks like a secret, never what it is. ``line`` is 0 for a whole file.

    ``key`` stays the same while the file's content does: accepting a finding names it.
    """

    path: str
    line: int
    kind: str
    degree: Degree
    key: str
    accepted: Accepted | None = None

    @property
    def stops(self) -> bool:
        """Whether `block` refuses an upload for it."""
        return self.degree is Degree.CERTAIN and self.accepted is None

    def as_text(self) -> str:
        """``shell/stop.sh:12: AWS Access Key (certain, key 0123456789abcdef)``."""
        where = f"{self.path}:{self.line}" if self.line else self.path
        passed = f", accepted: {self.accepted.reason}" if self.accepted else ""
        return f"{where}: {self.kind} ({self.degree}, key {self.key}{passed})"

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "path": self.path,
            "line": self.line,
            "kind": self.kind,
            "degree": self.degree.value,
            "key": self.key,
        }
        if self.accepted is not None:
            body["accepted"] = self.accepted.as_json()
        return body


def finding_key(checksum: str, spot: Spot) -> str:
    """Make the stable id of a finding: by the file's checksum, the line and the kind."""
    parts = (checksum, str(spot.line), spot.kind, *([spot.member] if spot.member else ()))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:KEY_CHARS]


def named(findings: Iterable[SecretFinding]) -> str:
    """Name the first findings in one line, and how many more there are."""
    texts = [finding.as_text() for finding in findings]
    more = len(texts) - MAX_NAMED
    return "; ".join(texts[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


def findings_json(found: Mapping[Any, Iterable[SecretFinding]]) -> list[dict[str, Any]]:
    """Put findings of several versions (by their `Ref`) into one list, each with its version's name."""
    return [
        {"playbook_id": ref.playbook_id, "version": ref.version, **finding.as_json()}
        for ref, findings in found.items()
        for finding in findings
    ]
