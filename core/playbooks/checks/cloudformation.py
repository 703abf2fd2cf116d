"""CloudFormation templates, YAML or JSON.

YAML is read as PyYAML's event stream and not loaded. So the short forms (`!Ref`, `!Sub`, any
`!X`) need no constructors, nothing is built or run, and neither an alias bomb nor deep nesting
costs more than the length of the text.
"""

from __future__ import annotations

import yaml

from core.playbooks.checks import json_text
from core.playbooks.checks.complaints import Complaint, without_script_text

MAX_DEPTH = 200

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


def check(text: str, *, json_only: bool = False) -> list[Complaint]:
    """What the YAML or JSON parser says. `json_only`: the file's name says it is JSON."""
    if json_only or text.lstrip().startswith("{"):
        return json_text.check(text)
    try:
        return _check_events(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return [
            Complaint(
                mark.line + 1 if mark else None,
                without_script_text(error.problem or error.context or "not YAML"),
            )
        ]
    except yaml.YAMLError:
        # the reader's errors: they quote the character
        return [Complaint(None, "it holds a character that YAML does not allow")]
    except (RecursionError, MemoryError):
        return [Complaint(None, "nested too deep to be parsed")]


def _check_events(text: str) -> list[Complaint]:
    anchors: set[str] = set()
    documents = depth = 0
    root: yaml.Event | None = None
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return [Complaint(line, "a template is one YAML document, and here starts another")]
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                return [Complaint(line, "an alias (*) without its anchor (&)")]
        elif isinstance(event, yaml.NodeEvent):
            root = root or event
            if event.anchor:
                anchors.add(event.anchor)
            tag = getattr(event, "tag", None)
            if tag and not tag.startswith("!") and tag not in _CORE_TAGS:
                return [
                    Complaint(line, "a YAML tag (!!) that is neither YAML's nor CloudFormation's")
                ]
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return [Complaint(line, f"nested deeper than {MAX_DEPTH} levels")]
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    if not isinstance(root, yaml.MappingStartEvent):
        return [Complaint(None, "the template is not a mapping")]
    return []
