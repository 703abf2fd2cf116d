"""Scans one content to its end: its texts, the documents and the base64 in them.

::

    content ─► contents.texts ─┬─► tokens        forms that only a secret has
                               ├─► assignments   values given to names that say so
                               ├─► commands      flags, SQL, pipes, sign-in calls
                               ├─► structure     JSON, YAML, HCL: name and value apart
                               └─► base64 in it, once more the same

The rules are our own, each looked at only where one of its words stands (`needles`, one pattern of
keywords): two fifths less time than detect-secrets' plugins over every line took, for twice the forms
(`benchmarks/secrets.py` measures it). Detectors by entropy alone are left out: over 2,998 real playbooks they
found resource ids and digests.

A scan is bounded in processor time, not by the clock on the wall: what is found is kept, and must not
depend on what else the machine does.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from core.secrets import Degree, Spot
from core.secrets.contents import BINARY, PLAIN, YAML, Opaque, syntax_of, texts

__all__ = ["scan_content", "scanner_version", "search", "syntax_of"]

# Raise it with every change of what is found, here or in the modules beside: what was kept of
# earlier scans is then scanned again.
_RULES = "4"

MAX_BYTES = 1024 * 1024
MAX_SPOTS = 100
DEADLINE_SECONDS = 5.0
TOO_LARGE = "not scanned: larger than 1 MiB"
TOO_SLOW = f"not scanned to its end: took longer than {DEADLINE_SECONDS:.0f} s"
TOO_MANY = f"not scanned to its end: {MAX_SPOTS} findings"
_LOOK_AT_CLOCK_EVERY = 16  # looks at a place
_ALLOWED = re.compile(r"pragma: ?(?:allow|white)list[ -]secret")
_ESCAPED_SIGN = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Match(NamedTuple):
    """A line with a secret of a kind; ``marked``: an allow-list comment stands on it."""

    line: int
    kind: str
    degree: Degree
    marked: bool


class _TooSlow(Exception):
    """The scan took too long."""


class _Clock:
    """Raises `_TooSlow` when the time is over; looked at where a finder has looked at a place."""

    def __init__(self) -> None:
        self._end = time.thread_time() + DEADLINE_SECONDS
        self._looks = 0

    def tick(self) -> None:
        self._looks += 1
        if self._looks % _LOOK_AT_CLOCK_EVERY == 0:
            self.look()

    def look(self) -> None:
        if time.thread_time() > self._end:
            raise _TooSlow


def scanner_version() -> str:
    """Return the scanner's version, which changes whenever the same content may be found to hold something else."""
    return _RULES


def scan_content(path: str, content: bytes) -> list[Spot]:
    """Return what looks like a secret in a file's content, each (line, kind) once, by line.

    What can't be scanned is a certain finding that says why: too large, too slow, too many
    findings, encrypted, an archive that can't be opened. Safe in threads, and on anything.
    """
    if len(content) > MAX_BYTES:
        return [Spot(0, TOO_LARGE, Degree.CERTAIN)]
    found: dict[tuple[str, int, str], Spot] = {}
    end = None
    try:
        for spot in _spots(path, content):
            known = found.get((spot.member, spot.line, spot.kind))
            if known is None or spot.degree is Degree.CERTAIN:
                found[spot.member, spot.line, spot.kind] = spot
            if len(found) >= MAX_SPOTS:
                end = Spot(0, TOO_MANY, Degree.CERTAIN)
                break
    except _TooSlow:
        end = Spot(0, TOO_SLOW, Degree.CERTAIN)
    spots = sorted(_without_wholes(list(found.values())))
    return spots if end is None else [*spots, end]


def _spots(path: str, content: bytes) -> Iterator[Spot]:
    clock = _Clock()
    for part in texts(content):
        if isinstance(part, Opaque):
            yield Spot(0, part.kind, Degree.CERTAIN, member=part.member)
            continue
        if part.is_binary:
            yield Spot(0, BINARY, Degree.POSSIBLE, member=part.member)
        syntax = syntax_of(part.member or path)
        for match in search(part.text, syntax, clock, is_binary=part.is_binary):
            marked = match.marked and not part.member
            yield Spot(match.line, match.kind, match.degree, marked, part.member)
        clock.look()


