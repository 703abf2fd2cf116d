"""Reads YAML, JSON and XML documents of other tools, in a child of the sandbox; imports little.

Values come out as JSON: YAML's timestamps stay text, a value under a tag (``!vault``) becomes
``{"$tag": …, "value": …}``, an XML element ``{"tag", "attributes", "text", "children"}``. Depth and
number of values are bounded, aliases counted as often as they are used, and an XML document type
(entities) is refused.
"""

from __future__ import annotations

import math
from typing import Any, Final
from xml.parsers import expat

import yaml

from core.bounded_json import BadJson, read_json

MAX_DEPTH: Final = 26  # the answer's own levels come on top
MAX_VALUES: Final = 100_000
MAX_DOCUMENTS: Final = 500
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not every build of PyYAML has libyaml's
_IN_ROOT = 2  # elements that are open, one of them our own, where the outermost holds another
_CORE = "tag:yaml.org,2002:"


class Refused(ValueError):
    """What is wrong with a document, beginning with a verb; holds none of its text."""


def read(argument: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return ``{"documents": […], "parts": […]}``, or ``{"error": why}`` of a text of another kind.

    ``argument`` is ``{kind}``: ``yaml`` (JSON included), ``json`` or ``xml``. ``parts`` says where the
    items of the outermost list stand, or the elements in the outermost one: ``[start, end]`` in lines
    of YAML, in bytes of XML; there is none of JSON.
    """
    kind = argument["kind"]
    try:
        text = decoded(content)
        if kind == "xml":
            tree = _Tree(text)
            return {"documents": [tree.root], "parts": tree.parts}
        if kind == "json" or text.lstrip()[:1] in {"{", "["}:
            try:
                return {"documents": [read_json(text, depth=MAX_DEPTH)], "parts": []}
            except BadJson as error:
                if kind == "json":
                    raise Refused(error.why) from error
        composer = _Composer(text)
        return {"documents": composer.documents(), "parts": composer.parts}
    except Refused as error:
        return {"error": str(error)}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return {"error": f"is not YAML (line {mark.line + 1})" if mark else "is not YAML"}
    except yaml.YAMLError:
        return {"error": "holds a character that YAML does not allow"}
    except expat.ExpatError as error:
        return {"error": f"is not XML (line {error.lineno})"}


def decoded(content: bytes) -> str:
    """The text of a file of Windows or Unix; raises `Refused` for none."""
    wide = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}.get(content[:2])
    try:
        return content.decode(wide or "utf-8-sig")
    except UnicodeDecodeError:
        raise Refused("is not text in UTF-8") from None


class _Composer:
    """The documents of a YAML stream as JSON values."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = MAX_VALUES
        self._loader: Any = None
        self.parts: list[list[int]] = []

    def documents(self) -> list[Any]:
        self._check_depth()
        self._loader = _Loader(self._text)
        found: list[Any] = []
        while self._loader.check_node():
            if len(found) >= MAX_DOCUMENTS:
                raise Refused(f"has more than {MAX_DOCUMENTS} documents")
            node = self._loader.get_node()
            if isinstance(node, yaml.SequenceNode) and not found:
                lines = [item.start_mark.line for item in node.value]
                self.parts = [
                    [start, end]
                    for start, end in zip(lines, [*lines[1:], node.end_mark.line + 1], strict=False)
                ]
            found.append(self._value(node, 0))
        return found

    def _check_depth(self) -> None:
        """Look at the events first: the composer recurses."""
        depth = 0
        for event in yaml.parse(self._text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise Refused(f"is nested too deeply: more than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _value(self, node: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Refused(f"has more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:  # by aliases
            raise Refused(f"is nested too deeply: more than {MAX_DEPTH} levels")
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self._value(item, depth + 1) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node, depth)
        else:
            return self._scalar(node)
        return value if node.tag.startswith(_CORE) else {"$tag": node.tag, "value": value}

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Refused("has a key that is no plain text")
            value = self._value(item, depth + 1)
            if key.tag == f"{_CORE}merge":
                for one in value if isinstance(value, list) else [value]:
                    merged = (one if isinstance(one, dict) else {}) | merged
            else:
                own[key.value] = value
        return merged | own

    def _scalar(self, node: Any) -> Any:
        kind = node.tag.removeprefix(_CORE)
        if kind == "null":
            return None
        if kind == "bool":
            return bool(self._loader.construct_yaml_bool(node))
        if kind == "int":
            return int(self._loader.construct_yaml_int(node))
        if kind == "float":
            number = float(self._loader.construct_yaml_float(node))
            return number if math.isfinite(number) else node.value
        if node.tag.startswith(_CORE):
            return node.value
        return {"$tag": node.tag, "value": node.value}


class _Tree:
    """An XML document as nested objects."""

    def __init__(self, text: str) -> None:
        self._open: list[dict[str, Any]] = [{"children": []}]
        self._left = MAX_VALUES
        self.parts: list[list[int]] = []
        self._bytes = text.encode()
        parser = expat.ParserCreate("utf-8")
        self._parser = parser
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(self._bytes, True)
        self.root = self._open[0]["children"][0]

    def _doctype(self, *_: object) -> None:
        raise Refused("has a document type, which may hold entities")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._left -= 1 + len(attributes)
        if self._left < 0:
            raise Refused(f"has more than {MAX_VALUES} values")
        if len(self._open) * 2 > MAX_DEPTH:
            raise Refused("is nested too deeply")
        element: dict[str, Any] = {
            "tag": tag, "attributes": attributes, "text": "", "children": [],
        }  # fmt: skip
        if len(self._open) == _IN_ROOT:
            self.parts.append([self._parser.CurrentByteIndex, 0])
        self._open[-1]["children"].append(element)
        self._open.append(element)

    def _end(self, _tag: str) -> None:
        self._open.pop()
        if len(self._open) == _IN_ROOT:
            self.parts[-1][1] = self._bytes.index(b">", self._parser.CurrentByteIndex) + 1

    def _text(self, text: str) -> None:
        self._open[-1]["text"] += text
