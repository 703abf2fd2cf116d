"""Reads the upper levels of YAML documents from a parser's events; nothing is loaded or built.

So the short forms (`!Ref`, `!Sub`, any `!X`) need no constructors, nothing is run, and neither an alias
bomb nor deep nesting costs more than the length of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from core.playbooks.checks.words import Complaint, without_script_text

MAX_DEPTH: Final = 200
LEVELS: Final = 3
"""Levels of mappings that are kept: sections, their members, the members' keys."""

# libyaml's parser is ten times as fast; not every build of PyYAML has it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_CORE_TAGS = frozenset(
    _CORE + name
    for name in (
        "null", "bool", "int", "float", "binary", "timestamp", "omap", "pairs", "set", "str",
        "seq", "map", "merge", "value",
    )
)  # fmt: skip


class _Other:
    """What stands for a value that is not known here: an alias, or one with a tag."""


OTHER: Final = _Other()
LIST: Final = ("a list",)


class Entry(NamedTuple):
    """A value with its line: a dict of entries, a text, None, `LIST`, or `OTHER`.

    Of a list right below the root its texts are kept: it is a list of them.
    """

    line: int | None
    value: Any


@dataclass(slots=True)
class Document:
    """One document: the upper levels of its root, its own tags, and what is wrong beside syntax.

    ``nulls`` are the levels and lines of keys that have no value and another key after them: what
    was meant as their value may stand beside them.
    """

    root: Entry
    nulls: list[tuple[int, int]] = field(default_factory=list)
    tags: list[tuple[str, int]] = field(default_factory=list)
    fault: Complaint | None = None


def documents(text: str) -> tuple[list[Document], Complaint | None]:
    """Documents of a text that hold anything, and what makes it no YAML, or None."""
    try:
        return [found for found in _Reader().read(text) if found.root.value is not None], None
    except _Refused as error:
        return [], error.complaint
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return [], Complaint(None, without_script_text(error.problem or "not YAML"))
        return [], Complaint(mark.line + 1, _in_words(error, text, mark))
    except yaml.YAMLError:
        # the reader's errors: they quote the character
        return [], Complaint(None, "it holds a character that YAML does not allow")


def _in_words(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark) -> str:
    said = without_script_text(error.problem or error.context or "not YAML")
    line = text.split("\n")[mark.line : mark.line + 1]
    before = line[0][: mark.column + 1] if line else ""
    if "\t" in before and not before.strip():
        return "a tab in the indentation: YAML takes only spaces"
    if "mapping values are not allowed" in said or said.startswith("did not find expected key"):
        return f"{said}: is the indentation right?"
    return said


def json_as_document(value: Any) -> Document:
    """The same of a value that JSON's parser read; it knows no lines."""
    return Document(_json_entry(value, LEVELS))


def _json_entry(value: Any, levels: int) -> Entry:
    if isinstance(value, dict):
        if not levels:
            return Entry(None, OTHER)
        return Entry(None, {key: _json_entry(one, levels - 1) for key, one in value.items()})
    if isinstance(value, list):
        return Entry(None, value if levels == LEVELS - 1 else LIST)
    return Entry(None, value)


class _Refused(Exception):
    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Reader:
    """Turns events into documents; keeps `LEVELS` levels and only counts what is deeper."""

    def __init__(self) -> None:
        self._found: list[Document] = []
        self._anchors: set[str] = set()
        # of each open collection: the mapping or list that is filled (None: nothing is kept), whether it
        # is a mapping, the key whose value comes next, and the line of one before it without a value
        self._open: list[list[Any]] = []

    def read(self, text: str) -> list[Document]:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
            elif isinstance(event, yaml.DocumentStartEvent):
                self._found.append(Document(Entry(_line(event), None)))
                self._anchors.clear()
        return self._found

    def _node(self, event: yaml.NodeEvent) -> None:
        line = _line(event)
        value: Any
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Refused(Complaint(line, "an alias (*) without its anchor (&)"))
            self._put(OTHER, line, key=None)
            return
        if event.anchor:
            self._anchors.add(event.anchor)
        tag = getattr(event, "tag", None)
        own = tag is not None and self._tag(tag, line)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0]
            value = (
                None if plain and event.value in {"", "~", "null", "Null", "NULL"} else event.value
            )
            self._put(OTHER if own else value, line, key=event.value)
            return
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        kept = (
            is_mapping
            and len(self._open) < LEVELS
            and (not self._open or self._open[-1][0] is not None)
        )
        filled: dict[str, Entry] | list[Any] | None = {} if kept else None
        if not is_mapping and len(self._open) == 1 and self._open[-1][0] is not None:
            filled = []
        value = (OTHER if is_mapping else LIST) if filled is None else filled
        self._put(OTHER if own else value, line, key=None)
        self._open.append([filled, is_mapping, None, None])
        if len(self._open) > MAX_DEPTH:
            raise _Refused(Complaint(line, f"nested deeper than {MAX_DEPTH} levels"))

    def _tag(self, tag: str, line: int) -> bool:
        """Note a tag of the document's own; whether it is one."""
        document = self._found[-1]
        if tag == "!":
            return False  # "as it stands": a text
        if tag.startswith("!"):
            document.tags.append((tag, line))
            return True
        if tag not in _CORE_TAGS and document.fault is None:
            said = "a YAML tag (!!) that is neither YAML's nor CloudFormation's"
            document.fault = Complaint(line, said)
        return False

    def _put(self, value: Any, line: int, key: str | None) -> None:
        """A node came: it is a key, or the value of the key before it."""
        if not self._open:
            self._found[-1].root = Entry(line, value)
            return
        top = self._open[-1]
        filled, is_mapping, waiting, empty = top
        if is_mapping and waiting is None:
            top[2] = ("" if key is None else key, line)
            if empty is not None:
                self._found[-1].nulls.append((len(self._open), empty))
            return
        if is_mapping:
            top[2], top[3] = None, waiting[1] if value is None else None
            if filled is not None:
                filled[waiting[0]] = Entry(waiting[1], value)
        elif filled is not None:
            filled.append(value)
