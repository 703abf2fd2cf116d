"""Turns bytes into texts that can be searched, whatever their encoding; archives opened within limits.

::

    UTF-8                              the text
    UTF-16, UTF-32 (BOM, or its NULs)  the text, and the bytes as below: a BOM may be a lie
    anything else                      the bytes as UTF-8 or Latin-1, with NULs as blanks and without
                                       them; when they are mostly no text, the file is binary
    zip, tar, gzip, bzip2, xz          also each member, three archives deep
    encrypted, 7z, RAR, damaged        named: nobody can say what is in there

Without NULs, UTF-16 is its ASCII at any offset, which is what secrets are made of. A tar archive is
walked by its plain headers alone; what else is in it is searched as bytes.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

MAX_UNPACKED = 8 * 1024 * 1024
MAX_MEMBERS = 1000
MAX_NESTED = 3
MAX_MEMBER_NAME = 200

ENCRYPTED = "Encrypted content"
CLOSED_ARCHIVE = "not scanned: an archive that can't be opened"
LARGE_ARCHIVE = (
    f"not scanned to its end: an archive of more than {MAX_UNPACKED // 1024**2} MiB"
    f" or {MAX_MEMBERS} members"
)
DEEP_ARCHIVE = f"not scanned to its end: archives nested more than {MAX_NESTED} deep"
BINARY = "Binary content"

# How a text is read.
BRACED, YAML, PROGRAM, PLAIN = "braced", "yaml", "program", "plain"
_SUFFIXES = {
    BRACED: {".json", ".jsonc", ".tf", ".hcl", ".tfvars", ".tfstate"},
    YAML: {".yaml", ".yml", ".template"},
    # in which a bare word after = or : is a name, never a value
    PROGRAM: {
        ".py", ".js", ".mjs", ".cjs", ".ts", ".tsx", ".jsx", ".go", ".java", ".kt", ".rb", ".cs", ".rs", ".php",
        ".pl", ".ps1", ".psm1", ".psd1", ".bicep", ".ipynb", ".lua", ".scala", ".groovy", ".swift", ".c", ".cpp",
        ".h",
    },
}  # fmt: skip

_ENCRYPTED_STARTS = (
    b"age-encryption.org/v1",
    b"-----BEGIN AGE ENCRYPTED FILE-----",
    b"-----BEGIN PGP MESSAGE-----",
    b"Salted__",
    b"U2FsdGVkX1",  # the same in base64
    b"$ANSIBLE_VAULT;",
)
# A public-key or symmetric session key packet of OpenPGP: tag, length, version.
_PGP_PACKET = re.compile(rb"(?:\x84.|\x85..|\xc1(?:[\0-\xbf]|[\xc0-\xdf].))\x03|"
                         rb"(?:\x8c.|\xc3[\0-\xbf])[\x04\x05]", re.DOTALL)  # fmt: skip
_CLOSED_STARTS = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")
_ZIP_END = b"PK\x05\x06"
_ZIP_START = b"PK\x03\x04"
_ZIP_ENCRYPTED = 0x1 | 0x40 | 0x2000  # bits of a member: encrypted, strongly, its header too
_TAR_BLOCK = 512
_TAR_OCTAL = re.compile(rb" *([0-7]{1,11})[ \0]")

_CONTROL = re.compile("[\0-\x06\x0e-\x1a\x1c-\x1f\x7f\ufffd]")
_CONTROL_SHARE = 20  # one in so many characters may be a control character in a text
_FEW_CONTROLS = 2
_WIDE_SHARE = 0.4  # of the odd or even bytes are NUL
_NARROW_SHARE = 0.05


def syntax_of(path: str) -> str:
    """Return how a file of this name is read: all that a path is looked at for."""
    suffix = PurePosixPath(path.lower()).suffix
    return next((syntax for syntax, suffixes in _SUFFIXES.items() if suffix in suffixes), PLAIN)


@dataclass(frozen=True, slots=True)
class Text:
    """Something to search; ``member`` is its path in an archive, "" for the file itself."""

    text: str
    member: str
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Opaque:
    """What could not be looked into, and why."""

    kind: str
    member: str


@dataclass(slots=True)
class Allowance:
    """What of the limits is left."""

    unpacked: int = MAX_UNPACKED
    members: int = MAX_MEMBERS


class _TooLarge(Exception):
    """More was unpacked than there is room for."""


def texts(
    content: bytes, member: str = "", depth: int = 0, left: Allowance | None = None
) -> Iterator[Text | Opaque]:
    """Yield everything in ``content`` that can be searched, and what can't be opened.

    The caller looks at the clock between two texts; each is made when it is asked for.
    """
    left = left or Allowance()
    start = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_ENCRYPTED_STARTS):
        yield Opaque(ENCRYPTED, member)
    if content.startswith(_CLOSED_STARTS):
        yield Opaque(CLOSED_ARCHIVE, member)
    views, is_binary = decoded(content)
    if is_binary and _PGP_PACKET.match(content):
        yield Opaque(ENCRYPTED, member)
    for view in views:
        yield Text(view, member, is_binary)
    parts = _parts(content, member, left)
    if parts is None:
        return
    if depth == MAX_NESTED:
        yield Opaque(DEEP_ARCHIVE, member)
        return
    try:
        for name, part in parts:
            if isinstance(part, str):
                yield Opaque(part, name)
            else:
                yield from texts(part, name, depth + 1, left)
    except _TooLarge:
        yield Opaque(LARGE_ARCHIVE, member)


def decoded(content: bytes) -> tuple[list[str], bool]:
    """Return the texts that ``content`` may stand for, and whether it is rather binary."""
    wide = _wide_encoding(content)
    if wide is None and b"\0" not in content:
        try:
            return [content.decode("utf-8-sig")], False
        except UnicodeDecodeError:
            text = content.decode("latin-1")
            return [text], not _is_text(text)
    views = [content.decode(wide, "replace")] if wide else []
    is_text = bool(views) and _is_text(views[0])
    views.append(_narrow(content.replace(b"\0", b" ")))
    views.append(_narrow(content.replace(b"\0", b"")))
    is_text = is_text or _is_text(views[-1])  # a text with NULs is one
    return list(dict.fromkeys(views)), not is_text


def _narrow(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _wide_encoding(content: bytes) -> str | None:
    """By its byte order mark, or by where its NULs stand."""
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    pairs = len(content) // 2
    if not pairs or b"\0" not in content:
        return None
    even, odd = content[0::2].count(0) / pairs, content[1::2].count(0) / pairs
    if odd > _WIDE_SHARE and even < _NARROW_SHARE:
        return "utf-16-le"
    if even > _WIDE_SHARE and odd < _NARROW_SHARE:
        return "utf-16-be"
    return None


def _is_text(text: str) -> bool:
    controls = sum(1 for _ in _CONTROL.finditer(text))
    return controls <= max(_FEW_CONTROLS, len(text) // _CONTROL_SHARE)


# -- archives ---------------------------------------------------------------------------------
def _parts(
    content: bytes, member: str, left: Allowance
) -> Iterator[tuple[str, bytes | str]] | None:
    """The members of an archive, or why one can't be read; None when it is no archive."""
    if _ZIP_END in content or content.startswith(_ZIP_START):
        return _zip_members(content, member, left)
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return _unpacked(content, member, left)
    if content[257:262] == b"ustar":
        return _tar_members(content, member, left)
    return None


