"""Finds secrets in documents where the name and the value stand apart: JSON, YAML and HCL, parsed.

::

    {"adminPassword": {"value": "…"}}                    ARM parameters
    "p": {"type": "securestring", "defaultValue": "…"}   ARM, Bicep's output
    DBPassword: {Type: String, NoEcho: true, Default: …} CloudFormation
    variable "db_password" { default = "…" }             Terraform
    - {name: DB_PASSWORD, value: …}                      containers, parameter lists, `parameters.json`
    kind: Secret, data: {…}                              Kubernetes

JSON (with comments, as ARM has them) and HCL have one reader, which takes what is broken as far as it
goes; YAML is read as events, so no tag is constructed and no alias followed. A tree is at most
`_MAX_DEPTH` deep.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from core.secrets import Degree
from core.secrets.contents import BRACED, PLAIN, PROGRAM, YAML
from core.secrets.names import Holds, holds
from core.secrets.values import judge

_MAX_DEPTH = 200
_LOOK_EVERY = 1000  # tokens


@dataclass(slots=True)
class Scalar:
    """A text at a line; ``quoted`` as far as the syntax tells; an expression is no ``literal``."""

    text: str
    line: int
    quoted: bool = True
    literal: bool = True


@dataclass(slots=True)
class Table:
    """Named things, in their order; a list's items have no name. ``labels`` are those of an HCL block."""

    items: list[tuple[str, Node]] = field(default_factory=list)
    labels: tuple[str, ...] = ()


Node = Scalar | Table

_OBJECT = re.compile(r"\{(?![{%])|\[\s*[\[{\"]")
_APART = re.compile(r"^[ \t-]*(?:default|value|data|stringdata):", re.MULTILINE)
_WORTH = re.compile(
    r"pass|pwd|secret|token|key|cred|auth|noecho|sensitive|stringdata|securestring|secureobject"
)


def documents(syntax: str, text: str, lowered: str, look: Callable[[], None]) -> list[Table]:
    """Return a text's documents as trees where it is JSON, YAML or HCL and may hold a secret.

    ``look`` is called now and then and may raise to end it.
    """
    if not _WORTH.search(lowered):
        return []
    begin = text[:200].lstrip("\ufeff \t\r\n")
    if syntax == BRACED or (syntax != PROGRAM and _OBJECT.match(begin)):
        return [_braced(text, look)] if _is_worth_reading(text) else []
    if syntax == YAML or begin.startswith(("---\n", "AWSTemplateFormatVersion", "apiVersion:")):
        return _yaml(text, look)
    if syntax == PLAIN and _APART.search(lowered):  # a here document
        return [_indented(text, look)]
    return []


