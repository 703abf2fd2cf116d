"""Reads what a PowerShell or Python script says of itself, in a child of the sandbox; runs nothing.

Of PowerShell the first ``param`` block and the comment-based help, of Python the docstring and what
it hands to ``argparse``. Comments and texts are masked before brackets are matched, so each script is
gone through a fixed number of times.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

from core.playbooks.runbooks.documents import Refused, decoded

MAX_PARAMETERS: Final = 200
_MASKED = re.compile(
    r"""<\#.*?(?:\#>|\Z)|\#[^\n]*|@'\r?\n.*?(?:\n'@|\Z)|@"\r?\n.*?(?:\n"@|\Z)"""
    r"""|'(?:[^']|'')*(?:'|\Z)|"(?:[^"`]|`.|"")*(?:"|\Z)""",
    re.DOTALL,
)
_PARAM = re.compile(r"(?<![\w$-])param\s*\(", re.IGNORECASE)
_FUNCTION = re.compile(r"(?<![\w$-])(?:function|filter)\s+[\w:-]+", re.IGNORECASE)
_WORKFLOW = re.compile(r"^\s*workflow\s+[\w-]+\s*\{", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(r"\s*\$(?:\{([^}]+)\}|(\w+))")
_SECTION = re.compile(r"^[ \t#]*\.([A-Za-z]+)[ \t]*([^\r\n]*)$", re.MULTILINE)
_TEXT = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"`$]|""|`.)*)\"""", re.DOTALL)
_ASSET = re.compile(
    r"\b((?:Get|Set)-Automation(?:Variable|PSCredential|Connection|Certificate))\b"
    r"(?:\s+-Name)?(?:\s+['\"]([^'\"\r\n$]{1,100})['\"])?",
    re.IGNORECASE,
)
_REQUIRES = re.compile(r"^#Requires\s+-Modules?\s+([\w., '\"-]+)", re.IGNORECASE | re.MULTILINE)
_IMPORTS = re.compile(r"\bImport-Module\s+(?:-Name\s+)?['\"]?([\w.]+)", re.IGNORECASE)
_PYTHON_TYPES: Final = {"int": "int", "float": "double", "str": "string", "bool": "bool"}


