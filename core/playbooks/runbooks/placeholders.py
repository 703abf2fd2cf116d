r"""Turns the placeholders of a tool's shell command into variables of the shell, seeing its quotes.

::

    echo {{ name }} "{{name}}" '{{name}}'   ──►   echo "${NAME}" "${NAME}" '"${NAME}"'

What the tools paste as text becomes an expansion, which the shell never reads as code. In a here
document whose word is quoted nothing is expanded; such a placeholder stays, and is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

_HERE = re.compile(r"<<(-?)[ \t]*(['\"\\]?)([A-Za-z_][A-Za-z0-9_]*)")
_ANSI = re.compile(r"\$'(?:[^'\\]|\\.)*'", re.DOTALL)
_MAX_LOOKED_AT = 256 << 10
_READS_AGAIN = re.compile(
    r"\b(?:eval|ssh|su|let|xargs|watch)\s|\b(?:ba|z|k|da|a)?sh\s+(?:-\w+\s+)*-\w*c\b"
    r"|\b(?:(?:ba|z|k|da|a)?sh|python[\d.]*|perl|ruby|node|p?sql|mysql)\b[^\n]{0,400}<<"
    r"|\b(?:python[\d.]*|perl|ruby|node|mysql|psql)\s[^\n]{0,400}-[ce]\b"
    r"|\(\(|\[\[[^\n]{0,400}\s-(?:eq|ne|lt|le|gt|ge)\s"
)
_AWK = re.compile(
    r"\bawk\b[^'\"\n]{0,200}((?:'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|[^\s'\"|;])++)", re.DOTALL
)


def reads_again(command: str, placeholder: re.Pattern[str]) -> bool:
    """Whether a command hands a placeholder's value to something that may read it as code.

    To another shell, an interpreter, or bash's arithmetic: there no quotes help.
    """
    if placeholder.search(command) is None:
        return False
    if len(command) > _MAX_LOOKED_AT or _READS_AGAIN.search(command) is not None:
        return True
    marked = placeholder.sub("\0", command)  # it may hold blanks, which end a word
    return any("\0" in program[1] for program in _AWK.finditer(marked))


def expanded(
    command: str, placeholder: re.Pattern[str], variable_of: Callable[[str], str | None]
) -> tuple[str, list[str]]:
    """Return the command with variables, and the placeholders that had to stay.

    ``placeholder`` has the name as its first group; ``variable_of`` gives its variable, or None for
    what is none.
    """
    return _Reader(command, placeholder, variable_of).read()


class _Reader:
    """One pass over a command; it knows in which quotes it stands."""

    def __init__(
        self,
        command: str,
        placeholder: re.Pattern[str],
        variable_of: Callable[[str], str | None],
    ) -> None:
        self._text = command
        self._placeholder = placeholder
        self._variable_of = variable_of
        self._quote = ""
        self._outside: list[str] = []  # the quotes around each open bracket
        self._here: list[tuple[bool, bool, str]] = []  # tabs stripped, quoted, word
        self._out: list[str] = []
        self._left: list[str] = []

    def read(self) -> tuple[str, list[str]]:
        at = 0
        while at < len(self._text):
            if found := self._placeholder.match(self._text, at):
                self._out.append(self._replaced(found, literal=False))
                at = found.end()
                continue
            at = self._step(at)
        return "".join(self._out), self._left

    def _step(self, at: int) -> int:
        """Take one character, or what must stay together, and follow the quotes."""
        sign = self._text[at]
        end = at + 1
        if self._quote == "'":
            self._quote = "" if sign == "'" else "'"
        elif sign == "\\":
            end = at + 2
        elif sign == "$" and self._text.startswith("$(", at):
            end = at + 2
            self._outside.append(self._quote)
            self._quote = ""
        elif sign == '"':
            self._quote = "" if self._quote else '"'
        elif self._quote:
            pass
        elif sign == "$" and (ansi := _ANSI.match(self._text, at)):
            end = ansi.end()
            self._left += [found[0] for found in self._placeholder.finditer(ansi[0])]
        elif sign == "(":
            self._outside.append("")
        elif sign == ")" and self._outside:
            self._quote = self._outside.pop()
        elif sign == "'":
            self._quote = "'"
        elif sign == "#" and (at == 0 or self._text[at - 1] in " \t\n;"):
            end = self._line_end(at)
        elif sign == "<" and (found := _HERE.match(self._text, at)):
            self._here.append((bool(found[1]), bool(found[2]), found[3]))
            end = self._after_word(found)
        elif sign == "\n" and self._here:
            self._out.append(sign)
            return self._documents(end)
        self._out.append(self._text[at:end])
        return end

    def _after_word(self, found: re.Match[str]) -> int:
        closing = found[2] in {"'", '"'} and self._text[found.end() : found.end() + 1] == found[2]
        return found.end() + closing

    def _line_end(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end

    def _documents(self, at: int) -> int:
        """Take the here documents that begin on this line."""
        while self._here:
            tabs, is_quoted, word = self._here.pop(0)
            while at < len(self._text):
                end = self._line_end(at)
                line = self._text[at:end]
                closed = (line.lstrip("\t") if tabs else line) == word
                if closed:
                    self._out.append(line)
                else:
                    replaced = partial(self._replaced, literal=is_quoted, here=True)
                    self._out.append(self._placeholder.sub(replaced, line))
                self._out.append(self._text[end : end + 1])
                at = end + 1
                if closed:
                    break
        return min(at, len(self._text))

    def _replaced(self, found: re.Match[str], *, literal: bool, here: bool = False) -> str:
        variable = self._variable_of(found[1])
        if variable is None or literal:
            if found[0] not in self._left:
                self._left.append(found[0])
            return found[0]
        if here or self._quote == '"':
            return f"${{{variable}}}"
        return f"'\"${{{variable}}}\"'" if self._quote else f'"${{{variable}}}"'
