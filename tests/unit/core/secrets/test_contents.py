"""Archives and what is encrypted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping

import pytest

from core.secrets import Degree
from core.secrets.contents import (
    BINARY,
    CLOSED_ARCHIVE,
    DEEP_ARCHIVE,
    ENCRYPTED,
    LARGE_ARCHIVE,
    MAX_UNPACKED,
)
from core.secrets.scanner import scan_content

AWS_ID = "AKIA" + "Q3EGZ7XN5LWTM2RB"
LEAK = f"import boto3\nkey = '{AWS_ID}'\n".encode()


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def with_zip_flag(content: bytes, flag: int) -> bytes:
    """A zip whose one member says that it is encrypted."""
    changed = bytearray(content)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        where = changed.index(mark) + at
        changed[where] |= flag
    return bytes(changed)


def found(content: bytes, path: str = "python/lambda.zip") -> dict[tuple[str, int, str], Degree]:
    return {(s.member, s.line, s.kind): s.degree for s in scan_content(path, content)}


@pytest.mark.parametrize(
    ("content", "member"),
    [
        (zipped({"readme": b"hi", "src/app.py": LEAK}), "src/app.py"),
        (zipped({"src/app.py": LEAK}, zipfile.ZIP_STORED), "src/app.py"),
        (zipped({"inner.zip": zipped({"app.py": LEAK})}), "inner.zip/app.py"),
        (tarred({"a": b"x" * 700, "app.py": LEAK}), "app.py"),
        (gzip.compress(tarred({"app.py": LEAK})), "app.py"),
        (bz2.compress(LEAK), ""),
        (lzma.compress(tarred({"app.py": LEAK.decode().encode("utf-16")})), "app.py"),
        (gzip.compress(b"x") + gzip.compress(LEAK), ""),
    ],
)
def test_a_secret_in_an_archive_is_found_in_its_member(content: bytes, member: str) -> None:
    spots = found(content)
    assert spots[member, 2, "AWS Access Key"] is Degree.CERTAIN
    assert [key for key in spots if key[2] == "AWS Access Key"] == [(member, 2, "AWS Access Key")]


def test_an_archive_without_secrets_is_a_possible_finding_as_every_binary_file() -> None:
    spots = found(zipped({"app.py": b"print()\n" * 1000}))
    assert spots == {("", 0, BINARY): Degree.POSSIBLE}


@pytest.mark.parametrize(
    "content",
    [
        with_zip_flag(zipped({"a.txt": b"hello"}), 0x1),
        with_zip_flag(zipped({"a.txt": b"hello"}), 0x40),
        zipped({"a/in.zip": with_zip_flag(zipped({"a.txt": b"hello"}), 0x1)}),
        b"#!/bin/sh\nexit 0\n" + with_zip_flag(zipped({"a.txt": b"hello"}), 0x1),
        b"-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n",
        b"age-encryption.org/v1\n-> X25519 abc\n",
        b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n",
        b"Salted__" + bytes(range(200)),
        b"$ANSIBLE_VAULT;1.1;AES256\n6638\n",
        b"\x85\x01\x0c\x03" + bytes(range(256)) * 2,
    ],
)
def test_what_is_encrypted_is_certain(content: bytes) -> None:
    kinds = {kind: degree for (_, _, kind), degree in found(content).items()}
    assert kinds[ENCRYPTED] is Degree.CERTAIN


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (zipped({"a": LEAK})[:-30], CLOSED_ARCHIVE),
        (b"7z\xbc\xaf\x27\x1c" + bytes(300), CLOSED_ARCHIVE),
        (b"Rar!\x1a\x07\x01\0" + bytes(300), CLOSED_ARCHIVE),
        (gzip.compress(LEAK * 9)[:-12], CLOSED_ARCHIVE),
        (zipped({"a": b"\n" * (MAX_UNPACKED + 1)}), LARGE_ARCHIVE),
        (zipped({f"{n}": b"" for n in range(1200)}), LARGE_ARCHIVE),
        (gzip.compress(b"\n" * (MAX_UNPACKED + 1)), LARGE_ARCHIVE),
        (
            zipped({"1": zipped({"2": zipped({"3": zipped({"4": zipped({"5": LEAK})})})})}),
            DEEP_ARCHIVE,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_opened_to_its_end_is_certain(content: bytes, kind: str) -> None:
    kinds = {kind: degree for (_, _, kind), degree in found(content).items()}
    assert kinds[kind] is Degree.CERTAIN


def test_a_text_that_speaks_of_archives_is_none() -> None:
    assert found(b"# ends with PK\x05\x06, begins with BZh\necho hello\n", "shell/a.sh") == {}
