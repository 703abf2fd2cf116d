"""Tells what a file is by its first bytes, never by its name: an archive, or what it is called.

What is no archive is answered with what it is and what to do about it, in words for people.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from core.errors import InvalidPlaybook

HEAD_BYTES: Final = 40 << 10  # as far as the name of a CD image
FETCH_AGAIN: Final = "Fetch or make the archive again."
_KNOWN: Final = "Give a folder of playbooks, a .zip, or a .tar, plain or .gz, .bz2, .xz, .zst."
_UNPACK: Final = "Unpack it first and give the folder; or make a .zip or .tar.gz of it."
TAR_BLOCK: Final = 512


class Damaged(InvalidPlaybook):
    """The archive can't be read to its end."""


class EndMissing(Damaged):
    """All members were read, but what follows them is not whole: a checksum, a .zip's directory."""


class Untrusted(Damaged):
    """The archive is damaged so that what was read before is not relied upon either."""


class NoArchive(NamedTuple):
    """``what`` a file is, with its article, and the ``remedy``."""

    what: str
    remedy: str


COMPRESSED: Final = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "Zstandard"}
"""The compressions that a tar archive may be packed in, with their names."""

_ARCHIVES: Final = (
    (re.compile(rb"\x1f\x8b"), "gz"),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bz2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zst"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"), "zip"),
)

_LOGIN: Final = "Download it again, signed in, and look at what comes."
_OTHERS: Final = (
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb"MSCF", "a Windows cabinet", _UNPACK),
    (rb"LZIP", "an lzip file", _UNPACK),
    (rb"\x04\x22M\x18", "an lz4 file", _UNPACK),
    (rb"\x1f[\x9d\xa0]", "a file of the old `compress` (.Z)", _UNPACK),
    (rb"\x5d\x00\x00.{2}", "an LZMA file", _UNPACK),
    (rb"xar!", "a macOS package", _UNPACK),
    (rb"!<arch>\n", "a Debian package or a library of object files", _UNPACK),
    (rb"\xed\xab\xee\xdb", "an RPM package", _UNPACK),
    (rb"07070[127]", "a cpio archive", _UNPACK),
    (rb"(?:.{32769}|.{34817})CD001", "a CD image", _UNPACK),
    (rb"%PDF-", "a PDF document", _KNOWN),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document or an installer", _KNOWN),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", "a picture", _KNOWN),
    (rb"\x7fELF|MZ|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe", "a program", _KNOWN),
    (rb"SQLite format 3\x00", "a database", _KNOWN),
    (rb"age-encryption\.org/|-----BEGIN AGE", "a file encrypted with age",
     "Decrypt it first; a backup is taken back by `escher-playbooks restore`."),
    (rb"-----BEGIN PGP|\x85[\x01-\x04]|\x8c\x0d\x04", "a file encrypted with PGP", "Decrypt it first."),
    (rb"-----BEGIN ", "a key or certificate", _KNOWN),
    (rb"ESCHERv1", "a file that this service encrypted",
     "Write the playbook out with `escher-playbooks export` where its key is."),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself",
     "Fetch the file with `git lfs pull`."),
    (rb"# v[23] git bundle", "a git bundle", "Clone it, and give the folder."),
    (rb"H4sI[A-Za-z0-9+/]", "an archive in base64", "Decode it first: base64 -d."),
    (rb"UEsDB[A-Za-z0-9+/]", "a .zip in base64", "Decode it first: base64 -d."),
)  # fmt: skip
_SIGNS: Final = tuple((re.compile(sign, re.DOTALL), what, remedy) for sign, what, remedy in _OTHERS)
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_YAML = re.compile(r"^(?:---|[\w.-]+:(?:\s|$)|- [\w.-]+:(?:\s|$))", re.MULTILINE)


def archive_kind(head: bytes) -> str | None:
    """Return ``tar``, ``gz``, ``bz2``, ``xz``, ``zst`` or ``zip``; None for anything else."""
    for sign, kind in _ARCHIVES:
        if sign.match(head):
            return kind
    return "tar" if is_tar(head) else None


def is_tar(head: bytes) -> bool:
    """Whether a tar archive may begin so: a header with its checksum, or the end of an empty one."""
    block = head[:TAR_BLOCK]
    if len(block) < TAR_BLOCK:
        return False
    if block[257:262] == b"ustar" or not block.strip(b"\0"):
        return True
    try:
        said = int(block[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    return said == sum(block[:148]) + 256 + sum(block[156:])


def name_of(head: bytes) -> NoArchive:
    """Say what a file that is no archive is, from its first `HEAD_BYTES`."""
    if not head:
        return NoArchive("empty", "Fetch or make it again.")
    if not head.strip(b"\0"):
        return NoArchive("nothing but zero bytes", "Fetch or make it again.")
    for sign, what, remedy in _SIGNS:
        if sign.match(head):
            return NoArchive(what, remedy)
    text = _as_text(head)
    if text is None:
        return NoArchive("of a kind that is not known here, or damaged from its start on", _KNOWN)
    return _name_of_text(text.lstrip("\ufeff \t\r\n"))


def _as_text(head: bytes) -> str | None:
    if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return head[: len(head) // 2 * 2].decode("utf-16", "replace")
    if b"\0" in head:
        return None
    try:
        return head.decode()
    except UnicodeDecodeError as error:  # a character may be cut at the end
        return head[: error.start].decode() if error.start >= len(head) - 4 else None


def _name_of_text(text: str) -> NoArchive:
    start = text[:4096]
    if start.startswith("#!"):
        return NoArchive("a script", "Put it into a playbook's folder, beside a metadata.json.")
    if _HTML.match(start) or ("<html" in start.lower() and start.startswith("<")):
        return NoArchive("an HTML page (a login or error page in its place?)", _LOGIN)
    if start.startswith("<?xml") or re.match(r"<\w+[\s>]", start):
        if "<Error>" in start or "AccessDenied" in start:
            return NoArchive("an error of the store it was fetched from, in XML", _LOGIN)
        if "<joblist" in start:
            return NoArchive("a file of Rundeck jobs", "Use `import --from rundeck`.")
        return NoArchive("an XML file", _KNOWN)
    if start.startswith(("{", "[")):
        if '"cloud_provider"' in text or '"playbook_id"' in text:
            return NoArchive("a single metadata.json", "Give the folder that holds it.")
        if '"schemaVersion"' in text:
            return NoArchive(
                "a JSON file, maybe an SSM document", "Use `import --from ssm` for one."
            )
        return NoArchive("a JSON file", _KNOWN)
    if _YAML.search(start):
        hint = "For an Ansible playbook, Rundeck job, StackStorm action or SSM document: `import --from`."
        return NoArchive("a YAML file", hint)
    return NoArchive("a text file", _KNOWN)
