"""`password = "…"`: a secret by the name it is given to, with what is no secret sorted out.

detect-secrets' keyword detector finds the assignments; alone, it is wrong in 400 lines of the
corpus for every 20 right ones (`ApiKeyRequired: true`, `secretsmanager:GetSecretValue`, …).
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
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from detect_secrets.plugins.keyword import KeywordDetector

MIN_SECRET_CHARS = 6

# Suffixes of formats in which a bare word after = or : is a value; elsewhere it is a name.
_BARE_VALUES = frozenset(
    {"", ".sh", ".bash", ".env", ".ini", ".cfg", ".properties", ".yaml", ".yml"}
)

_KEYWORD = re.compile(
    r"(?<!by)pass(?:word|wd|phrase)?|pwd|secret|contrase[nñ]a"
    r"|(?:api|auth|service|account|access|db|database|priv|private|client)[_-]?key",
    re.IGNORECASE,
)
_KEYWORD_PARTS = ("pass", "pwd", "secret", "contrase", "key")  # one of them is in each
# The name in front of a value: the identifier before = or :
_NAME = re.compile(r"([A-Za-z_][\w.-]*)['\"\])]*\s*(?:[:=!]=*>?|=>)\s*[@!\w]*\s*['\"`]?$")
# `secret_name`, `PasswordLength`: words after the keyword that make it something else
_ABOUT = frozenset(
    {
        "name", "names", "arn", "arns", "id", "ids", "type", "required", "length", "age",
        "days", "port", "enabled", "version", "versions", "policy", "uri", "url", "ref",
        "path", "file", "prefix", "source", "count", "expires", "expiration", "validity",
        "authentication", "manager", "smanager", "rotation", "rotate", "reuse", "extension",
        "extensions", "http", "template", "kind", "store", "provider", "parameter", "param",
        "env", "variable", "label", "description", "hint", "title", "prompt", "field",
        "attribute", "column", "permissions", "vault", "group", "role", "class", "auth",
        "login", "min", "max",
    }
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# AWS' own way to name a secret without holding it
_DYNAMIC = re.compile(r"\{\{resolve:.*|arn:aws[\w-]*:secretsmanager:.*")

# Values that point at a secret or stand for one.
_REFERENCE = re.compile(
    r"[\[$<{(!%*&]|arn:|https?://|projects/|/subscriptions/|privatesettingsref:"
    r"|(?:var|local|data|module|each|self|os|process|random_\w+|[a-z]+_[a-z_]+\.\w+)\."
    r"|.*\{\{|.*\$\{|.*<[\w -]+>$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:value|secret|password|passwd|string|text|example|sample|dummy|placeholder|replaced?"
    r"|redacted|changed|todo|none|null|true|false|yes|no|header|required|optional|enabled|disabled"
    r"|x+|\.+|\*+|-+|_+)\d*|your[-_ ].*|\d[\d.]*",
    re.IGNORECASE,
)
_IAM_ACTION = re.compile(r"(?:[A-Z][a-z]+)+\*?")  # GetSecretValue, DescribeSecret
_BARE = re.compile(r"[^\s'\"`(){}\[\],;|&<>]+")

# A parameter's default stands some lines below its name.
_DEFAULT = re.compile(r"^\s*-?\s*[\"']?default(?:value)?[\"']?\s*[:=]\s*(.+?),?\s*$", re.IGNORECASE)
_DECLARED = re.compile(
    r"^\s*(?:\{\s*)?[\"']?name[\"']?\s*:\s*[\"']([\w-]+)[\"']"  # parameters.json
    r"|^\s*variable\s+\"([\w-]+)\"\s*\{"  # terraform
    r"|^\s*[\"']?([A-Za-z][\w-]*)[\"']?\s*:\s*\{?\s*$"  # CloudFormation, ARM
)
_DECLARATION_REACHES = 8


def takes_bare_values(path: str) -> bool:
    """Whether a word without quotes is a value in such a file: all that a path is looked at for."""
    return PurePosixPath(path).suffix in _BARE_VALUES


class Assignments:
    """Reads one file's lines in their order."""

    def __init__(self, path: str) -> None:
        self._bare = takes_bare_values(path)
        self._declared, self._lines_since = "", 0

    @staticmethod
    def may_be_in(lowered: str) -> bool:
        """Whether a text, in lower case, may have a word that a secret is given to.

        `_KEYWORD` without regard to case takes a third of a scan's time; most texts and lines have
        none of its words.
        """
        return any(word in lowered for word in _KEYWORD_PARTS)

    def holds_secret(self, line: str) -> bool:
        """Whether the line gives a secret to a name that says so."""
        self._lines_since += 1
        if "secretsmanager" in line or "{{resolve" in line:
            line = _DYNAMIC.sub("", line)
        declared = _DECLARED.match(line)
        if declared:
            self._declared = next(name for name in declared.groups() if name)
            self._lines_since = 0
        elif self._lines_since <= _DECLARATION_REACHES and _KEYWORD.search(self._declared):
            default = _DEFAULT.match(line)
            if default and _is_secret(self._declared, default[1].strip("\"'")):
                return True
        if not self.may_be_in(line.lower()):
            return False
        return bool(_KEYWORD.search(line)) and self._assigns(line)

    def _assigns(self, line: str) -> bool:
        from detect_secrets.filters.heuristic import is_indirect_reference
        from detect_secrets.plugins import keyword

        if is_indirect_reference(line):
            return False
        quoted = _detector().analyze_string(line, keyword.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP)
        if any(_is_secret(_name_before(line, value), value) for value in quoted):
            return True
        if not self._bare:
            return False
        bare = _detector().analyze_string(line, keyword.CONFIG_DENYLIST_REGEX_TO_GROUP)
        for value in bare:
            word = _BARE.match(value)
            if word and "$" not in word[0] and _is_secret(_name_before(line, value), word[0]):
                return True
        return False


