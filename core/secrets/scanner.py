"""One content, scanned to its end or with a word that it was not.

Bounded in processor time, not by the clock on the wall: what is found is kept, and must not depend
on what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.secrets.contents import BINARY, Opaque, texts
from core.secrets.findings import Degree, Spot
from core.secrets.patterns import search

MAX_BYTES = 1024 * 1024
MAX_SPOTS = 100
DEADLINE_SECONDS = 5.0
TOO_LARGE = "not scanned: larger than 1 MiB"
TOO_SLOW = f"not scanned to its end: took longer than {DEADLINE_SECONDS:.0f} s"
TOO_MANY = f"not scanned to its end: {MAX_SPOTS} findings"
_LOOK_AT_CLOCK_EVERY = 16  # pieces of lines


def scan_content(path: str, content: bytes) -> list[Spot]:
    """What looks like a secret in a file's content, each (line, kind) once, by line.

    What can't be scanned is a certain finding that says why: too large, too slow, too many
    findings, encrypted, an archive that can't be opened. Safe in threads, and on anything.
    """
    if len(content) > MAX_BYTES:
        return [Spot(0, TOO_LARGE, Degree.CERTAIN)]
    found: dict[tuple[str, int, str], Spot] = {}
    end = None
    for spot in _spots(path, content):
        known = found.get((spot.member, spot.line, spot.kind))
        if known is None or spot.degree is Degree.CERTAIN:
            found[spot.member, spot.line, spot.kind] = spot
        if spot.kind == TOO_SLOW or len(found) >= MAX_SPOTS:
            end = Spot(0, TOO_SLOW if spot.kind == TOO_SLOW else TOO_MANY, Degree.CERTAIN)
            break
    spots = sorted(_without_wholes(list(found.values())))
    if end is not None:
        spots = [spot for spot in spots if spot.kind != TOO_SLOW] + [end]
    return spots


def _spots(path: str, content: bytes) -> Iterator[Spot]:
    deadline = time.thread_time() + DEADLINE_SECONDS
    pieces = 0
    for part in texts(content):
        if isinstance(part, Opaque):
            yield Spot(0, part.kind, Degree.CERTAIN, member=part.member)
            continue
        if part.is_binary:
            yield Spot(0, BINARY, Degree.POSSIBLE, member=part.member)
        for match in search(part.text, part.member or path, is_binary=part.is_binary):
            if match is not None:
                marked = match.marked and not part.member
                yield Spot(match.line, match.kind, match.degree, marked, part.member)
            pieces += 1
            if pieces % _LOOK_AT_CLOCK_EVERY == 0 and time.thread_time() > deadline:
                yield Spot(0, TOO_SLOW, Degree.CERTAIN)
                return
        if time.thread_time() > deadline:
            yield Spot(0, TOO_SLOW, Degree.CERTAIN)
            return


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
