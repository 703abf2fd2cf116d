"""Reads JSON as its readers do: strictly, or as Azure takes it, with comments, line breaks in strings, last commas."""

from __future__ import annotations

import json
import re
from typing import Any

from core.playbooks.checks.words import Complaint

_STRING_OR_COMMENT = re.compile(r'"|//|/\*')
_STRING_END = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STRING_OR_LAST_COMMA = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+")|,(?=\s*[}\]])', re.DOTALL)
_NO_BREAK = re.compile(r"[^\n]")


class BadJsonText(Exception):
    """A text is not JSON; ``complaint`` says where and why."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


def read_json(text: str, *, relaxed: bool = False) -> Any:
    """Return the value of a JSON text; raises `BadJsonText`, and RecursionError where it is deep.

    ``relaxed`` takes what Azure Resource Manager takes, too: comments, line breaks in strings, and a
    comma after the last member.
    """
    if relaxed:
        text = without_comments(text)
        try:
            return _parsed(text, strict=False)
        except json.JSONDecodeError:
            text = _STRING_OR_LAST_COMMA.sub(lambda part: part[1] or " ", text)
    try:
        return _parsed(text, strict=not relaxed)
    except json.JSONDecodeError as error:
        # column, too, for machine-written JSON may be one single line
        raise BadJsonText(Complaint(error.lineno, _in_words(error))) from None


def _parsed(text: str, *, strict: bool) -> Any:
    # numbers stay text: an integer of a million digits takes minutes to convert
    return json.loads(
        text, parse_int=str, parse_float=str, parse_constant=_refuse_constant, strict=strict
    )


def _in_words(error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data":
        return f"text after the end of the document: column {error.colno}"
    if error.pos >= len(error.doc.rstrip()):
        return "the document ends before it is complete: a brace, bracket or quote is not closed"
    return f"{error.msg.removesuffix(' at')}: column {error.colno}"


def _refuse_constant(name: str) -> None:
    """NaN, Infinity and -Infinity: Python's parser takes them, and JSON does not have them."""
    raise BadJsonText(Complaint(None, f"{name} is not JSON"))


def without_comments(text: str) -> str:
    """The text with blanks for its comments, so that lines and columns stay.

    Raises `BadJsonText` for a comment that has no end. Takes one pass, whatever the text is.
    """
    parts: list[str] = []
    kept = at = 0
    while found := _STRING_OR_COMMENT.search(text, at):
        start = found.start()
        if found[0] == '"':
            end = _STRING_END.match(text, found.end())
            if end is None:
                break  # the string has no end: JSON's parser says where
            at = end.end()
            continue
        if found[0] == "//":
            stop = text.find("\n", start)
            stop = len(text) if stop < 0 else stop
        else:
            end_of_it = text.find("*/", start + len("/*"))
            stop = end_of_it + len("*/")
            if end_of_it < 0:
                line = text.count("\n", 0, start) + 1
                raise BadJsonText(Complaint(line, "a comment /* that is never closed"))
        parts += [text[kept:start], _NO_BREAK.sub(" ", text[start:stop])]
        kept = at = stop
    return "".join([*parts, text[kept:]])