def _inside(member: str, name: str) -> str:
    return f"{member}/{name[:MAX_MEMBER_NAME]}" if member else name[:MAX_MEMBER_NAME]


def _take(left: Allowance, size: int) -> None:
    left.unpacked -= size
    left.members -= 1
    if left.unpacked < 0 or left.members < 0:
        raise _TooLarge


def _zip_members(content: bytes, member: str, left: Allowance) -> Iterator[tuple[str, bytes | str]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        infos = archive.infolist()
    except Exception:  # noqa: BLE001 — zipfile raises anything on a damaged one; it is named
        if content.startswith(_ZIP_START):  # else a text that only mentions the mark
            yield member, CLOSED_ARCHIVE
        return
    for info in infos:
        name = _inside(member, info.filename)
        if info.flag_bits & _ZIP_ENCRYPTED:
            yield name, ENCRYPTED
        elif not info.is_dir():
            try:
                with archive.open(info) as file:
                    part = file.read(left.unpacked + 1)
            except Exception:  # noqa: BLE001 — as above: damaged, or compressed in another way
                yield name, CLOSED_ARCHIVE
                continue
            _take(left, len(part))
            yield name, part


def _unpacked(content: bytes, member: str, left: Allowance) -> Iterator[tuple[str, bytes | str]]:
    """What a compressed file holds: one content, of several streams where there are several."""
    pieces, rest = [], content
    try:
        while rest:
            piece, rest = _stream(rest, left.unpacked + 1)
            pieces.append(piece)
            _take(left, len(piece))
            rest = rest.lstrip(b"\0")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        yield member, CLOSED_ARCHIVE
    yield member, b"".join(pieces)


def _stream(content: bytes, limit: int) -> tuple[bytes, bytes]:
    """One compressed stream at the beginning of ``content``, and what comes after it."""
    reader: Any
    if content.startswith(b"\x1f\x8b"):
        reader = zlib.decompressobj(wbits=31)
    elif content.startswith(b"BZh"):
        reader = bz2.BZ2Decompressor()
    else:
        reader = lzma.LZMADecompressor(memlimit=128 * 1024 * 1024)
    piece: bytes = reader.decompress(content, limit)
    if not reader.eof and len(piece) < limit:
        raise EOFError
    return piece, reader.unused_data


def _tar_members(content: bytes, member: str, left: Allowance) -> Iterator[tuple[str, bytes | str]]:
    at = 0
    while at + _TAR_BLOCK <= len(content):
        header = content[at : at + _TAR_BLOCK]
        size = _TAR_OCTAL.match(header[124:136])
        if header[257:262] != b"ustar" or size is None:
            return  # the end, or not what we read: the bytes of the whole were searched already
        length = int(size[1], 8)
        part = content[at + _TAR_BLOCK : at + _TAR_BLOCK + length]
        name = header[:100].split(b"\0")[0].decode("utf-8", "replace")
        if part:
            _take(left, 0)  # its bytes are here: nothing is unpacked
            yield _inside(member, name), part
        at += _TAR_BLOCK + (length + _TAR_BLOCK - 1) // _TAR_BLOCK * _TAR_BLOCK