# -- JSON and HCL -----------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<s>"(?:[^"\\]|\\.)*+(?:"|\Z))
    |(?P<c>\#[^\n]*|//[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z))
    |<<[-~]?[ \t]*"?(?P<h>\w+)"?[ \t]*\n
    |(?P<w>[^\s"\#{}\[\](),:=/<]+|[/<])
    |(?P<p>[{}\[\](),:=\n])""",
    re.VERBOSE | re.DOTALL,
)


def _braced(text: str, look: Callable[[], None]) -> Table:
    lines = [match.end() for match in re.finditer("\n", text)]
    root = Table()
    stack = [root]
    words: list[str] = []  # what stands before a value or a block: `variable "x"`, `"x":`, `x =`
    name: str | None = None
    at = count = 0
    while match := _TOKEN.search(text, at):
        at = match.end()
        count += 1
        if count % _LOOK_EVERY == 0:
            look()
        if match["c"] is not None:
            continue
        if match["h"] is not None:
            end = re.compile(rf"^[ \t]*{re.escape(match['h'])}[ \t]*$", re.MULTILINE).search(
                text, at
            )
            at = end.end() if end else len(text)
            words, name = [], None
            continue
        string, word, sign = match["s"], match["w"], match["p"]
        if string is not None or word is not None:
            value = _unquoted(string) if string is not None else word
            if name is not None:
                line, quoted = bisect_right(lines, match.start()) + 1, string is not None
                stack[-1].items.append((name, Scalar(value, line, quoted, quoted)))
                words, name = [], None
            elif len(words) < 4:  # noqa: PLR2004 - no block has more labels
                words.append(value)
        elif sign in {":", "="}:
            if name is None and words:
                name = words[-1]
        elif sign in {"{", "["}:
            table = Table(labels=() if name is not None else tuple(words))
            stack[-1].items.append(
                (name if name is not None else words[-1] if words else "", table)
            )
            if len(stack) >= _MAX_DEPTH:
                return root
            stack.append(table)
            words, name = [], None
        elif sign in {"}", "]"}:
            if len(stack) > 1:
                stack.pop()
            words, name = [], None
        elif sign == "," or (sign == "\n" and name is None):
            words = []
            name = None if sign == "," else name
    return root


def _is_worth_reading(text: str) -> bool:
    """Whether JSON may give a secret to a name that stands elsewhere.

    The library's parser tells it without lines, thirty times faster; what is no JSON is read.
    """
    worth = False

    def seen(pairs: list[tuple[str, object]]) -> object:
        nonlocal worth
        table = Table()
        for key, value in pairs:
            if isinstance(value, str):
                table.items.append((key, Scalar(value, 0)))
            elif value is True:
                table.items.append((key, Scalar("true", 0)))
            elif isinstance(value, _Promised) and not worth:
                worth = next(_in_table(key, value.table), None) is not None
        if not worth:
            worth = next(_in_table("", table), None) is not None
        return _Promised(table) if any(key.lower() in _VALUES for key, _ in table.items) else None

    try:
        json.loads(text, object_pairs_hook=seen, strict=False)
    except (ValueError, RecursionError):
        return True
    return worth


@dataclass(slots=True)
class _Promised:
    """An object with a value, which the name around it may say to be a secret."""

    table: Table


def _unquoted(string: str) -> str:
    if "\\" not in string:
        return string.strip('"')
    try:
        return str(json.loads(string, strict=False))
    except ValueError:
        return string.strip('"')


# -- YAML ---------------------------------------------------------------------------------------


def _yaml(text: str, look: Callable[[], None]) -> list[Table]:
    import yaml

    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[Table] = []
    stack: list[tuple[Table, bool]] = []  # and whether it is a mapping
    names: list[str | None] = []
    try:
        for count, event in enumerate(yaml.parse(text, Loader=loader)):
            if count % _LOOK_EVERY == 0:
                look()
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                table = Table()
                if stack:
                    _put(stack, names, table)
                else:
                    found.append(table)
                if len(stack) >= _MAX_DEPTH:
                    break
                stack.append((table, isinstance(event, yaml.MappingStartEvent)))
                names.append(None)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                stack.pop()
                names.pop()
            elif isinstance(event, yaml.ScalarEvent) and stack:
                if stack[-1][1] and names[-1] is None:
                    names[-1] = event.value
                else:
                    line = event.start_mark.line + 1 if event.start_mark else 0
                    own = (
                        event.tag is not None
                        and event.tag.startswith("!")
                        and not event.tag.startswith("!!")
                    )
                    _put(
                        stack,
                        names,
                        Scalar("" if own else event.value, line, event.style in ("'", '"')),
                    )
            elif isinstance(event, yaml.AliasEvent) and stack:
                _put(stack, names, Scalar("", 0))
    except (yaml.YAMLError, ValueError):
        found.append(_indented(text, look))
    return found


_LINE = re.compile(
    r"([ \t]*)((?:- +)*)[\"']?([\w./-]{1,80})[\"']?[ \t]*:(?:[ \t]+(.*?))?[ \t]*\r?$"
)


def _indented(text: str, look: Callable[[], None]) -> Table:
    """What looks like YAML, line by line: templates of it, here documents, broken files."""
    root = Table()
    stack: list[tuple[int, Table]] = [(-1, root)]
    for number, line in enumerate(text.split("\n"), start=1):
        if number % _LOOK_EVERY == 0:
            look()
        match = _LINE.match(line)
        if match is None:
            continue
        indent = len(match[1]) + len(match[2])
        while len(stack) > 1 and (stack[-1][0] >= indent or len(stack) > _MAX_DEPTH):
            stack.pop()
        if match[2]:  # an item: its fields stand together
            item = Table()
            stack[-1][1].items.append(("", item))
            stack.append((indent - 1, item))
        value = match[4] or ""
        if value:
            text_of = value.split(" #")[0].strip().strip("\"'")
            quoted = value[0] in "\"'"
            scalar = Scalar(text_of, number, quoted, literal=value[0] not in "!&*|>{[")
            stack[-1][1].items.append((match[3], scalar))
        else:
            table = Table()
            stack[-1][1].items.append((match[3], table))
            stack.append((indent, table))
    return root


def _put(stack: list[tuple[Table, bool]], names: list[str | None], node: Node) -> None:
    table, is_mapping = stack[-1]
    if is_mapping and names[-1] is None:  # a mapping as a key
        names[-1] = ""
        return
    table.items.append((names[-1] or "", node))
    names[-1] = None


# -- what is looked for -------------------------------------------------------------------------

_NAMES = (
    "name",
    "key",
    "parameterkey",
    "parametername",
    "variable",
    "option",
    "optionname",
    "parameter_name",
    "id",
)
_VALUES = (
    "value",
    "default",
    "defaultvalue",
    "parametervalue",
    "plaintext_value",
    "plaintextvalue",
)
_SECURE = frozenset({"securestring", "secureobject", "secretstring", "password"})
_YES = frozenset({"true", "yes", "1"})
_SECRET_VALUES = (
    "value",
    "secret_string",
    "secretstring",
    "secret_data",
    "plaintext_value",
    "data_json",
)


def apart(documents: list[Table]) -> Iterator[tuple[int, Degree] | None]:
    """Yield (line, degree) of secrets whose names stand elsewhere, and None after each table."""
    pending: list[tuple[str, Table]] = [("", table) for table in documents]
    while pending:
        name, table = pending.pop()
        yield None
        yield from _in_table(name, table)
        for key, node in table.items:
            if isinstance(node, Table):
                pending.append((key, node))


def _in_table(name: str, table: Table) -> Iterator[tuple[int, Degree]]:
    scalars: dict[str, Scalar] = {}
    for key, node in table.items:
        if isinstance(node, Scalar):
            scalars.setdefault(key.lower(), node)
    if not scalars and not any(key in {"data", "stringData"} for key, _ in table.items):
        return
    if (
        scalars.get("kind", _NOTHING).text == "Secret"
        and scalars.get("apiversion", _NOTHING).text == "v1"
    ):
        yield from _kubernetes(table)
        return
    values = [scalars[key] for key in _VALUES if key in scalars]
    if values:
        own = next((scalars[key].text for key in _NAMES if key in scalars), "")
        secure = (
            scalars.get("type", _NOTHING).text.lower() in _SECURE
            or scalars.get("noecho", _NOTHING).text.lower() in _YES
            or scalars.get("sensitive", _NOTHING).text.lower() in _YES
            or scalars.get("secret", _NOTHING).text.lower() in _YES
        )
        names = [own] if own else [name]
        strength = Holds.PASSWORD if secure else max((holds(n) or 0 for n in names), default=0)
        if strength:
            for value in values:
                yield from _judged(names[0], value, Holds(strength))
    if any("secret" in label for label in table.labels[:2]) and not values:
        for key in _SECRET_VALUES:
            if key in scalars:
                yield from _judged(key, scalars[key], Holds.SECRET)
    elif (
        values
        and table.labels
        and re.search(
            r"(?:vault|kubernetes|actions|manager)\w*_secret",
            table.labels[min(1, len(table.labels) - 1)],
        )
    ):
        for value in values:
            yield from _judged("value", value, Holds.SECRET)


_NOTHING = Scalar("", 0)


def _judged(name: str, value: Scalar, strength: Holds) -> Iterator[tuple[int, Degree]]:
    if not value.literal:
        return
    degree = judge(name, value.text, strength=strength, bare=not value.quoted, expands=False)
    if degree is not None:
        yield value.line, degree


def _kubernetes(table: Table) -> Iterator[tuple[int, Degree]]:
    for key, part in table.items:
        if not isinstance(part, Table) or key not in {"data", "stringData"}:
            continue
        for name, value in part.items:
            if not isinstance(value, Scalar):
                continue
            text = value.text
            if key == "data":
                try:
                    text = base64.b64decode(text, validate=True).decode()
                except (binascii.Error, ValueError):
                    continue  # not what it says, or no text: forms are found in the lines
            if "\n" in text.strip():
                continue  # a file: its text is searched as such
            yield from _judged(name, Scalar(text.strip(), value.line), holds(name) or Holds.TOKEN)
