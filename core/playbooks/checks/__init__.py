"""Does a script parse? What a file is comes first (`kinds`), then its own parser, which runs nothing.

```
shell/           bash, sh, dash, ash by `#!`, mode line or suffix   bash -n, line ends; others are "not checked"
cloudformation/  templates among *.yaml *.yml *.json *.template     YAML events, strict JSON, their sections
arm/             templates among *.json                             JSON as Azure takes it, resources
terraform/       *.tf *.tofu *.tfvars …, *.tf.json …                HashiCorp's parser, strict JSON
python/          *.py                                               ast.parse; newer syntax is told apart
```
Other files beside them (a README, parameters, a Lambda's zip) are not judged. A script that does not
parse is a warning, never an error: the user may keep a draft. No warning holds text of the script,
since warnings end in logs and in the journal.

The parsers (`parsers`) run in children of the sandbox: a script that takes its parser down, or would hold this
process for seconds, costs a warning that it could not be checked. Linters are `linters`: they run when asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from core import sandbox
from core.errors import EscherError, StorageError
from core.files import find_program
from core.playbooks.checks.kinds import Kind, kind_of
from core.playbooks.checks.words import MAX_MESSAGE_CHARS, Complaint

MAX_BYTES = 1024 * 1024
"""Larger files are not parsed, and a warning says so."""
SECONDS = 10.0
"""For one file; a parser's own deadline comes first where it has one."""
TOTAL_SECONDS = 60.0
"""For all files of a playbook; the rest is not checked, and a warning says so."""

NO_BASH = "shell scripts were not checked: bash is not on PATH"
_MAX_COMPLAINTS = 50


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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache(maxsize=1)
def bash_path() -> str | None:
    """Where bash is, or None."""
    return find_program("bash")


def check_scripts(files: Mapping[str, bytes]) -> list[ScriptWarning]:
    """Parse each file by the parser of what it is; warnings come in the order of `files`.

    A path's first segment is the format. Never raises for what a content is; bounded by `SECONDS`,
    `TOTAL_SECONDS` and `MAX_BYTES`.
    """
    kinds = {path: kind_of(path, content) for path, content in files.items()}
    judges = {path: _judge(kind, files[path]) for path, kind in kinds.items()}
    parsed = [path for path, judge in judges.items() if judge is not None]
    bash = bash_path()
    try:
        answers = sandbox.call(
            "core.playbooks.checks.parsers:complaints",
            [
                (
                    {"path": path, "judge": judges[path], "bash": bash, "missing": NO_BASH},
                    files[path],
                )
                for path in parsed
            ],
            seconds=SECONDS,
            total_seconds=TOTAL_SECONDS,
        )
    except StorageError as error:  # no process is to be had now
        answers = [error] * len(parsed)
    said = dict(zip(parsed, answers, strict=True))
    found = [
        ScriptWarning(path, line, message)
        for path, content in files.items()
        for line, message in _complaints(path, content, kinds[path], said)
    ]
    return _one_for_missing_bash(found)


def _judge(kind: Kind, content: bytes) -> str | None:
    """Who is to look at a file; ``bytes``: nobody but for line ends and NUL."""
    if len(content) > MAX_BYTES:
        return None
    if kind.judge is None and kind.unix_lines and (b"\r" in content or b"\0" in content):
        return "bytes"
    return kind.judge


def _complaints(
    path: str, content: bytes, kind: Kind, said: Mapping[str, Any]
) -> Iterator[Complaint]:
    if kind.note is not None:
        yield Complaint(1, kind.note)
    elif kind.judge is not None and len(content) > MAX_BYTES:
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
