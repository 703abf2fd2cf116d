"""What one parser says about one file, and the rule that no script text gets into it."""

from __future__ import annotations

import keyword
import re
from typing import NamedTuple

MAX_MESSAGE_CHARS = 160

# What parsers put between quotes is script text, and script text may be a password. Kept are
# only things no one uses as one: punctuation, and words of the languages themselves.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`']*['`]")
_LANGUAGE_WORDS = frozenset(keyword.kwlist) | {
    "newline", "then", "do", "done", "fi", "elif", "esac", "case", "until", "select",
    "function", "time", "print", "exec", "utf-8", "unicodeescape",
}  # fmt: skip
_PUNCTUATION = re.compile(r"[^\w\s]{1,3}")


class Complaint(NamedTuple):
    """`line` counts from 1 and is None where the parser has no position."""

    line: int | None
    message: str


def without_script_text(message: str) -> str:
    """The parser's words with everything it quotes from the script replaced by `…`."""
    return _QUOTED.sub(_kept_or_dots, message)[:MAX_MESSAGE_CHARS]


def _kept_or_dots(found: re.Match[str]) -> str:
    inner = found[0][1:-1]
    if inner in _LANGUAGE_WORDS or _PUNCTUATION.fullmatch(inner):
        return found[0]
    return "'…'"
