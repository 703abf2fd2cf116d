"""Stats of very many folders, looked up by a few processes at once.

Threads would only wait for one another (each stat gives up and takes back the interpreter's lock),
and forking is not for a process that has threads or a model loaded; so the helpers are small
programs of their own (`statcheck`) that start in some 15 ms and end with this process.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from core.playbooks import statcheck
from core.playbooks.statcheck import Item, read_message, unchanged, write_message

PAGE = 250  # folders in one message, so that it fits into a pipe
FEW = 4 * PAGE  # up to here a helper's start costs more than it saves
MAX_HELPERS = 3
AHEAD = 2  # messages a helper: one in work, one in its pipe


def check(root: Path, items: Iterable[Item]) -> Iterator[bool]:
    """Whether each item's stats are those of its fingerprint, in the items' order."""
    pages = _pages(items)
    first = list(islice(pages, FEW // PAGE))
    helpers = _start(_helpers_wanted()) if len(first) * PAGE >= FEW else []
    try:
        for flags in _spread(str(root), helpers, first, pages):
            yield from map(bool, flags)
    finally:
        for helper in helpers:
            _stop(helper)


def _spread(
    root: str,
    helpers: list[subprocess.Popen[bytes]],
    first: list[list[Item]],
    rest: Iterator[list[Item]],
) -> Iterator[bytes]:
    waiting: deque[tuple[subprocess.Popen[bytes], list[Item]]] = deque()
    number = 0
    for pages in (first, rest):
        for page in pages:
            if not helpers:
                yield unchanged(root, page)
                continue
            helper = helpers[number % len(helpers)]
            number += 1
            with contextlib.suppress(OSError):  # it died: its answer is missing below
                write_message(cast("BinaryIO", helper.stdin), marshal.dumps((root, page)))
            waiting.append((helper, page))
            if len(waiting) >= AHEAD * len(helpers):
                yield _answer(root, *waiting.popleft())
    while waiting:
        yield _answer(root, *waiting.popleft())


def _answer(root: str, helper: subprocess.Popen[bytes], page: list[Item]) -> bytes:
    flags = read_message(cast("BinaryIO", helper.stdout))
    if flags is None or len(flags) != len(page):
        return unchanged(root, page)  # the helper died: nothing is lost but time
    return flags


def _helpers_wanted() -> int:
    # not every Python tells which of the processors it may use
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_HELPERS, cpus - 1)


def _start(count: int) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-S", str(statcheck.__file__)]
    helpers: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):  # no process to be had: this one does it all
        while len(helpers) < count:
            helper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},  # it needs none, and there may be a token in ours
            )
            helpers.append(helper)
    return helpers


def _stop(helper: subprocess.Popen[bytes]) -> None:
    for stream in (helper.stdin, helper.stdout):
        with contextlib.suppress(OSError):
            cast("BinaryIO", stream).close()
    try:
        helper.wait(5)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()


def _pages(items: Iterable[Item]) -> Iterator[list[Item]]:
    page: list[Item] = []
    for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
