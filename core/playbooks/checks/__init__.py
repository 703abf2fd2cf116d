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
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from core.playbooks.checks import cloudformation, json_text, python, shell, terraform
from core.playbooks.checks.complaints import Complaint

__all__ = ["MAX_BYTES", "ScriptWarning", "check_script", "check_scripts"]

MAX_BYTES = 1024 * 1024
"""Larger files are not parsed, and a warning says so."""

_SUFFIXES = {
    "cloudformation": frozenset({".yaml", ".yml", ".template", ".json"}),
    "arm": frozenset({".json"}),
    "terraform": frozenset({".tf", ".tfvars", ".json"}),
    "python": frozenset({".py"}),
    "shell": frozenset({".sh", ".bash", ""}),
}


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


def check_script(path: str, content: bytes) -> list[ScriptWarning]:
    """Parse one file by the parser of its format.

    `path` is like `shell/stop.sh`: its first segment is the format. Never raises for what the
    content is; bounded in time (10 s a parser) and by `MAX_BYTES`.
    """
    return [ScriptWarning(path, line, message) for line, message in _complaints(path, content)]


def check_scripts(
    files: Mapping[str, bytes], max_workers: int | None = None
) -> list[ScriptWarning]:
    """Parse many files; warnings come in the order of `files`.

    Shell scripts are a process each, so they are checked side by side in `max_workers` threads
    (default: one a core, at most 8) while this thread does the others.
    """
    in_shell = [path for path in files if _format(path) == "shell"]
    workers = max_workers or min(8, os.cpu_count() or 1)
    if len(in_shell) < 2 or workers < 2:  # noqa: PLR2004 - nothing to do side by side
        found = [warning for path in files for warning in check_script(path, files[path])]
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="bash-n") as pool:
            pending = {path: pool.submit(check_script, path, files[path]) for path in in_shell}
            checked = {
                path: check_script(path, content)
                for path, content in files.items()
                if path not in pending
            }
            found = [
                warning
                for path in files
                for warning in (pending[path].result() if path in pending else checked[path])
            ]
    return _one_for_missing_bash(found)


def _format(path: str) -> str:
    return path.split("/", 1)[0]


def _complaints(path: str, content: bytes) -> list[Complaint]:
    script_format, suffix = _format(path), PurePosixPath(path).suffix
    if suffix not in _SUFFIXES.get(script_format, ()):
        return []
    if len(content) > MAX_BYTES:
        return [Complaint(None, f"not checked: larger than {MAX_BYTES // 1024} KiB")]
    if (at := content.find(b"\0")) >= 0:
        return [Complaint(content.count(b"\n", 0, at) + 1, "it holds a NUL byte")]
    if script_format == "python":
        return python.check(content)
    try:
        # a byte order mark is no fault of JSON or YAML on Windows; bash chokes on it by itself
        text = content.decode("utf-8" if script_format == "shell" else "utf-8-sig")
    except UnicodeDecodeError as error:
        return [Complaint(content.count(b"\n", 0, error.start) + 1, "it is not UTF-8 text")]
    if script_format == "shell":
        return shell.check(text) if shell.is_for_bash(path, text) else []
    if script_format == "cloudformation":
        return cloudformation.check(text, json_only=suffix == ".json")
    return json_text.check(text) if suffix == ".json" else terraform.check(text)


def _one_for_missing_bash(found: list[ScriptWarning]) -> list[ScriptWarning]:
    """Without bash every shell script has the same complaint; one is enough."""
    first = next((warning for warning in found if warning.message == shell.NO_BASH), None)
    return [warning for warning in found if warning.message != shell.NO_BASH or warning is first]
