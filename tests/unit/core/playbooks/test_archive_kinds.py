"""Archives of every kind, by their content: zip beside tar, packed in any way, of any system."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.errors import EscherError, InvalidPlaybook, NotFound, UnsafePath, UsageError
from core.models import PlaybookDraft
from core.playbooks.archives import reading
from core.playbooks.archives.kinds import HEAD_BYTES, name_of
from core.playbooks.drafts import iter_drafts

SCRIPT = b"#!/usr/bin/env bash\necho a\n"
METADATA = {"description": "Does it.", "cloud_provider": ["aws"]}


def book(root: str, **files: bytes) -> dict[str, bytes]:
    metadata = json.dumps({"name": f"Playbook {root}", **METADATA}).encode()
    prefix = f"{root}/" if root else ""
    named = {"metadata.json": metadata, "shell/a.sh": SCRIPT, **files}
    return {prefix + name: content for name, content in named.items()}


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(
    files: dict[str, bytes], *, system: int = 3, packed: int = zipfile.ZIP_DEFLATED, **fields: int
) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packed) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.filename, info.create_system, info.compress_type = name, system, packed
            mode = 0o100755 if content.startswith(b"#!") else 0o100644
            info.external_attr = (mode << 16) if system == 3 else 0
            for key, value in fields.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return target.getvalue()


def read(
    path: Path, skipped: list[str] | None = None
) -> tuple[dict[str, PlaybookDraft], dict[str, EscherError]]:
    found = list(iter_drafts(path, skipped=skipped))
    good = {name: item for name, item in found if isinstance(item, PlaybookDraft)}
    bad = {name: item for name, item in found if isinstance(item, EscherError)}
    assert len(good) + len(bad) == len(found)
    return good, bad


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


FILES = {**book("a"), **book("b", **{"python/x/y.py": b"y", "README.md": b"x"})}
WITH_CHECKSUM = {zstd.CompressionParameter.checksum_flag: 1}  # as the program `zstd` writes
KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "tar": tar_of,
    "gz": lambda files: gzip.compress(tar_of(files)),
    "bz2": lambda files: bz2.compress(tar_of(files), 1),
    "xz": lambda files: lzma.compress(tar_of(files)),
    "zst": lambda files: zstd.compress(tar_of(files), options=WITH_CHECKSUM),
    "zip": zip_of,
    "zip stored": lambda files: zip_of(files, packed=zipfile.ZIP_STORED),
    "zip bzip2": lambda files: zip_of(files, packed=zipfile.ZIP_BZIP2),
    "zip lzma": lambda files: zip_of(files, packed=zipfile.ZIP_LZMA),
    "two frames": lambda files: (
        zstd.compress(tar_of(files)[:1500]) + zstd.compress(tar_of(files)[1500:])
    ),
    "two members": lambda files: (
        gzip.compress(tar_of(files)[:100]) + gzip.compress(tar_of(files)[100:])
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "x") for kind in KINDS), ("zip", "x.tar.gz"), ("gz", "x.zip"), ("tar", "x.tgz")],
)
def test_an_archive_is_known_by_its_content(tmp_path, kind, name):
    good, bad = read(write(tmp_path / name, KINDS[kind](FILES)))
    assert not bad
    assert list(good) == ["a", "b"]
    assert good["a"].files == {"shell/a.sh": SCRIPT}
    assert good["b"].files == {"shell/a.sh": SCRIPT, "python/x/y.py": b"y"}
    assert good["b"].ignored == ("README.md",)
    assert good["a"].executable == {"shell/a.sh"}


@pytest.mark.parametrize("kind", ["tar", "gz", "zip", "zst"])
def test_a_playbook_at_the_root(tmp_path, kind):
    good, bad = read(write(tmp_path / "x", KINDS[kind](book(""))))
    assert not bad
    assert [draft.files for draft in good.values()] == [{"shell/a.sh": SCRIPT}]


# -- of other systems -------------------------------------------------------------------------


def test_a_zip_of_macos(tmp_path):
    files = {
        **book("Meine Playbooks/a"),
        "Meine Playbooks/.DS_Store": b"\0",
        "__MACOSX/Meine Playbooks/._a": b"\0\5\x16\7",
        "__MACOSX/Meine Playbooks/a/._metadata.json": b"\0\5\x16\7",
        "__MACOSX/Meine Playbooks/a/metadata.json": b"\0\5\x16\7",
        "__MACOSX/Meine Playbooks/a/shell/._a.sh": b"\0\5\x16\7",
    }
    good, bad = read(write(tmp_path / "x.zip", zip_of(files)))
    assert not bad
    assert list(good) == ["Meine Playbooks/a"]
    assert good["Meine Playbooks/a"].files == {"shell/a.sh": SCRIPT}


def test_a_tar_of_macos(tmp_path):
    files = {
        "./._a": b"\0\5\x16\7",
        **book("./a"),
        "./a/._metadata.json": b"\0",
        "./a/shell/._a.sh": b"\0",
    }
    good, bad = read(write(tmp_path / "x.tar", tar_of(files)))
    assert not bad
    assert good["a"].files == {"shell/a.sh": SCRIPT}
    at_root = {**book(""), "__MACOSX/._shell": b"\0", "__MACOSX/shell/._a.sh": b"\0"}
    good, bad = read(write(tmp_path / "y.zip", zip_of(at_root)))
    assert not bad
    assert [draft.files for draft in good.values()] == [{"shell/a.sh": SCRIPT}]


def test_a_zip_of_windows_has_backslashes_and_no_modes(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in FILES.items()}
    files["a\\shell\\"] = b""
    good, bad = read(write(tmp_path / "x.zip", zip_of(files, system=0)))
    assert not bad
    assert good["b"].files == {"shell/a.sh": SCRIPT, "python/x/y.py": b"y"}
    assert not good["a"].executable
    # of a program that says it was Unix, too, where no name has a slash
    good, bad = read(write(tmp_path / "y.zip", zip_of(files)))
    assert set(good) == {"a", "b"}


def test_a_backslash_of_unix_is_a_character_and_refused(tmp_path):
    files = {**book("a"), "a/shell/b\\c.sh": b"x"}
    _, bad = read(write(tmp_path / "x.zip", zip_of(files)))
    assert isinstance(bad["a"], UnsafePath)


def renamed(content: bytes, old: str, new: bytes, *, utf8: bool = False) -> bytes:
    """A zip in which a name stands in other bytes of the same length, with or without its flag."""
    assert len(old.encode()) == len(new)
    content = content.replace(old.encode(), new)
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := content.find(sign, start)) >= 0:
            flags = struct.unpack_from("<H", content, start + at)[0] & ~0x800 | (
                0x800 if utf8 else 0
            )
            content = content[: start + at] + struct.pack("<H", flags) + content[start + at + 2 :]
            start += 4
    return content


@pytest.mark.parametrize(
    ("raw", "utf8"),
    [
        ("pr\u00fcfe.sh".encode(), False),
        ("pr\u00fcfe.sh".encode(), True),
        ("pr\u00fcfe.sh".encode("cp437"), False),
    ],
    ids=["UTF-8 unsaid", "UTF-8", "cp437"],
)
def test_names_in_the_code_page_of_an_old_pc_or_in_utf8(tmp_path, raw, utf8):
    plain = "x" * len(raw)
    content = zip_of({**book("a"), f"a/shell/{plain}": SCRIPT}, system=0)
    path = write(tmp_path / "x.zip", renamed(content, plain, raw, utf8=utf8))
    good, bad = read(path)
    assert not bad
    assert "shell/prüfe.sh" in good["a"].files


def test_a_name_with_a_nul_is_refused(tmp_path):
    content = zip_of({**book("a"), "a/shell/xyz.sh": b"1"}).replace(b"xyz.sh", b"x\0z.sh")
    _, bad = read(write(tmp_path / "x.zip", content))
    assert isinstance(bad["a"], UnsafePath)


# -- hostile ----------------------------------------------------------------------------------


def special(name: str, mode: int, content: bytes = b"") -> tuple[str, bytes, dict[str, int]]:
    return name, content, {"external_attr": mode << 16}


@pytest.mark.parametrize(
    ("name", "mode", "content"),
    [
        ("b/shell/link", 0o120777, b"/etc/passwd"),
        ("b/shell/up", 0o120777, b"../metadata.json"),
        ("b/shell/dev", 0o020600, b""),
        ("b/shell/pipe", 0o010600, b""),
        ("b/shell/../../../etc/x", 0o100644, b"x"),
        ("b//shell/x", 0o100644, b"x"),
        ("b/shell/x\x01", 0o100644, b"x"),
        ("b/shell/a.sh", 0o100644, b"again"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_member_of_a_zip_costs_its_playbook_only(tmp_path, name, mode, content):
    target = io.BytesIO(zip_of({**book("a"), **book("b")}))
    with zipfile.ZipFile(target, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, content)
        for more, text in book("c").items():
            archive.writestr(more, text)
    good, bad = read(write(tmp_path / "x.zip", target.getvalue()))
    assert set(good) == {"a", "c"}
    assert isinstance(bad["b"], UnsafePath)
    assert bad["b"].remedy


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../x", "..\\x", "C:\\x"])
def test_a_climbing_member_of_a_zip_is_told(tmp_path, name):
    content = zip_of({**book("a"), name: b"x"}, system=0)
    good, bad = read(write(tmp_path / "x.zip", content))
    assert set(good) == {"a"}
    assert set(bad) == {name.replace("\\", "/")}


def test_a_link_to_a_file_of_the_same_format_is_that_file(tmp_path):
    target = io.BytesIO(zip_of(book("a")))
    with zipfile.ZipFile(target, "a") as archive:
        info = zipfile.ZipInfo("a/shell/sub/again.sh")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "../a.sh")
    good, bad = read(write(tmp_path / "x.zip", target.getvalue()))
    assert not bad
    assert good["a"].files["shell/sub/again.sh"] == SCRIPT


def test_an_encrypted_member_is_named(tmp_path):
    content = bytearray(zip_of({**book("a"), **book("b")}))
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(sign, start + 1)) >= 0:
            name = content[start + (30 if at == 6 else 46) :][:10]
            if name == b"b/shell/a.":
                content[start + at] |= 1
    good, bad = read(write(tmp_path / "x.zip", bytes(content)))
    assert set(good) == {"a"}
    assert "encrypted" in bad["b"].detail
    assert "a.sh" in bad["b"].detail


@pytest.mark.parametrize("only", [b"", b"metadata.json"])
def test_an_archive_whose_metadata_is_encrypted_is_said_to_be(tmp_path, only):
    content = bytearray(zip_of(book("a")))
    for sign, at, name in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        start = -1
        while (start := content.find(sign, start + 1)) >= 0:
            if only in content[start + name :][:15]:
                content[start + at] |= 1
    with pytest.raises(UsageError, match=r"x\.zip: .*metadata\.json.* is encrypted") as caught:
        read(write(tmp_path / "x.zip", bytes(content)))
    assert "password" in caught.value.remedy


def test_a_method_that_is_not_read_is_named(tmp_path):
    content = zip_of({**book("a"), **book("b")})
    at = content.rfind(b"b/shell/a.sh") - 46
    content = content[: at + 10] + struct.pack("<H", 9) + content[at + 12 :]  # Deflate64
    good, bad = read(write(tmp_path / "x.zip", content))
    assert set(good) == {"a"}
    assert "method" in bad["b"].detail


@pytest.mark.parametrize("kind", ["zip", "zip bzip2", "zst", "xz", "bz2"])
def test_a_bomb_of_any_kind_ends_at_the_cap(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reading, "MAX_ARCHIVE_BYTES", 1 << 20)
    path = write(tmp_path / "x", KINDS[kind]({**book("a"), "zeros": bytes(5 << 20)}))
    assert path.stat().st_size < 20_000
    good, bad = read(path)
    assert not good
    assert "1 MiB uncompressed" in bad["x"].detail


def test_a_zip_whose_members_overlap_is_bounded(tmp_path, monkeypatch):
    """Many entries of the directory that mean the same bytes."""
    monkeypatch.setattr(reading, "MAX_ARCHIVE_BYTES", 4 << 20)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/shell/zeros", bytes(1 << 20))
        (info,) = archive.filelist
        archive.filelist.extend([info] * 200)
    good, bad = read(write(tmp_path / "x.zip", target.getvalue()))
    assert not good
    assert bad


def test_too_many_members_of_a_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_MEMBERS", 3)
    good, bad = read(write(tmp_path / "x.zip", zip_of(FILES)))
    assert not good
    assert "more than 3 members" in bad["x.zip"].detail


# -- damaged ----------------------------------------------------------------------------------

NOISE = {name: random.Random(name).randbytes(300_000) for name in "abc"}
LARGE = {
    name: content
    for book_name, noise in NOISE.items()
    for name, content in book(book_name, **{"python/b.py": noise}).items()
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"zip bzip2", "zip lzma"}])
def test_of_an_archive_that_breaks_off_what_is_whole_goes_in(tmp_path, kind):
    content = KINDS[kind](LARGE)
    good, bad = read(write(tmp_path / "x", content[: len(content) * 5 // 6]))
    assert set(good) == {"a", "b"}
    assert good["b"].files["python/b.py"] == NOISE["b"]
    assert set(bad) == {"c", "x"}
    assert all(isinstance(error, InvalidPlaybook) and error.remedy for error in bad.values())


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_of_an_archive_that_is_damaged_inside_what_is_before_goes_in(tmp_path, kind):
    content = bytearray(KINDS[kind](LARGE))
    at = len(content) * 5 // 6
    content[at : at + 2000] = bytes(2000)
    good, bad = read(write(tmp_path / "x", bytes(content)))
    assert set(good) <= {"a", "b"}
    assert "x" in bad
    if kind == "bz2":  # each block has a checksum, and stands for itself
        assert set(good) == {"a", "b"}
    for name, draft in good.items():
        assert draft.files["python/b.py"] == NOISE[name]


def test_of_a_damaged_zip_the_sound_playbooks_go_in(tmp_path):
    content = bytearray(zip_of(LARGE))
    at = len(content) // 2
    content[at : at + 2000] = bytes(2000)
    good, bad = read(write(tmp_path / "x.zip", bytes(content)))
    assert set(good) == {"a", "c"}
    assert set(bad) == {"b"}
    assert "b/python/b.py" in bad["b"].detail


@pytest.mark.parametrize("flag", [0, 8], ids=["sizes first", "sizes behind"])
def test_a_zip_without_its_directory_is_read_from_its_start(tmp_path, flag):
    if flag:  # as programs write into a pipe

        class Pipe(io.BytesIO):
            def seekable(self) -> bool:
                return False

        target = Pipe()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in FILES.items():
                archive.writestr(name, text)
        content = target.getvalue()
    else:
        content = zip_of(FILES)
    directory = content.index(b"PK\x01\x02")
    good, bad = read(write(tmp_path / "x.zip", content[: directory + 40]))
    assert {name: draft.files for name, draft in good.items()} == {
        "a": {"shell/a.sh": SCRIPT}, "b": {"shell/a.sh": SCRIPT, "python/x/y.py": b"y"},
    }  # fmt: skip
    assert set(bad) == {"x.zip"}
    assert "executable" in bad["x.zip"].detail
    # what is left of it counts
    good, _ = read(write(tmp_path / "x.zip", content[: content.index(b"PK\x05\x06") - 10]))
    assert set(good) == {"a", "b"}
    assert all(
        draft.executable == ({"shell/a.sh"} if not flag else set()) for draft in good.values()
    )
    good, bad = read(write(tmp_path / "x.zip", content[: directory - 10]))
    assert set(good) == {"a"}
    assert set(bad) == {"b", "x.zip"}


def test_a_link_in_a_zip_without_its_end_is_no_file(tmp_path):
    target = io.BytesIO(zip_of({**book("a"), **book("b")}))
    with zipfile.ZipFile(target, "a") as archive:
        info = zipfile.ZipInfo("a/shell/again.sh")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "a.sh")
    good, bad = read(write(tmp_path / "x.zip", target.getvalue()[:-30]))
    assert set(good) == {"b"}
    assert set(bad) == {"a", "x.zip"}


def test_of_a_damaged_archive_in_another_order_nothing_is_taken_for_whole(tmp_path):
    files = dict(sorted(LARGE.items(), key=lambda item: item[0].partition("/")[2]))
    content = tar_of(files)
    good, bad = read(write(tmp_path / "x.tar", content[: len(content) * 5 // 6]))
    assert not good, "the files that are missing may be anybody's"
    assert set(bad) == {"a", "b", "c", "x.tar"}


def test_a_wrong_checksum_of_the_whole_says_not_where(tmp_path):
    for kind in ("gz", "xz"):
        content = bytearray(KINDS[kind](FILES))
        content[-6 if kind == "gz" else -40] ^= 1
        good, bad = read(write(tmp_path / "x", bytes(content)))
        assert not good
        assert "x" in bad


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_of_an_archive_that_lacks_its_last_bytes_all_goes_in(tmp_path, kind):
    good, bad = read(write(tmp_path / "x", KINDS[kind](FILES)[:-3]))
    assert set(good) == {"a", "b"}
    assert set(bad) == {"x"}


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_what_follows_a_whole_archive_is_no_part_of_it(tmp_path, kind):
    for more in (bytes(512), b"some words of a mailer\n"):
        good, bad = read(write(tmp_path / "x", KINDS[kind](FILES) + more))
        assert set(good) == {"a", "b"}
        assert not bad


def test_noise_in_a_zip_never_escapes_the_error_tree(tmp_path):
    content = zip_of(FILES)
    noise = random.Random(4)
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(noise.randint(1, 6)):
            changed[noise.randrange(len(changed))] = noise.randrange(256)
        try:
            for _, item in iter_drafts(write(tmp_path / "x.zip", bytes(changed))):
                if isinstance(item, PlaybookDraft):
                    crcs = {zlib.crc32(text) for text in item.files.values()}
                    assert crcs <= {zlib.crc32(text) for text in FILES.values()}
        except EscherError:
            pass


# -- collections ------------------------------------------------------------------------------

INDEXES = {
    "a list": b'[{"id": "a"}]',
    "an index": b'{"name": "All", "description": "Of ours", "playbooks": ["a", "b"]}',
    "a playbook's fields": json.dumps({"name": "All of them", **METADATA}).encode(),
}


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("kind", ["folder", "zip", "gz"])
def test_a_collection_with_a_metadata_of_its_own(tmp_path, kind, index):
    files = {"metadata.json": INDEXES[index], "index.json": b"{}", "README.md": b"x", **FILES}
    path = tmp_path / "x"
    if kind == "folder":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        write(path, KINDS[kind](files))
    skipped: list[str] = []
    good, bad = read(path, skipped)
    assert not bad
    assert set(good) == {"a", "b"}
    assert skipped == ["metadata.json"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_playbook_that_holds_another_metadata_is_one(tmp_path, kind):
    files = book("", **{"shell/app/metadata.json": b"{}", "docs/metadata.json": b"{}"})
    path = tmp_path / "x"
    if kind == "folder":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        write(path, KINDS[kind](files))
    good, bad = read(path)
    assert not bad
    assert [set(draft.files) for draft in good.values()] == [
        {"shell/a.sh", "shell/app/metadata.json"}
    ]


# -- what is none -----------------------------------------------------------------------------

NONE = {
    "empty": (b"", "empty"),
    "zeros": (bytes(100), "nothing but zero bytes"),
    "pdf": (b"%PDF-1.7\n...", "a PDF document"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
    "login": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "an HTML page"),
    "login with BOM": (b"\xef\xbb\xbf\r\n<HTML lang=en>", "an HTML page"),
    "s3": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an error of the store"),
    "metadata": (json.dumps({"name": "A playbook", **METADATA}).encode(), "a single metadata.json"),
    "metadata with BOM": (b"\xef\xbb\xbf" + json.dumps(METADATA).encode(), "a single metadata.json"),
    "json": (b'{"a": 1}', "a JSON file"),
    "script": (b"#!/bin/sh\n", "a script"),
    "yaml": (b"- hosts: all\n  tasks: []\n", "a YAML file"),
    "text": (b"hello", "a text file"),
    "utf-16": ("hello".encode("utf-16"), "a text file"),
    "png": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "elf": (b"\x7fELF\2\1", "a program"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "age": (b"age-encryption.org/v1\n", "encrypted with age"),
    "base64": (b"UEsDBBQAAAAI", "in base64"),
    "rpm": (b"\xed\xab\xee\xdb\3\0", "an RPM package"),
    "iso": (bytes(1) + b"x" * 32768 + b"CD001", "a CD image"),
    "noise": (b"\x01\x02\xff\xfe\x00abc" * 20, "of a kind that is not known here"),
    "gzip of text": (gzip.compress(b"hello"), "gzip, and what it holds is a text file"),
    "gzip of gzip": (gzip.compress(gzip.compress(b"x")), "gzip around another archive"),
    "zip of docx": (zip_of({"[Content_Types].xml": b"", "word/a.xml": b""}), "an Office document"),
    "zip of archives": (zip_of({"a.tar.gz": b"x"}), "archives (a.tar.gz)"),
    "empty zip": (zip_of({}), "an empty archive"),
    "empty tar": (tar_of({}), "an empty archive"),
    "zip without one": (zip_of({"a/b.txt": b"x"}), "an archive without a playbook"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_archive_is_called_what_it_is(tmp_path, kind):
    content, words = NONE[kind]
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path / "playbooks.tar.gz", content))
    assert words in caught.value.detail
    assert "playbooks.tar.gz" in caught.value.detail
    assert caught.value.remedy


def test_each_is_told_from_its_head_alone():
    for content, _ in NONE.values():
        assert name_of(content[:HEAD_BYTES]).remedy


def test_a_folder_of_archives_is_said(tmp_path):
    write(tmp_path / "x.zip", zip_of(FILES))
    with pytest.raises(UsageError, match=r"x\.zip"):
        read(tmp_path)
    with pytest.raises(NotFound):
        read(tmp_path / "none.zip")
