"""Runs shellcheck and cfn-lint over scripts, when somebody asks: `verify --deep`, `show --deep`.

Both are optional (``pip install 'escher-playbook-service[lint]'``, or a ``shellcheck`` on PATH), and run in
children of the sandbox. They say what a parser does not: an unset variable, a property that no resource has.
Never at intake: one template takes cfn-lint seconds. What they say is shown and not kept, without text of
the script all the same.

::

    lint_scripts(files) ─► sandbox ─► shellcheck      scripts that bash judges, and ksh's
                                      cfn_lint        CloudFormation templates
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from core import sandbox
from core.errors import EscherError, StorageError
from core.files import find_program
from core.playbooks.checks import MAX_BYTES, ScriptWarning
from core.playbooks.checks.kinds import kind_of
from core.playbooks.checks.words import MAX_MESSAGE_CHARS, Complaint, without_script_text

SECONDS: Final = 60.0
"""For one file: cfn-lint's first one waits for its rules to be loaded."""
TOTAL_SECONDS: Final = 600.0
DEADLINE_SECONDS: Final = 50
"""Of shellcheck, before the sandbox would end the child."""
_MOST: Final = 100  # of one file

_WORD = re.compile(r"[A-Za-z_][\w.@-]{2,}")
# What shellcheck says of any script; other words that stand in the script's line are left out.
_KEPT = frozenset({
    "and", "are", "array", "command", "declare", "done", "double", "echo", "elif", "else", "esac",
    "eval", "exec", "exit", "export", "expand", "for", "function", "globbing", "grep", "instead",
    "local", "not", "null", "printf", "prevent", "quote", "read", "readonly", "return", "separately",
    "set", "shift", "splitting", "test", "then", "the", "this", "trap", "unset", "until", "use",
    "used", "while", "with", "word",
})  # fmt: skip


def available() -> dict[str, bool]:
    """Which linters are installed."""
    return {"shellcheck": _shellcheck_path() is not None, "cfn-lint": _has_cfn_lint()}


def lint_scripts(files: Mapping[str, bytes]) -> list[ScriptWarning]:
    """What the installed linters say of a version's files, in the order of ``files``.

    Never raises for what a content is; what a linter could not finish is said of that file.
    """
    wanted: list[tuple[str, str]] = []
    for path, content in files.items():
        kind = kind_of(path, content)
        if len(content) > MAX_BYTES:
            continue
        is_ksh = kind.note is not None and kind.note.endswith(" ksh")
        if (kind.judge == "bash" or is_ksh) and _shellcheck_path():
            wanted.append((path, "shellcheck"))
        elif kind.judge == "cloudformation" and _has_cfn_lint():
            wanted.append((path, "cfn_lint"))
    answers: dict[str, Any] = {}
    for linter in ("shellcheck", "cfn_lint"):
        paths = [path for path, name in wanted if name == linter]
        argument = {"program": str(_shellcheck_path()) if linter == "shellcheck" else None}
        try:
            said = sandbox.call(
                f"core.playbooks.checks.linters:{linter}",
                [(argument | {"path": path}, files[path]) for path in paths],
                seconds=SECONDS,
                total_seconds=TOTAL_SECONDS,
            )
        except StorageError as error:
            said = [error] * len(paths)
        answers.update(zip(paths, said, strict=True))
    return [warning for path, _ in wanted for warning in _warnings(path, answers[path])]


def _warnings(path: str, answer: Any) -> list[ScriptWarning]:
    if isinstance(answer, EscherError):
        return [ScriptWarning(path, None, f"not linted: {answer.detail[:MAX_MESSAGE_CHARS]}")]
    return [
        ScriptWarning(
            path, int(line) if line is not None else None, str(message)[:MAX_MESSAGE_CHARS]
        )
        for line, message in list(answer)[:_MOST]
    ]


@lru_cache(maxsize=1)
def _shellcheck_path() -> str | None:
    beside = Path(sys.executable).parent / "shellcheck"  # where pip puts it
    return str(beside) if beside.is_file() else find_program("shellcheck")


@lru_cache(maxsize=1)
def _has_cfn_lint() -> bool:
    return find_spec("cfnlint") is not None


# -- in children of the sandbox ---------------------------------------------------------------


def shellcheck(argument: dict[str, Any], content: bytes) -> list[Complaint]:
    """What shellcheck warns of; it follows no other file and reads no settings."""
    options = ["--norc", "--format=json1", "--severity=warning"]
    if not content.startswith(b"#!"):
        options.append("--shell=bash")
    try:
        done = subprocess.run(
            [str(argument["program"]), *options, "-"],
            input=content,
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            env={"LC_ALL": "C.UTF-8"},
        )
        found = json.loads(done.stdout)["comments"]
    except subprocess.TimeoutExpired:
        return [Complaint(None, f"not linted: shellcheck took longer than {DEADLINE_SECONDS} s")]
    except (OSError, ValueError, KeyError):
        return [Complaint(None, "not linted: shellcheck did not read it")]
    lines = content.decode("utf-8", "replace").split("\n")
    return [
        Complaint(
            one["line"],
            f"SC{one['code']} {without_words_of(str(one['message']), lines[one['line'] - 1 :][:1])}",
        )
        for one in found
    ]


def without_words_of(message: str, lines: list[str]) -> str:
    """A linter's words without those that stand in the script's line, which may be anything."""
    own = set(_WORD.findall(" ".join(lines))) - _KEPT
    return _WORD.sub(lambda word: "…" if word[0] in own else word[0], without_script_text(message))


def cfn_lint(argument: dict[str, Any], content: bytes) -> list[Complaint]:
    """What cfn-lint finds in a template: the rules' own words, errors and warnings."""
    from core.playbooks.checks.templates import holds_template

    text = content.decode("utf-8-sig", "replace")
    if not holds_template(str(argument["path"]), text):
        return []
    from cfnlint.decode.decode import decode_str

    template, errors = decode_str(text)
    found = errors or _cfn_runner().validate_template(template)
    return [Complaint(one.linenumber, f"{one.rule.id} {one.rule.shortdesc}") for one in found]


@lru_cache(maxsize=1)
def _cfn_runner() -> Any:
    """The rules, loaded once a child: that takes longer than most templates."""
    from cfnlint.api import ConfigMixIn, Runner

    return Runner(ConfigMixIn(regions=["us-east-1"], ignore_checks=["I"]))
