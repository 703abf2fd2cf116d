"""Does a script parse? One parser per format, none of which runs anything.

```
shell/           *.sh *.bash, no suffix        bash -n
cloudformation/  *.yaml *.yml *.template *.json  YAML events, strict JSON
arm/             *.json                        strict JSON       (.bicep: no parser, no warning)
terraform/       *.tf *.tfvars *.json          python-hcl2, strict JSON
python/          *.py                          ast.parse
```
Other files beside them (a README, a Lambda's zip) are not checked. A script that does not parse
is a warning, never an error: the user may keep a draft. No warning holds text of the script,
since warnings end in logs and in the journal.

The parsers (`parsers`) run in children of the sandbox: a script that takes its parser down, or would hold this
process for seconds, costs a warning that it could not be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from core import sandbox
from core.errors import EscherError, StorageError
from core.files import find_program

MAX_BYTES = 1024 * 1024
"""Larger files are not parsed, and a warning says so."""
SECONDS = 10.0
"""For one file; a parser's own deadline comes first where it has one."""
TOTAL_SECONDS = 60.0
"""For all files of a playbook; the rest is not checked, and a warning says so."""

MAX_MESSAGE_CHARS = 160
NO_BASH = "shell scripts were not checked: bash is not on PATH"
_MAX_COMPLAINTS = 50

_SUFFIXES = {
    "cloudformation": frozenset({".yaml", ".yml", ".template", ".json"}),
    "arm": frozenset({".json"}),
    "terraform": frozenset({".tf", ".tfvars", ".json"}),
    "python": frozenset({".py"}),
    "shell": frozenset({".sh", ".bash", ""}),
}


class Complaint(NamedTuple):
    """What a parser says; `line` counts from 1 and is None where it has no position."""

    line: int | None
    message: str


@dataclass(frozen=True, slots=True)
class ScriptWarning:
    """`path` is relative to the version's folder, `line` counts from 1."""

    path: str
    line: int | None
    message: str

    def as_text(self) -> str:
        """`shell/stop.sh:12: unexpected end of file`."""
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.message}"


@lru_cache(maxsize=1)
def bash_path() -> str | None:
    """Where bash is, or None."""
    return find_program("bash")


def check_scripts(files: Mapping[str, bytes]) -> list[ScriptWarning]:
    """Parse each file by the parser of its format; warnings come in the order of `files`.

    A path's first segment is the format. Never raises for what a content is; bounded by `SECONDS`,
    `TOTAL_SECONDS` and `MAX_BYTES`.
    """
    parsed = [path for path, content in files.items() if _has_parser(path, content)]
    bash = bash_path()
    try:
        answers = sandbox.call(
            "core.playbooks.checks.parsers:complaints",
            [({"path": path, "bash": bash}, files[path]) for path in parsed],
            seconds=SECONDS,
            total_seconds=TOTAL_SECONDS,
        )
    except StorageError as error:  # no process is to be had now
        answers = [error] * len(parsed)
    said = dict(zip(parsed, answers, strict=True))
    found = [
        ScriptWarning(path, line, message)
        for path, content in files.items()
        for line, message in _complaints(path, content, said)
    ]
    return _one_for_missing_bash(found)


def _has_parser(path: str, content: bytes) -> bool:
    return _is_checked(path) and len(content) <= MAX_BYTES


def _is_checked(path: str) -> bool:
    return PurePosixPath(path).suffix in _SUFFIXES.get(path.split("/", 1)[0], ())


def _complaints(path: str, content: bytes, said: Mapping[str, Any]) -> Iterator[Complaint]:
    if _is_checked(path) and len(content) > MAX_BYTES:
        yield Complaint(None, f"not checked: larger than {MAX_BYTES // 1024} KiB")
    if path not in said:
        return
    answer = said[path]
    if isinstance(answer, EscherError):
        yield Complaint(None, f"not checked: {answer.detail[:MAX_MESSAGE_CHARS]}")
        return
    for line, message in list(answer)[:_MAX_COMPLAINTS]:
        yield Complaint(int(line) if line is not None else None, str(message)[:MAX_MESSAGE_CHARS])


def _one_for_missing_bash(found: list[ScriptWarning]) -> list[ScriptWarning]:
    """Without bash every shell script has the same complaint; one is enough."""
    first = next((warning for warning in found if warning.message == NO_BASH), None)
    return [warning for warning in found if warning.message != NO_BASH or warning is first]
