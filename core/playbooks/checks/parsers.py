"""Parses one script by what it is; this module is imported in children of the sandbox only.

::

    shell            bash -n: it reads the script and runs none of it              `shell`
    cloudformation   PyYAML's events, or strict JSON; then its sections            `templates`
    arm              JSON as Azure takes it; then its resources                    `templates`
    terraform        HashiCorp's own parser, or strict JSON                        `hcl`
    python           ast.parse: nothing is compiled or run                         `python_syntax`

Each gives `Complaint`s, without text of the script.
"""

from __future__ import annotations

from typing import Any

from core.playbooks.checks.hcl import terraform
from core.playbooks.checks.json_text import BadJsonText, read_json
from core.playbooks.checks.python_syntax import python
from core.playbooks.checks.shell import interpreter_line_end, line_ends, shell, without_payload
from core.playbooks.checks.templates import LOOKS, arm, cloudformation, looks_like_template
from core.playbooks.checks.words import TO_BE_FILLED_IN, TOO_DEEP, Complaint, has_placeholder

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def complaints(argument: dict[str, Any], content: bytes) -> list[Complaint]:
    """What the parser of its kind says of a script.

    ``argument`` is ``{path, judge, bash, missing}``: the path ``format/…``, a judge of `kinds`, where bash
    is or None, and what to say without it.
    """
    judge = str(argument["judge"])
    path = str(argument["path"])
    read = without_payload(content) if judge == "bash" else content
    if (at := read.find(b"\0")) >= 0:
        said = "it holds NUL bytes"
        if content.startswith(_UTF_16):
            said += ": it is UTF-16 text, and has to be UTF-8"
        return _if_judged(judge, path, content, Complaint(_line(content, at), said))
    if judge == "bytes":
        return line_ends(content)
    try:
        if judge == "bash":
            return shell(content, argument["bash"], str(argument["missing"]))
        if judge == "python":
            if path.startswith("shell/") and (found := interpreter_line_end(content)):
                return found
            return _unless_placeholder(judge, python(content), content.decode("utf-8", "replace"))
        # a byte order mark is no fault of JSON, YAML or HCL
        text = content.decode("utf-8-sig")
        return _unless_placeholder(judge, _of_text(judge, path, text), text)
    except UnicodeDecodeError as error:
        complaint = Complaint(_line(content, error.start), "it is not UTF-8 text")
        return _if_judged(judge, path, content, complaint)
    except (RecursionError, MemoryError):
        return [TOO_DEEP]


def _line(content: bytes, at: int) -> int:
    return content.count(b"\n", 0, at) + 1


def _if_judged(judge: str, path: str, content: bytes, complaint: Complaint) -> list[Complaint]:
    """Of what stands beside templates only those are judged."""
    text = content.replace(b"\0", b"").decode("latin-1")
    return [complaint] if judge not in LOOKS or looks_like_template(judge, path, text) else []


def _of_text(judge: str, path: str, text: str) -> list[Complaint]:
    if judge == "cloudformation":
        return cloudformation(path, text)
    if judge == "arm":
        return arm(path, text)
    return terraform(text) if judge == "hcl" else _json(text)


def _json(text: str) -> list[Complaint]:
    try:
        read_json(text)
    except BadJsonText as error:
        return [error.complaint]
    return []


def _unless_placeholder(judge: str, found: list[Complaint], text: str) -> list[Complaint]:
    """What a template engine has still to fill in is no fault."""
    if found and has_placeholder(text, found[0].line, beside=judge == "cloudformation"):
        return [Complaint(found[0].line, TO_BE_FILLED_IN)]
    return found
