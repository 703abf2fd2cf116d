"""Reads a tar archive's members and bytes in order, in a child of the sandbox; imports little.

tarfile takes a damaged header for the archive's end, believes any size that a header names, reads
headers of any length and follows chains of them by recursion. All of that is mended or bounded
here; what is left (slow parsing of a header) ends the child, and costs this archive.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from core.playbooks.archives.kinds import FETCH_AGAIN, Damaged, Untrusted
from core.playbooks.archives.members import (
    FILE,
    FOLDER,
    HARD_LINK,
    LINK,
    LINKS,
    MAX_NAME_CHARS,
    OTHER,
    PART_BYTES,
    Member,
    Told,
)

MAX_HEADER_BYTES = 64 << 10  # of a long name or pax header; parsing takes its square
MAX_CHAIN = 8  # extended headers before one member; each is a recursion of tarfile's
_MAX_SIZE = 1 << 40  # tarfile would skip it in steps; the cap on the whole ends anything real
_DIGITS = re.compile(rb"\d{200}")


def read(stream: IO[bytes], name: str) -> Iterator[Told]:
    """Yield each member of the tar archive that ``stream`` holds, and after a file's entry its bytes.

    Raises `Damaged` and `Untrusted` with what was yielded before standing.
    """
    header = type("_Header", (_Header,), {"chain": 0})
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=header) as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every one
                if not 0 <= info.size <= _MAX_SIZE:  # a pax header may name any number
                    raise Untrusted("The archive has a member of unreasonable size.", FETCH_AGAIN)
                kind = _kind(info)
                target = info.linkname[:MAX_NAME_CHARS] if kind in LINKS else ""
                yield Member(
                    info.name[:MAX_NAME_CHARS], info.size, kind, bool(info.mode & 0o111), target
                )
                reader = archive.extractfile(info) if kind == FILE else None
                while reader is not None and (piece := reader.read(PART_BYTES)):
                    yield piece
    except (tarfile.TarError, IndexError, OverflowError, ValueError) as error:
        what = error if isinstance(error, tarfile.TarError) else type(error).__name__
        raise Damaged(f"{name} is not a whole tar archive: {what}.", FETCH_AGAIN) from error


def _kind(info: tarfile.TarInfo) -> str:
    if info.isreg() and not info.issparse():
        return FILE
    if info.isdir():
        return FOLDER
    return LINK if info.issym() else HARD_LINK if info.islnk() else OTHER


class _Header(tarfile.TarInfo):
    """Headers that end the reading instead of passing for the archive's end."""

    chain = 0  # of a subclass for each archive

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # two zero blocks: the end
            raise
        except tarfile.HeaderError as error:
            raise Damaged(
                f"The archive breaks off or is damaged ({error}).", FETCH_AGAIN
            ) from error
        extended = info.type not in tarfile.SUPPORTED_TYPES or info.type in {
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
            tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
        }  # fmt: skip
        if info.size < 0 or (extended and info.size > MAX_HEADER_BYTES):
            raise Untrusted("The archive has a header of unreasonable size.", FETCH_AGAIN)
        cls.chain = cls.chain + 1 if extended else 0
        if cls.chain > MAX_CHAIN:
            raise Untrusted("The archive has too many headers in a row.", FETCH_AGAIN)
        return info

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        stream: Any = archive.fileobj
        content = stream.read(-(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        _check_records(content[: self.size])
        archive.fileobj = _Again(content, stream, archive)  # type: ignore[assignment]  # reads alike
        taken: tarfile.TarInfo = super()._proc_pax(archive)  # type: ignore[misc]  # not in its hints
        return taken

    # a hole file is refused by whoever lists it: its map, of any length, is not even read
    def _proc_gnusparse_00(self, following: tarfile.TarInfo, *_: object) -> None:
        following.sparse = b""  # `issparse` asks for None alone

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


class _Again:
    """Gives back what was read already; then the stream stands in its place again."""

    def __init__(self, content: bytes, stream: Any, archive: tarfile.TarFile) -> None:
        self._content, self._stream, self._archive = content, stream, archive

    def read(self, _size: int) -> bytes:
        self._archive.fileobj = self._stream
        return self._content

    def tell(self) -> int:
        at: int = self._stream.tell()
        return at


def _check_records(content: bytes) -> None:
    """Refuse a pax header that is none: tarfile's patterns take the square of its length."""
    at = 0
    while at < len(content) and content[at]:
        size, space, _ = content[at : at + 8].partition(b" ")
        end = at + int(size) if space and size.isdigit() else 0
        record = content[at:end]
        if not (record.endswith(b"\n") and b"=" in record) or end > len(content):
            raise Damaged("The archive has a damaged pax header.", FETCH_AGAIN)
        at = end
    if _DIGITS.search(content):
        raise Untrusted("The archive has a pax header of nothing but digits.", FETCH_AGAIN)
