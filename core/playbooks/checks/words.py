"""What a parser says in words that may be shown and kept; none of it is text of the script.

Warnings end in logs and in the journal, and what parsers put between quotes may be a password.
"""

from __future__ import annotations

import keyword
import re
from typing import Final, NamedTuple

MAX_MESSAGE_CHARS: Final = 160


class Complaint(NamedTuple):
    """What a parser says; `line` counts from 1 and is None where it has no position."""

    line: int | None
    message: str


TOO_DEEP: Final = Complaint(None, "nested too deep to be parsed")

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`']*['`]")
# Kept are only things no one uses as a password: punctuation, and words of the languages themselves.
_LANGUAGE_WORDS = frozenset(keyword.kwlist) | {
    "newline", "then", "do", "done", "fi", "elif", "esac", "case", "until", "select",
    "function", "time", "print", "exec", "utf-8", "unicodeescape", "EOF",
}  # fmt: skip
_PUNCTUATION = re.compile(r"[^\w\s]{1,3}")
# A line that a template engine has still to fill in: Jinja, Go templates, cookiecutter.
_PLACEHOLDER = re.compile(r"\{\{[^{}]{0,200}\}\}|\{%[^%]{0,200}%\}|<%[^%]{0,200}%>|@@\w{1,60}@@")
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
TO_BE_FILLED_IN: Final = "not checked: a placeholder of a template engine stands here"


def without_script_text(message: str) -> str:
    """The parser's words with everything it quotes from the script replaced by `…`."""
    return _QUOTED.sub(_kept_or_dots, message)[:MAX_MESSAGE_CHARS]


def _kept_or_dots(found: re.Match[str]) -> str:
    inner = found[0][1:-1]
    if inner in _LANGUAGE_WORDS or _PUNCTUATION.fullmatch(inner):
        return found[0]
    return "'…'"


def has_placeholder(text: str, line: int | None, *, beside: bool) -> bool:
    """Whether a template engine's placeholder stands on ``line`` of a text, outside of strings.

    ``beside``: also on the lines before and after it, for parsers that stumble late.
    """
    if line is None:
        return False
    lines = text.split("\n")[max(0, line - 1 - beside) : line + beside]
    return any(_PLACEHOLDER.search(_STRING.sub("", each)) for each in lines)