def _name_before(line: str, value: str) -> str:
    before = line[: line.find(value)]
    found = _NAME.search(before)
    return found[1] if found else ""


def _is_secret(name: str, value: str) -> bool:
    """Whether `value` may be a secret, given to `name` ("" where no name was recognised)."""
    if name and _is_about(name):
        return False
    if len(value) < MIN_SECRET_CHARS or not re.search(r"[A-Za-z]", value):
        return False
    if _REFERENCE.match(value) or _PLACEHOLDER.fullmatch(value):
        return False
    # words of a sentence; a passphrase of words is written without blanks or with a quote
    return value.count(" ") < 2 and not (  # noqa: PLR2004 - three words and more
        _IAM_ACTION.fullmatch(value) and _KEYWORD.search(value) and not name
    )


def _is_about(name: str) -> bool:
    """Whether a name tells something about a secret (`secretArn`) and does not hold it."""
    last = None
    for last in _KEYWORD.finditer(name):  # noqa: B007 - the last one is wanted
        pass
    if last is None:
        return False
    return any(word.lower() in _ABOUT for word in _WORDS.findall(name[last.end() :]))


@lru_cache(maxsize=1)
def _detector() -> KeywordDetector:
    from detect_secrets.plugins.keyword import KeywordDetector as Detector

    return Detector()


# Bytes as texts that can be searched, whatever their encoding; archives opened within limits.
#
# ::
#
#     UTF-8                              the text
#     UTF-16, UTF-32 (BOM, or its NULs)  the text, and the bytes as below: a BOM may be a lie
#     anything else                      the bytes as UTF-8 or Latin-1, with NULs as blanks and without
#                                        them; when they are mostly no text, the file is binary
#     zip, tar, gzip, bzip2, xz          also each member, three archives deep
#     encrypted, 7z, RAR, damaged        named: nobody can say what is in there
#
# Without NULs, UTF-16 is its ASCII at any offset, which is what secrets are made of. A tar archive is
# walked by its plain headers alone; what else is in it is searched as bytes.

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
class Room:
    """What of the limits is left."""

    unpacked: int = MAX_UNPACKED
    members: int = MAX_MEMBERS


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _TooLarge(Exception):
    """More was unpacked than there is room for."""


def texts(
    content: bytes, member: str = "", depth: int = 0, room: Room | None = None
) -> Iterator[Text | Opaque]:
    """Everything in ``content`` that can be searched, and what can't be opened.

    The caller looks at the clock between two texts; each is made when it is asked for.
    """
    room = room or Room()
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
    parts = _parts(content, member, room)
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
                yield from texts(part, name, depth + 1, room)
    except _TooLarge:
        yield Opaque(LARGE_ARCHIVE, member)


def decoded(content: bytes) -> tuple[list[str], bool]:
    """The texts that ``content`` may stand for, and whether it is rather none."""
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
def _parts(content: bytes, member: str, room: Room) -> Iterator[tuple[str, bytes | str]] | None:
    """The members of an archive, or why one can't be read; None when it is no archive."""
    if _ZIP_END in content or content.startswith(_ZIP_START):
        return _zip_members(content, member, room)
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return _unpacked(content, member, room)
    if content[257:262] == b"ustar":
        return _tar_members(content, member, room)
    return None


def _inside(member: str, name: str) -> str:
    return f"{member}/{name[:MAX_MEMBER_NAME]}" if member else name[:MAX_MEMBER_NAME]


def _take(room: Room, size: int) -> None:
    room.unpacked -= size
    room.members -= 1
    if room.unpacked < 0 or room.members < 0:
        raise _TooLarge


def _zip_members(content: bytes, member: str, room: Room) -> Iterator[tuple[str, bytes | str]]:
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
                    part = file.read(room.unpacked + 1)
            except Exception:  # noqa: BLE001 — as above: damaged, or compressed in another way
                yield name, CLOSED_ARCHIVE
                continue
            _take(room, len(part))
            yield name, part


def _unpacked(content: bytes, member: str, room: Room) -> Iterator[tuple[str, bytes | str]]:
    """What a compressed file holds: one content, of several streams where there are several."""
    pieces, rest = [], content
    try:
        while rest:
            piece, rest = _stream(rest, room.unpacked + 1)
            pieces.append(piece)
            _take(room, len(piece))
            rest = rest.lstrip(b"\0")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        yield member, CLOSED_ARCHIVE
    yield member, b"".join(pieces)


def _stream(content: bytes, limit: int) -> tuple[bytes, bytes]:
    """One compressed stream at the beginning of ``content``, and what comes after it."""
    reader: _Decompressor
    if content.startswith(b"\x1f\x8b"):
        gz = reader = zlib.decompressobj(wbits=31)
        piece = gz.decompress(content, limit)
    elif content.startswith(b"BZh"):
        bz = reader = bz2.BZ2Decompressor()
        piece = bz.decompress(content, limit)
    else:
        xz = reader = lzma.LZMADecompressor(memlimit=128 * 1024 * 1024)
        piece = xz.decompress(content, limit)
    if not reader.eof and len(piece) < limit:
        raise EOFError
    return piece, reader.unused_data


def _tar_members(content: bytes, member: str, room: Room) -> Iterator[tuple[str, bytes | str]]:
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
            _take(room, 0)  # its bytes are here: nothing is unpacked
            yield _inside(member, name), part
        at += _TAR_BLOCK + (length + _TAR_BLOCK - 1) // _TAR_BLOCK * _TAR_BLOCK
