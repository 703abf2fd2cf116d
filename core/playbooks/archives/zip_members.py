r"""Reads a .zip's members and bytes in order, in a child of the sandbox; imports little.

The directory at a .zip's end says more than the headers before its members (links, modes), so it is
read where it is whole. Of a .zip that breaks off, the headers are followed from its start, and each
member's checksum proves it; modes are known as far as the directory goes.

Names of Windows programs have ``\`` between their parts, and are in the code page of an old PC or in
UTF-8 whether or not they say so.
"""

from __future__ import annotations

import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final

from core.limits import MIB
from core.playbooks.archives.kinds import FETCH_AGAIN, Damaged, EndMissing, Untrusted
from core.playbooks.archives.members import (
    DAMAGED,
    ENCRYPTED,
    FILE,
    FOLDER,
    LINK,
    MAX_NAME_CHARS,
    OTHER,
    PART_BYTES,
    UNSUPPORTED,
    Member,
    Told,
)

_METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_UNIX: Final = {3, 19}  # the systems whose modes and backslashes are what they are here
_IS_ENCRYPTED, _SIZE_FOLLOWS, _IS_UTF8 = 0x1, 0x8, 0x800
_UNICODE_NAME = 0x7075
_ZIP64 = 0x0001
_MAX_TARGET_BYTES = 1024
_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
    struct.error, ValueError, OverflowError,
)  # fmt: skip
_MAX_HEADERS = 200_000
_ENTRY = struct.Struct("<2B5H3I5H2I")  # of the directory, without its signature
_LOCAL = struct.Struct("<5H3I2H")  # a header before a member, without its signature
_HEADER, _DIRECTORY, _DESCRIPTOR = b"PK\x03\x04", (b"PK\x01\x02", b"PK\x05\x06"), b"PK\x07\x08"


def read(file: io.BufferedReader, name: str, most: int) -> Iterator[Told]:
    """Yield the bytes of each member of the .zip in ``file``, and after them its entry.

    Raises `Damaged` and `Untrusted` with what was yielded before standing.
    """
    budget = _Budget(name, most)
    try:
        archive = zipfile.ZipFile(file)
    except _FAULTS:
        file.seek(0)
        yield from _Head(file, name, budget).members()
        return
    infos = archive.infolist()
    names = {info.orig_filename for info in infos}
    slashed = any("/" in said for said in names)
    for info in sorted(infos, key=lambda info: info.header_offset):
        path = _path(info, slashed=slashed)
        kind = _kind(info, path)
        target = ""
        size = 0
        if kind in {FILE, LINK}:
            try:
                with archive.open(info) as content:
                    if kind == LINK:
                        target = content.read(_MAX_TARGET_BYTES + 1).decode("utf-8", "replace")
                    else:
                        while piece := content.read(PART_BYTES):
                            budget.spend(len(piece))
                            size += len(piece)
                            yield piece
                if kind == FILE and size != info.file_size:
                    kind = DAMAGED
            except OSError as error:
                if error.errno is not None:
                    raise
                kind = DAMAGED
            except _FAULTS:
                kind = DAMAGED
        shown = path.removesuffix("/")[:MAX_NAME_CHARS]  # as folders are named in a tar archive
        yield Member(shown, size, kind, _is_executable(info), target)


class _Budget:
    """How many bytes may still come out: a bomb ends there."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = self._left = most

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Untrusted(
                f"{self._name} holds more than {self._most // MIB} MiB uncompressed.",
                "Split the archive.",
            )


def _kind(info: zipfile.ZipInfo, path: str) -> str:
    mode = info.external_attr >> 16 if info.create_system in _UNIX else 0
    if path.endswith("/"):
        return FOLDER
    if stat.S_ISLNK(mode):
        return LINK
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        return OTHER
    if info.flag_bits & _IS_ENCRYPTED:
        return ENCRYPTED
    return FILE if info.compress_type in _METHODS else UNSUPPORTED


def _is_executable(info: zipfile.ZipInfo) -> bool:
    return info.create_system in _UNIX and bool(info.external_attr >> 16 & 0o111)


def _path(info: zipfile.ZipInfo, *, slashed: bool) -> str:
    """A member's name with ``/`` between its parts; a NUL stays, and is refused with the name."""
    said = info.orig_filename
    if not info.flag_bits & _IS_UTF8 and not said.isascii():
        said = _decoded(said.encode("cp437"), info.extra)
    if info.create_system not in _UNIX or not slashed:
        said = said.replace("\\", "/")
    return said


def _decoded(raw: bytes, extra: bytes) -> str:
    """A name without the mark of UTF-8: its UTF-8 form where it has one, else the old PC's."""
    own = _field(extra, _UNICODE_NAME)
    if len(own) > 5 and own[0] == 1 and int.from_bytes(own[1:5], "little") == zlib.crc32(raw):  # noqa: PLR2004  version, CRC, name
        raw = own[5:]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _field(extra: bytes, wanted: int) -> bytes:
    """The content of a member's extra field of one kind."""
    while len(extra) >= 4:  # noqa: PLR2004  kind and size
        kind, size = struct.unpack_from("<HH", extra)
        if kind == wanted:
            return extra[4 : 4 + size]
        extra = extra[4 + size :]
    return b""


