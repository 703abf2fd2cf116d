"""Look up whether folders still have the stats that were seen, in a few processes at once.

::

    check ──► pages of (folder, paths, fingerprint) ──► this file as a program of its own, or,
                                                        for few folders, in this process

Threads would only wait for one another (each stat gives up and takes back the interpreter's lock),
and forking is not for a process that has threads or a model loaded; so the helpers are small
programs that start in some 15 ms and end with this process. Standard library only, and a file of its
own: importing the rest of the project would cost them more than the work.

A message is a length (4 bytes, little-endian) and a body: in, ``marshal`` of
``(root, [(folder, paths, fingerprint), …])``; out, one byte a folder, 1 for unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

Item = tuple[str, str, bytes]
"""A folder below the root, the paths below it (``/``-led, a line each), their fingerprint."""

PAGE = 250  # folders in one message, so that it fits into a pipe
FEW = 4 * PAGE  # up to here a helper's start costs more than it saves
MAX_HELPERS = 3
AHEAD = 2  # messages a helper: one in work, one in its pipe
DIGEST_BYTES = 16
_INT64 = (1 << 63) - 1
_LENGTH = struct.Struct("<I")


def digest(stats: Iterable[os.stat_result]) -> bytes:
    """One value for size, mtime, ctime and inode of several files, in their order."""
    values: list[int] = []
    for found in stats:
        inode = found.st_ino & _INT64  # some network file systems use all 64 bits
        values += (found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode)
    return hashlib.blake2b(_packer(len(values)).pack(*values), digest_size=DIGEST_BYTES).digest()


def unchanged(root: str, items: Sequence[Item]) -> bytes:
    """One byte an item: 1 where the stats are those of the fingerprint, else 0."""
    stat, flags = os.stat, bytearray(len(items))
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return bytes(flags)
    try:
        for number, (folder, paths, fingerprint) in enumerate(items):
            try:
                found = [
                    stat(folder + path, dir_fd=fd, follow_symlinks=False)
                    for path in paths.split("\n")
                ]
            except OSError:  # gone, or not permitted any more: a close look tells
                continue
            flags[number] = digest(found) == fingerprint
    finally:
        os.close(fd)
    return bytes(flags)


def write_message(stream: BinaryIO, body: bytes) -> None:
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def read_message(stream: BinaryIO) -> bytes | None:
    """The next body; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def _serve() -> None:
    while (body := read_message(sys.stdin.buffer)) is not None:
        write_message(sys.stdout.buffer, unchanged(*marshal.loads(body)))  # noqa: S302  our parent's


@lru_cache(maxsize=256)
def _packer(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}q")


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
    command = [sys.executable, "-I", "-S", str(__file__)]
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


if __name__ == "__main__":
    _serve()
