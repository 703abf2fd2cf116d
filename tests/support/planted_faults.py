"""Plants one fault of a kind into a sound script; for tests and `benchmarks/checks.py`.

Each of `FAULTS` takes a text and a seeded `Random` and answers the broken text, or None where the text
has no place for the fault. Places are those at which a person's slip would break the script.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import tokenize
from collections.abc import Callable
from random import Random

Plant = Callable[[str, Random], "str | None"]


def _lines_where(text: str, pattern: str) -> list[int]:
    wanted = re.compile(pattern)
    return [i for i, line in enumerate(text.split("\n")) if wanted.search(line)]


def _drop_line(text: str, places: list[int], random: Random) -> str | None:
    if not places:
        return None
    lines = text.split("\n")
    del lines[random.choice(places)]
    return "\n".join(lines)


def _edit_line(
    text: str, places: list[int], random: Random, edit: Callable[[str], str]
) -> str | None:
    if not places:
        return None
    lines = text.split("\n")
    at = random.choice(places)
    lines[at] = edit(lines[at])
    return "\n".join(lines)


# -- shell ------------------------------------------------------------------------------------


def _heredocs(text: str) -> list[tuple[int, int]]:
    """First and last line of each here-document of the plain kind."""
    lines, found, at = text.split("\n"), [], 0
    while at < len(lines):
        opening = re.search(r"(?<!<)<<-?\s*['\"]?([A-Za-z_]\w*)['\"]?", lines[at])
        if opening and not lines[at].lstrip().startswith("#"):
            ends = (i for i in range(at + 1, len(lines)) if lines[i].lstrip("\t ") == opening[1])
            end = next(ends, None)
            if end is not None:
                found.append((at, end))
                at = end
        at += 1
    return found


def _in_quotes(text: str) -> set[int]:
    """Lines that begin inside of a quoted text or a block comment, about as a shell and HCL see it."""
    found, quote = set(), ""
    for number, line in enumerate(text.split("\n")):
        if quote:
            found.add(number)
        tokens = re.finditer(r"""\\.|(?:^|(?<=\s))(?:#|//).*|/\*|\*/|["']""", line)
        for token in (match[0] for match in tokens):
            if quote:
                quote = "" if token == quote else quote
            elif token in {"'", '"'}:
                quote = token
            elif token == "/*":
                quote = "*/"
    return found


def _outside(text: str, places: list[int]) -> list[int]:
    inner = {i for begin, end in _heredocs(text) for i in range(begin, end + 1)}
    inner |= _in_quotes(text)
    return [place for place in places if place not in inner]


def shell_quote(text: str, random: Random) -> str | None:
    places = _outside(text, _lines_where(text, r'^[^#\'"]*"[^"\'`$\\]+"\s*$'))
    return _edit_line(text, places, random, lambda line: line.rstrip()[:-1])


def shell_if(text: str, random: Random) -> str | None:
    return _drop_line(text, _outside(text, _lines_where(text, r"^\s*fi\s*$")), random)


def shell_heredoc(text: str, random: Random) -> str | None:
    return _drop_line(text, [end for _, end in _heredocs(text)], random)


def shell_function(text: str, random: Random) -> str | None:
    if not _lines_where(text, r"^(function\s+)?[\w:-]+\s*\(\)\s*\{\s*$"):
        return None
    return _drop_line(text, _outside(text, _lines_where(text, r"^\}\s*$")), random)


# -- CloudFormation ---------------------------------------------------------------------------


def _siblings(text: str) -> list[int]:
    """Lines ``Key: …`` right after one of the same depth with a value, outside of block texts."""
    lines, found, block = text.split("\n"), [], None
    for at, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = indent if re.search(r"[|>][-+]?\d?\s*(#.*)?$", line) else None
        before = lines[at - 1] if at else ""
        same = len(before) - len(before.lstrip()) == indent > 0
        if same and all(re.match(r"^\s+[A-Z]\w+: +[^\s|>&*#'\"]", each) for each in (before, line)):
            found.append(at)
    return found


def cfn_indentation(text: str, random: Random) -> str | None:
    shift = random.choice([lambda line: " " + line, lambda line: line[1:]])
    return _edit_line(text, _siblings(text), random, shift)


def cfn_tab(text: str, random: Random) -> str | None:
    return _edit_line(text, _siblings(text), random, lambda line: "\t" + line.lstrip())


def cfn_tag(text: str, random: Random) -> str | None:
    tags = _lines_where(text, r"^[^#'\"]*: !(Ref|Sub|GetAtt|Join|If|Select|FindInMap) ")
    return _edit_line(
        text, tags, random, lambda line: re.sub(r"!(\w)(\w+) ", r"!\2\1 ", line, count=1)
    )


def cfn_resources(text: str, random: Random) -> str | None:
    lines = text.split("\n")
    places = _lines_where(text, r"^Resources:")
    if len(places) != 1:
        return None
    begin = places[0]
    end = next(
        (i for i in range(begin + 1, len(lines)) if re.match(r"^[A-Za-z]", lines[i])), len(lines)
    )
    return "\n".join(lines[:begin] + lines[end:])


# -- ARM --------------------------------------------------------------------------------------


def arm_brace(text: str, random: Random) -> str | None:
    places = [m.start() for m in re.finditer(r"[{}]", text) if not _in_string(text, m.start())]
    at = random.choice(places) if places else None
    return None if at is None else text[:at] + text[at + 1 :]


def _in_string(text: str, at: int) -> bool:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return len(re.findall(r'(?<!\\)"', line)) % 2 == 1 or "//" in line.replace("://", "")


def arm_trailing(text: str, random: Random) -> str | None:
    return text + random.choice(["}", "\n]", "done\n", "\n,", "{}"])


def arm_resources(text: str, random: Random) -> str | None:
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except ValueError:
        return None
    if "resources" not in value:
        return None
    del value["resources"]
    return json.dumps(value, indent=2)


# -- HCL --------------------------------------------------------------------------------------


def hcl_block(text: str, random: Random) -> str | None:
    return _drop_line(text, _outside(text, _lines_where(text, r"^\s*\}\s*$")), random)


def hcl_string(text: str, random: Random) -> str | None:
    places = _outside(text, _lines_where(text, r'^\s*\w+\s*=\s*"[^"$%\\]*"$'))
    return _edit_line(text, places, random, lambda line: line[:-1])


def hcl_heredoc(text: str, random: Random) -> str | None:
    return _drop_line(text, [end for _, end in _heredocs(text)], random)


def hcl_operator(text: str, random: Random) -> str | None:
    places = _outside(text, _lines_where(text, r'^\s*\w+\s*= ["\w]'))
    operator = random.choice([" == ", " := ", " => ", " = + ", " = && ", " += "])
    return _edit_line(text, places, random, lambda line: re.sub(r"\s*= ", operator, line, count=1))


# -- Python -----------------------------------------------------------------------------------


def _statements(text: str) -> list[ast.stmt]:
    """Simple statements that begin their line and follow another of their block."""
    found: list[ast.stmt] = []
    for node in ast.walk(ast.parse(text)):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                pairs = itertools.pairwise(body)
                simple = ast.Assign | ast.Expr | ast.Return | ast.Import | ast.ImportFrom
                found += [b for a, b in pairs if isinstance(a, simple) and isinstance(b, simple)]
    lines = text.split("\n")
    return [s for s in found if not lines[s.lineno - 1][: s.col_offset].strip()]


def _at_statement(text: str, random: Random, edit: Callable[[str], str]) -> str | None:
    places = [statement.lineno - 1 for statement in _statements(text)]
    return _edit_line(text, places, random, edit)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def python_indentation(text: str, random: Random) -> str | None:
    return _at_statement(text, random, lambda line: " " + line)


def python_bracket(text: str, random: Random) -> str | None:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    places = [t.start for t in tokens if t.type == tokenize.OP and t.string in {")", "]", "}"}]
    if not places:
        return None
    row, column = random.choice(places)
    lines = text.split("\n")
    lines[row - 1] = lines[row - 1][:column] + lines[row - 1][column + 1 :]
    return "\n".join(lines)


def python_else(text: str, random: Random) -> str | None:
    return _at_statement(
        text, random, lambda line: f"{_indent(line)}else:\n{_indent(line)}    pass\n{line}"
    )


def python_print(text: str, random: Random) -> str | None:
    return _at_statement(text, random, lambda line: f"{_indent(line)}print value\n{line}")


# -- bytes ------------------------------------------------------------------------------------


def crlf(text: str, random: Random) -> str | None:
    return text.replace("\r\n", "\n").replace("\n", "\r\n") if "\n" in text else None


def nul(text: str, random: Random) -> str | None:
    at = random.randrange(len(text) + 1)
    return text[:at] + "\0" + text[at:]


FAULTS: dict[str, dict[str, Plant]] = {
    "shell": {
        "quote": shell_quote, "if": shell_if, "heredoc": shell_heredoc,
        "function": shell_function, "CRLF": crlf, "NUL": nul,
    },
    "cloudformation": {
        "indentation": cfn_indentation, "unknown tag": cfn_tag, "tab": cfn_tab,
        "no Resources": cfn_resources, "NUL": nul,
    },
    "arm": {"brace": arm_brace, "trailing text": arm_trailing, "no resources": arm_resources, "NUL": nul},
    "terraform": {
        "block": hcl_block, "string": hcl_string, "heredoc": hcl_heredoc, "operator": hcl_operator,
        "NUL": nul,
    },
    "python": {
        "indentation": python_indentation, "bracket": python_bracket, "else": python_else,
        "print": python_print, "NUL": nul,
    },
}  # fmt: skip
"""By format and by name."""