class _Head:
    """The members of a .zip without its whole directory, one header after the other.

    Their bytes come first: what is left of the directory, which says more of them, lies behind.
    """

    def __init__(self, file: IO[bytes], name: str, budget: _Budget) -> None:
        self._file = file
        self._name = name
        self._budget = budget
        self._found: list[tuple[int, Member]] = []  # with where its header stands

    def members(self) -> Iterator[Told]:
        """Yield what is whole; the end is always a `Damaged`, for the directory is not."""
        sign, failure = b"", None
        try:
            while (sign := self._file.read(4)) == _HEADER:
                yield from self._member(self._file.tell() - 4)
        except Damaged as error:
            failure = error
        modes = self._modes(sign) if failure is None else {}
        unknown = 0
        for at, member in self._found:
            system, mode = modes.get(at, (-1, 0))
            unknown += system < 0
            mode = mode if system in _UNIX else 0
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                member = member._replace(kind=DAMAGED)  # noqa: PLW2901  its bytes are no file's
            yield member._replace(executable=bool(mode & 0o111))
        if failure is not None:
            raise failure
        if sign not in _DIRECTORY:
            raise Damaged(f"{self._name} breaks off or is damaged.", FETCH_AGAIN)
        more = f"; whether {unknown} of its files are executable or links is not known"
        raise EndMissing(
            f"{self._name}: its directory breaks off or is damaged{more if unknown else ''}.",
            FETCH_AGAIN,
        )

    def _modes(self, sign: bytes) -> dict[int, tuple[int, int]]:
        """The system and mode of each member that the directory still has, by its header's place."""
        modes = {}
        while sign == _DIRECTORY[0] and len(record := self._file.read(_ENTRY.size)) == _ENTRY.size:
            _, system, *_, name_size, extra_size, comment_size, _, _, mode, at = _ENTRY.unpack(
                record
            )
            modes[at] = (system, mode >> 16)
            self._file.seek(name_size + extra_size + comment_size, io.SEEK_CUR)
            sign = self._file.read(4)
        return modes

    def _tell(self, at: int, member: Member) -> None:
        if len(self._found) >= _MAX_HEADERS:
            raise Untrusted(f"{self._name} has more than {_MAX_HEADERS} members.", "Split it.")
        self._found.append((at, member))

    def _member(self, at: int) -> Iterator[bytes]:
        _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(
            self._exactly(_LOCAL.size)
        )
        raw, extra = self._exactly(name_size), self._exactly(extra_size)
        path = raw.decode("utf-8", "replace") if flags & _IS_UTF8 else _decoded(raw, extra)
        if "/" not in path:
            path = path.replace("\\", "/")
        path = path[:MAX_NAME_CHARS]
        wide = _field(extra, _ZIP64)
        if len(wide) >= 16 and 0xFFFFFFFF in {packed, size}:  # noqa: PLR2004  both sizes
            size, packed = struct.unpack_from("<QQ", wide)
        follows = bool(flags & _SIZE_FOLLOWS)
        is_read = method == zipfile.ZIP_DEFLATED or (method == zipfile.ZIP_STORED and not follows)
        if flags & _IS_ENCRYPTED or not is_read:
            if follows and not packed:
                raise Damaged(f"{self._name}: where {path!r} ends is not known.", FETCH_AGAIN)
            self._file.seek(packed, io.SEEK_CUR)
            self._tell(at, Member(path, 0, ENCRYPTED if flags & _IS_ENCRYPTED else UNSUPPORTED))
            return
        done = seen = 0
        try:
            for piece in self._inflated() if method else self._stored(packed):
                self._budget.spend(len(piece))
                done, seen = done + len(piece), zlib.crc32(piece, seen)
                yield piece
            if follows:
                crc, size = self._descriptor(), done
        except (Damaged, zlib.error) as error:
            self._tell(at, Member(path, done, DAMAGED))
            raise Damaged(
                f"{self._name} breaks off or is damaged in {path!r}.", FETCH_AGAIN
            ) from error
        whole = (seen, done) == (crc, size)
        kind = FOLDER if path.endswith("/") else FILE
        self._tell(at, Member(path.removesuffix("/"), done, kind if whole else DAMAGED))

    def _exactly(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) != size:
            raise Damaged(f"{self._name} breaks off.", FETCH_AGAIN)
        return content

    def _stored(self, size: int) -> Iterator[bytes]:
        while size:
            yield (piece := self._exactly(min(size, PART_BYTES)))
            size -= len(piece)

    def _inflated(self) -> Iterator[bytes]:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflate.eof:
            packed = inflate.unconsumed_tail or self._file.read(64 << 10)
            if not packed:
                raise Damaged(f"{self._name} breaks off.", FETCH_AGAIN)
            if piece := inflate.decompress(packed, PART_BYTES):
                yield piece
        self._file.seek(-len(inflate.unused_data), io.SEEK_CUR)

    def _descriptor(self) -> int:
        """The checksum after a member; its sizes behind it have four bytes or eight."""
        start = self._file.tell()
        content = self._file.read(28)
        signed = 4 if content.startswith(_DESCRIPTOR) else 0
        for length in (12, 20):
            end = signed + length
            if content[end : end + 4] in {_HEADER, *_DIRECTORY}:
                break
        else:
            end = signed + 12
        if len(content) < end:
            raise Damaged(f"{self._name} breaks off.", FETCH_AGAIN)
        self._file.seek(start + end)
        return int.from_bytes(content[signed : signed + 4], "little")
