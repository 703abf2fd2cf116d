"""One script and the parser of its format; runs in a child of the sandbox."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from core.playbooks.checks import cloudformation, json_text, python, shell, terraform
from core.playbooks.checks.complaints import Complaint


def complaints(argument: dict[str, Any], content: bytes) -> list[Complaint]:
    """What the parser says; ``argument`` is ``{path, bash}``, with where bash is or None."""
    path, bash = str(argument["path"]), argument["bash"]
    script_format, suffix = path.split("/", 1)[0], PurePosixPath(path).suffix
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
        return shell.check(text, bash) if shell.is_for_bash(path, text) else []
    if script_format == "cloudformation":
        return cloudformation.check(text, json_only=suffix == ".json")
    return json_text.check(text) if suffix == ".json" else terraform.check(text)
