"""Reads any archive's members in pages, in a child of the sandbox; imports little.

A member's ``kind`` is ``file``, ``folder``, ``link``, ``hard link``, or why it can't be taken:
``encrypted``, ``unsupported``, ``damaged``, ``other``. Only files and damaged members have bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.errors import EscherError, UsageError
from core.limits import MIB
from core.playbooks.archives import kinds
from core.playbooks.archives.kinds import COMPRESSED, FETCH_AGAIN, Damaged, EndMissing, Untrusted

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FILE: Final = "file"
FOLDER: Final = "folder"
LINK: Final = "link"
HARD_LINK: Final = "hard link"
ENCRYPTED: Final = "encrypted"
UNSUPPORTED: Final = "unsupported"
DAMAGED: Final = "damaged"
OTHER: Final = "other"
LINKS: Final = frozenset({LINK, HARD_LINK})
WITH_BYTES: Final = frozenset({FILE, DAMAGED})

MAX_NAME_CHARS: Final = 2048  # longer ones are refused anyway, and are cut
PART_BYTES: Final = MIB
_PAGE = 500
_PAGE_SECONDS = 1.0
_FREE_BYTES = 256 * MIB
_MAX_RATIO = 200


class Member(NamedTuple):
    """What an archive says of a member; ``target`` is a link's."""

    name: str
    size: int
    kind: str
    executable: bool = False
    target: str = ""


Told = Member | bytes
"""A member, or a piece of the bytes of one: all pieces of one, then those of the next."""


def members(argument: dict[str, Any], _content: bytes) -> Iterator[tuple[Any, bytes]]:
    """Yield every member, and the files' bytes one after the other, in messages of their own lengths.

    ::

        {path, max_bytes, max_members}  ──►  {"members": [Member, …]} and the next bytes, …
                                             at a fault, last: {"error": [kind, detail, remedy]}

    A member may come before or after its bytes; their order is one and the same.
    """
    path, most = Path(argument["path"]), int(argument["max_members"])
    page: list[Member] = []
    content = bytearray()
    count, told = 0, time.monotonic()
    failure: list[Any] | None = None
    try:
        with path.open("rb") as file:
            for item in _read(file, path.name, int(argument["max_bytes"])):
                if isinstance(item, Member):
                    page.append(item)
                    count += 1
                    if count > most:
                        raise Untrusted(f"{path.name} has more than {most} members.", "Split it.")
                else:
                    content += item
                late = time.monotonic() - told > _PAGE_SECONDS
                if late or len(content) >= PART_BYTES or len(page) >= _PAGE:
                    yield {"members": page}, bytes(content)
                    page, content, told = [], bytearray(), time.monotonic()
    except EscherError as error:
        failure = [type(error).__name__, error.detail, error.remedy]
    except OSError as error:
        failure = ["OSError", error.errno or 0, str(error.filename or "")]
    yield {"members": page}, bytes(content)
    if failure is not None:
        yield {"error": failure}, b""


def _read(file: io.BufferedReader, name: str, max_bytes: int) -> Iterator[Told]:
    """What the reader of its kind yields: at most ``max_bytes``, and less of a small file."""
    head = file.read(kinds.HEAD_BYTES)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    most = min(max_bytes, _FREE_BYTES + _MAX_RATIO * size)
    kind = kinds.archive_kind(head)
    if kind == "zip":
        from core.playbooks.archives import zip_members

        yield from zip_members.read(file, name, most)
        return
    if kind is None:
        what, remedy = kinds.name_of(head)
        raise UsageError(f"{name} is {what}, and no archive of playbooks.", remedy)
    stream = io.BufferedReader(_Capped(_unpacked(file, kind), name, most), MIB)
    if kind != "tar":
        _check_inside(stream, kind, name)
    from core.playbooks.archives import tar_members

    yield from tar_members.read(stream, name)
    try:
        while stream.read(MIB):  # to the end: checksums are proven there
            pass
    except Damaged as error:
        if "Not a gzipped file" in str(error.__cause__):  # what follows is none of it: as gzip does
            return
        if isinstance(error.__cause__, EOFError):  # all members were there
            raise EndMissing(error.detail, error.remedy) from error
        raise Untrusted(error.detail, error.remedy) from error  # of the whole: it says not where


def _check_inside(stream: io.BufferedReader[_Capped], kind: str, name: str) -> None:
    """Refuse a packed file that holds no tar archive."""
    head = stream.peek(kinds.HEAD_BYTES)
    if kinds.is_tar(head):
        return
    if (inner := kinds.archive_kind(head)) is not None:
        raise UsageError(
            f"{name} is {COMPRESSED[kind]} around another archive (.{inner}).",
            "Unpack it once and give what comes out.",
        )
    what, remedy = kinds.name_of(head)
    raise UsageError(f"{name} is {COMPRESSED[kind]}, and what it holds is {what}.", remedy)


def _unpacked(file: io.BufferedReader, kind: str) -> Any:
    """A reader of the uncompressed bytes; no longer reads than one of the packed file at a time."""
    if kind == "gz":
        return gzip.GzipFile(fileobj=file)
    if kind == "bz2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file, format=lzma.FORMAT_XZ)  # padding may follow it
    if kind == "zst":
        return _zstd().ZstdFile(file)
    return file


def _zstd() -> Any:
    """Python's own module of Zstandard, which 3.14 was the first to have."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _faults() -> tuple[type[Exception], ...]:
    return zlib.error, gzip.BadGzipFile, lzma.LZMAError, _zstd().ZstdError


class _Capped(io.RawIOBase):
    """Uncompressed bytes, no more than ``most``: a bomb ends there."""

    def __init__(self, source: Any, name: str, most: int) -> None:
        self._source = source
        self._name = name
        self._most = self._left = most
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content = self._source.read1(len(view))  # a longer read loses what precedes an error
            while not self._begun and len(content) < kinds.TAR_BLOCK:  # what it is, is asked first
                self._begun = not (more := self._source.read1(kinds.TAR_BLOCK))
                content += more
            self._begun = True
        except EOFError as error:
            raise Damaged(f"{self._name} breaks off.", FETCH_AGAIN) from error
        except MemoryError as error:
            raise Untrusted(
                f"{self._name} takes too much memory to unpack.", FETCH_AGAIN
            ) from error
        except OSError as error:
            if error.errno is not None and not isinstance(error, gzip.BadGzipFile):
                raise
            raise Damaged(f"{self._name} is damaged: {error}.", FETCH_AGAIN) from error
        except _faults() as error:
            raise Damaged(f"{self._name} is damaged: {error}.", FETCH_AGAIN) from error
        self._left -= len(content)
        if self._left < 0:
            raise Untrusted(
                f"{self._name} holds more than {self._most // MIB} MiB uncompressed.",
                "Split the archive.",
            )
        view[: len(content)] = content
        return len(content)