def describe(argument: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return what a runbook says of itself, or ``{"error": why}``; ``argument`` is ``{kind}``.

    ``{description, synopsis, parameters, assets, modules, is_workflow}``, a parameter being
    ``{name, type, description, required, default?, validation}``.
    """
    try:
        text = decoded(content)
        return _python(text) if argument["kind"] == "python" else _powershell(text)
    except Refused as error:
        return {"error": str(error)}


# -- PowerShell -------------------------------------------------------------------------------


def _powershell(text: str) -> dict[str, Any]:
    masked = _MASKED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    help_ = _help(text)
    return {
        "description": help_.get("description", ""),
        "synopsis": help_.get("synopsis", ""),
        "parameters": list(_parameters(text, masked, help_)),
        "assets": sorted({_asset(found) for found in _ASSET.finditer(text)}),
        "modules": _modules(text),
        "is_workflow": _WORKFLOW.search(masked) is not None,
    }


def _help(text: str) -> dict[str, str]:
    """The sections of the comment-based help; a parameter's is ``parameter <name>``."""
    blocks = [found[0] for found in _MASKED.finditer(text) if found[0].startswith("<#")]
    comments = "\n".join(line for line in text.splitlines()[:200] if line.lstrip().startswith("#"))
    for block in [*blocks, comments]:
        sections = list(_SECTION.finditer(block))
        names = {found[1].lower() for found in sections}
        if not names & {"synopsis", "description", "parameter"}:
            continue
        found: dict[str, str] = {}
        ends = [*(section.start() for section in sections[1:]), len(block)]
        for section, end in zip(sections, ends, strict=True):
            key = section[1].lower()
            inside = section[2].strip()
            body = block[section.end() : end].replace("#>", "")
            lines = [line.strip().lstrip("#").strip() for line in body.splitlines()]
            if key == "parameter":
                key = f"parameter {inside.lower()}"
            elif inside:
                lines.insert(0, inside)
            found.setdefault(key, "\n".join(lines).strip())
        return found
    return {}


def _parameters(text: str, masked: str, help_: dict[str, str]) -> Iterator[dict[str, Any]]:
    found = _PARAM.search(masked)
    function = _FUNCTION.search(masked)
    if found is None or (function is not None and function.start() < found.start()):
        return
    end = _closing(masked, found.end() - 1)
    for count, (start, stop) in enumerate(_split(masked, found.end(), end)):
        if count >= MAX_PARAMETERS:
            raise Refused(f"has more than {MAX_PARAMETERS} parameters")
        parameter = _parameter(text, masked, start, stop)
        if parameter is not None:
            said = help_.get(f"parameter {parameter['name'].lower()}")
            parameter["description"] = said or parameter["description"]
            yield parameter


def _closing(masked: str, at: int) -> int:
    """Where the bracket that opens at ``at`` closes."""
    depth = 0
    for found in re.compile(r"[()\[\]{}]").finditer(masked, at):
        depth += 1 if found[0] in "([{" else -1
        if depth == 0:
            return found.start()
    raise Refused("has a param block that is not closed")


def _split(masked: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The spans between the commas of one level."""
    depth, begin = 0, start
    for found in re.compile(r"[()\[\]{},]").finditer(masked, start, end):
        if found[0] == ",":
            if depth == 0:
                yield begin, found.start()
                begin = found.end()
        else:
            depth += 1 if found[0] in "([{" else -1
    if masked[begin:end].strip():
        yield begin, end


def _parameter(text: str, masked: str, at: int, stop: int) -> dict[str, Any] | None:
    found: dict[str, Any] = {
        "type": "object", "description": "", "required": False, "validation": {},
    }  # fmt: skip
    while True:
        at += len(masked[at:stop]) - len(masked[at:stop].lstrip())
        if at >= stop or masked[at] != "[":
            break
        end = _closing(masked, at)
        _attribute(found, text[at + 1 : end].strip())
        at = end + 1
    name = _NAME.match(masked, at, stop)
    if name is None:
        return None
    found["name"] = name[1] or name[2]
    rest = text[name.end() : stop].strip()
    if rest.startswith("="):
        found["required"] = False  # PowerShell asks only for what has no value
        is_literal, value = _literal(rest[1:].strip())
        if is_literal:
            found["default"] = value
    return found


def _attribute(found: dict[str, Any], attribute: str) -> None:
    name, opened, inside = attribute.partition("(")
    name, inside = name.strip().lower(), inside.rstrip(") \t\r\n")
    rules = found["validation"]
    values = [_literal(word.strip())[1] for word in _words(inside)]
    if not opened:
        found["type"] = name
    elif name == "parameter":
        mandatory = re.search(r"\bMandatory\b\s*(?:=\s*\$?(\w+))?", inside, re.IGNORECASE)
        found["required"] |= mandatory is not None and (mandatory[1] or "true").lower() in {
            "true",
            "1",
        }
        message = re.search(r"\bHelpMessage\s*=\s*(.+)", inside, re.IGNORECASE | re.DOTALL)
        if message and (text := _TEXT.match(message[1])):
            found["description"] = (text[1] or text[2] or "").replace("''", "'")
    elif name == "validateset":
        rules["enum"] = [value for value in values if value is not None]
    elif name in {"validaterange", "validatelength", "validatecount"} and len(values) == 2:  # noqa: PLR2004  from, to
        low, high = {
            "validaterange": ("minimum", "maximum"), "validatelength": ("minLength", "maxLength"),
            "validatecount": ("minItems", "maxItems"),
        }[name]  # fmt: skip
        rules |= {low: values[0], high: values[1]}
    elif name == "validatepattern" and values and isinstance(values[0], str):
        rules["pattern"] = values[0]
    elif name in {"validatenotnullorempty", "validatenotnull"}:
        rules["minLength"] = 1
    elif name == "alias":
        rules["aliases"] = values


def _words(inside: str) -> list[str]:
    masked = _MASKED.sub(lambda found: "x" * len(found[0]), inside)
    return [inside[start:stop] for start, stop in _split(masked, 0, len(masked))]


def _literal(word: str) -> tuple[bool, Any]:
    """Whether a PowerShell expression is a plain value, and that value."""
    lower = word.lower()
    if lower in {"$true", "$false", "$null"}:
        return True, {"$true": True, "$false": False, "$null": None}[lower]
    if re.fullmatch(r"-?\d{1,18}", word):
        return True, int(word)
    if re.fullmatch(r"-?\d{1,18}\.\d{1,18}", word):
        return True, float(word)
    if text := _TEXT.fullmatch(word):
        if text[1] is not None:
            return True, text[1].replace("''", "'")
        return True, re.sub(r"`(.)", r"\1", text[2].replace('""', '"'))
    if word.startswith("@(") and word.endswith(")"):
        items = [_literal(item.strip()) for item in _words(word[2:-1])]
        if all(is_literal for is_literal, _ in items):
            return True, [value for _, value in items]
    return False, None


def _asset(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]}" if found[2] else found[1]


def _modules(text: str) -> list[str]:
    named = [word.strip(" '\"") for said in _REQUIRES.findall(text) for word in said.split(",")]
    named += _IMPORTS.findall(text)
    if re.search(r"\b(?:Connect|Get|Set|New|Remove|Start|Stop|Restart|Update)-Az[A-Z]", text):
        named.append("Az")
    return list(dict.fromkeys(name for name in named if name))[:50]


# -- Python -----------------------------------------------------------------------------------


def _python(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": "", "synopsis": "", "parameters": [], "assets": [],
        "modules": [], "is_workflow": False,
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return found  # of an older Python, maybe: it is kept as it is, and checked like any script
    found["description"] = (ast.get_docstring(tree) or "").strip()
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            parameter = _argument(node)
            if parameter is not None and len(found["parameters"]) < MAX_PARAMETERS:
                found["parameters"].append(parameter)
    if "automationassets" in modules:
        found["assets"] = ["automationassets"]
    found["modules"] = sorted(modules - sys.stdlib_module_names - {"automationassets"})
    return found


def _argument(call: ast.Call) -> dict[str, Any] | None:
    """A parameter that a script hands to ``argparse``."""
    flags = [
        arg.value
        for arg in call.args
        if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
    ]
    if not flags:
        return None
    given = {word.arg: word.value for word in call.keywords if word.arg}
    long = next((flag for flag in flags if flag.startswith("--")), flags[0])
    found: dict[str, Any] = {
        "name": long.lstrip("-"), "type": "string", "description": "",
        "required": not long.startswith("-"), "validation": {},
    }  # fmt: skip
    if isinstance(given.get("type"), ast.Name):
        found["type"] = _PYTHON_TYPES.get(given["type"].id, "string")  # type: ignore[attr-defined]  # a Name, as just asked
    for key, ours in (("help", "description"), ("required", "required"), ("default", "default")):
        value = given.get(key)
        if isinstance(value, ast.Constant) and isinstance(value.value, str | int | float | bool):
            found[ours] = value.value
    action = given.get("action")
    if isinstance(action, ast.Constant) and action.value in {"store_true", "store_false"}:
        found["type"] = "bool"
    choices = given.get("choices")
    if isinstance(choices, ast.List | ast.Tuple):
        found["validation"]["enum"] = [
            item.value for item in choices.elts if isinstance(item, ast.Constant)
        ]
    return found
