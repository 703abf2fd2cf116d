"""Reads a tar archive's members and bytes in order, in a child of the sandbox; imports little.

tarfile takes a damaged header for the archive's end, believes any size that a header names, reads
headers of any length and follows chains of them by recursion; gzip proves its checksum only to
those who read to the end. All of that is mended or bounded here; what is left (slow parsing of a
header, a fault in zlib) ends the child, and costs this archive. `core.playbooks.drafts` decides
what the members mean.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core.errors import EscherError, InvalidPlaybook, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MIB = 1 << 20
MAX_HEADER_BYTES = 64 << 10  # of a long name or pax header; parsing takes its square
MAX_CHAIN = 8  # extended headers before one member; each is a recursion of tarfile's
MAX_NAME_CHARS = 2048  # longer ones are refused anyway, and are cut
LINK, HARD_LINK = "link", "hard link"  # kinds of members
LINKS = frozenset({LINK, HARD_LINK})
PART_BYTES = MIB
_PAGE = 500
_PAGE_SECONDS = 1.0
_FREE_BYTES = 256 * MIB
_MAX_RATIO = 200
_MAX_SIZE = 1 << 40  # tarfile would skip it in steps; the cap on the whole ends anything real
_DIGITS = re.compile(rb"\d{200}")
_DAMAGED = "Fetch or make the archive again."


class Damaged(InvalidPlaybook):
    """The archive can't be read to its end."""


class Untrusted(Damaged):
    """The archive is damaged so that what was read before is not relied upon either."""


def members(argument: dict[str, Any], _content: bytes) -> Iterator[tuple[Any, bytes]]:
    """Yield every member, and the files' bytes one after the other, in messages of their own lengths.

    ::

        {path, max_bytes, max_members}  ──►  {"members": [[name, size, kind, executable, target], …]}
                                             and the next bytes, …
                                             at a fault, last: {"error": [kind, detail, remedy]}

    A member's ``kind`` is ``file``, ``folder``, ``link``, ``hard link`` or ``other``; only files have
    bytes, only links a ``target``: from the archive's top that of a hard link, else from its folder.
    """
    path, most = Path(argument["path"]), int(argument["max_members"])
    page: list[tuple[str, int, str, bool, str]] = []
    content = bytearray()
    count, told = 0, time.monotonic()
    failure: list[Any] | None = None
    try:
        with _opened(path, int(argument["max_bytes"])) as (archive, stream):
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every one
                count += 1
                if count > most:
                    raise Untrusted(f"{path.name} has more than {most} members.", "Split it.")
                if not 0 <= info.size <= _MAX_SIZE:  # a pax header may name any number
                    raise Untrusted("The archive has a member of unreasonable size.", _DAMAGED)
                kind = _kind(info)
                target = info.linkname[:MAX_NAME_CHARS] if kind in LINKS else ""
                runs = bool(info.mode & stat.S_IXUSR)
                page.append((info.name[:MAX_NAME_CHARS], info.size, kind, runs, target))
                for piece in _pieces(archive, info):
                    content += piece
                    late = time.monotonic() - told > _PAGE_SECONDS
                    if late or len(content) >= PART_BYTES or len(page) >= _PAGE:
                        yield {"members": page}, bytes(content)
                        page, content, told = [], bytearray(), time.monotonic()
            while stream.read(MIB):  # to the end: gzip proves its checksum there
                pass
    except EscherError as error:
        failure = [type(error).__name__, error.detail, error.remedy]
    except OSError as error:
        failure = ["OSError", error.errno or 0, str(error.filename or "")]
    yield {"members": page}, bytes(content)
    if failure is not None:
        yield {"error": failure}, b""


def _kind(info: tarfile.TarInfo) -> str:
    if info.isreg() and not info.issparse():
        return "file"
    if info.issym():
        return LINK
    if info.islnk():
        return HARD_LINK
    return "folder" if info.isdir() else "other"


def _pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    """A file's bytes in parts; an empty part comes last, and of whatever is no file alone."""
    reader = archive.extractfile(info) if _kind(info) == "file" else None
    while reader is not None and (piece := reader.read(PART_BYTES)):
        yield piece
    yield b""


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
            raise Damaged(f"The archive breaks off or is damaged ({error}).", _DAMAGED) from error
        extended = info.type not in tarfile.SUPPORTED_TYPES or info.type in {
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
            tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
        }  # fmt: skip
        if info.size < 0 or (extended and info.size > MAX_HEADER_BYTES):
            raise Untrusted("The archive has a header of unreasonable size.", _DAMAGED)
        cls.chain = cls.chain + 1 if extended else 0
        if cls.chain > MAX_CHAIN:
            raise Untrusted("The archive has too many headers in a row.", _DAMAGED)
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
            raise Damaged("The archive has a damaged pax header.", _DAMAGED)
        at = end
    if _DIGITS.search(content):
        raise Untrusted("The archive has a pax header of nothing but digits.", _DAMAGED)


class _Capped(io.RawIOBase):
    """Uncompressed bytes, no more than ``most``: a gzip bomb ends there."""

    def __init__(self, source: io.BufferedReader | gzip.GzipFile, name: str, most: int) -> None:
        self._source = source
        self._name = name
        self._most = self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content = self._source.read1(len(view))  # a longer read loses what precedes an error
        except EOFError as error:
            raise Damaged(f"{self._name} breaks off.", _DAMAGED) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise Untrusted(f"{self._name} is damaged: {error}.", _DAMAGED) from error
        self._left -= len(content)
        if self._left < 0:
            raise Untrusted(
                f"{self._name} holds more than {self._most // MIB} MiB uncompressed.",
                "Split the archive.",
            )
        view[: len(content)] = content
        return len(content)


@contextmanager
def _opened(path: Path, max_bytes: int) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    """The archive as a stream of members, and the stream itself.

    At most ``max_bytes`` uncompressed, and less where a small file claims to hold very much.
    """
    with path.open("rb") as file:
        most = min(max_bytes, _FREE_BYTES + _MAX_RATIO * file.seek(0, io.SEEK_END))
        file.seek(0)
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not zipped and path.suffix in {".gz", ".tgz"}:
            raise UsageError(f"{path} is not gzip.", "Give a .tar.gz, .tgz or .tar.")
        source = gzip.GzipFile(fileobj=file) if zipped else file
        stream = io.BufferedReader(_Capped(source, path.name, most), MIB)
        header = type("_Header", (_Header,), {"chain": 0})
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=header) as archive:
                yield archive, stream
        except (tarfile.TarError, IndexError, OverflowError, ValueError) as error:
            what = error if isinstance(error, tarfile.TarError) else type(error).__name__
            raise Damaged(f"{path.name} is not a whole tar archive: {what}.", _DAMAGED) from error