def search(
    text: str, syntax: str, clock: _Clock | None = None, *, is_binary: bool = False
) -> Iterator[Match]:
    """Yield what looks like a secret in a text that is read in a syntax (`syntax_of` its path).

    Of a binary file the lines mean nothing, and words in it are no assignment: only forms are
    certain there.
    """
    # here and in `_in_text`, not above: they compile some two hundred patterns, for nothing where
    # a process only reads what earlier scans found
    from core.secrets.assignments import KEYWORD
    from core.secrets.commands import COMMAND
    from core.secrets.structure import apart, documents

    clock = clock or _Clock()
    lines = [match.end() for match in re.finditer("\n", text)]
    lowered = text.lower()
    marks = _marked_lines(text, lowered, lines)

    def match(line: int, kind: str, degree: Degree) -> Match:
        if is_binary:
            return Match(
                0, kind, degree if kind not in {KEYWORD, COMMAND} else Degree.POSSIBLE, marked=False
            )
        return Match(line, kind, degree, line in marks)

    for at, kind, degree in _in_text(text, syntax, clock):
        yield match(bisect_right(lines, at) + 1, kind, degree)
    if not is_binary:
        for found in apart(documents(syntax, text, lowered, clock.look)):
            clock.tick()
            if found is not None:
                yield match(found[0], KEYWORD, found[1])
    if "\\u00" in text:  # signs that JSON's writers escape: `=`, `&`, `<`
        unescaped = _ESCAPED_SIGN.sub(lambda found: chr(int(found[1], 16)), text)
        if unescaped != text:
            ends = [found.end() for found in re.finditer("\n", unescaped)]
            for at, kind, degree in _in_text(unescaped, syntax, clock):
                yield match(bisect_right(ends, at) + 1, kind, degree)
    for at, decoded in _base64(text):
        clock.tick()
        for _, kind, degree in _in_text(decoded, PLAIN, clock):
            yield match(bisect_right(lines, at) + 1, kind, degree)


def _in_text(text: str, syntax: str, clock: _Clock) -> Iterator[tuple[int, str, Degree]]:
    """(offset, kind, degree) of what is found by its place in a text alone."""
    from core.secrets.assignments import KEYWORD, assigned, may_hold
    from core.secrets.commands import COMMAND, in_lines, on_command_lines
    from core.secrets.tokens import forms_in

    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose small one has more characters
        lowered = text.translate(_ASCII_LOWER)
    for form in forms_in(text):
        clock.tick()
        if form is not None:
            yield form
    if may_hold(lowered):
        for given in assigned(text, lowered, bare=syntax in {PLAIN, YAML}):
            clock.tick()
            if given is not None:
                yield given[0], KEYWORD, given[1]
    for finder in (on_command_lines(text), in_lines(text, lowered)):
        for given in finder:
            clock.tick()
            if given is not None:
                yield given[0], COMMAND, given[1]


def _marked_lines(text: str, lowered: str, lines: list[int]) -> set[int]:
    if "pragma" not in lowered:
        return set()
    return {bisect_right(lines, match.start()) + 1 for match in _ALLOWED.finditer(text)}


# -- base64 ------------------------------------------------------------------------------------

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/]{24,}+={0,2}(?![A-Za-z0-9_-])")
_PROBE = 24
_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]*")


def _base64(text: str) -> Iterator[tuple[int, str]]:
    """(offset, text) of each base64 that is a text again, UTF-16 as PowerShell's commands too."""
    for run in _BASE64.finditer(text):
        try:
            start = base64.b64decode(run[0][:_PROBE])
            if not (
                _PRINTABLE.fullmatch(start)
                or (_PRINTABLE.fullmatch(start[::2]) and not any(start[1::2]))
            ):
                continue
            content = base64.b64decode(run[0] + "=" * (-len(run[0]) % 4))
        except (binascii.Error, ValueError):
            continue
        wide = content[1:2] == b"\0"
        yield run.start(), content.decode("utf-16-le" if wide else "utf-8", "replace")


def _without_wholes(spots: list[Spot]) -> list[Spot]:
    """Without what was found in an archive's own bytes and again, as often, in its members."""
    counts: dict[tuple[str, str], int] = {}
    for spot in spots:
        counts[spot.kind, spot.member] = counts.get((spot.kind, spot.member), 0) + 1

    def is_told_again(spot: Spot) -> bool:
        inside = sum(
            count
            for (kind, member), count in counts.items()
            if kind == spot.kind and member != spot.member and member.startswith(spot.member)
        )
        return spot.kind != BINARY and inside >= counts[spot.kind, spot.member]

    return [spot for spot in spots if not is_told_again(spot)]
