"""Whether folders still have the stats that were seen; no content is read.

Standard library only: `statpool` also runs this file as a program of its own, where importing the
rest of the project would cost more than the work. A message is a length (4 bytes, little-endian)
and a body: in, ``marshal`` of ``(root, [(folder, paths, fingerprint), …])``; out, one byte a
folder, 1 for unchanged.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import BinaryIO

Item = tuple[str, str, bytes]
"""A folder below the root, the paths below it (``/``-led, a line each), their fingerprint."""

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


if __name__ == "__main__":
    _serve()
