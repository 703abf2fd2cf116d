from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest

from core.errors import EscherError, InvalidPlaybook, UsageError
from core.models import PlaybookDraft
from core.playbooks.archives import reading
from core.playbooks.drafts import iter_drafts
from core.playbooks.validation import Limits

CORPUS = Path(__file__).parents[5] / "shared" / "corpus" / "corpus.tar.gz"


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def book(root: str, **files: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    metadata = json.dumps({"name": root}).encode()
    named = {"metadata.json": metadata, "shell/a.sh": root.encode(), **files}
    return [member(f"{root}/{name}", content) for name, content in named.items()]


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in {".gz", ".tgz"} else "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def read(path: Path) -> tuple[dict[str, PlaybookDraft], dict[str, EscherError]]:
    found = list(iter_drafts(path))
    good = {name: item for name, item in found if isinstance(item, PlaybookDraft)}
    bad = {name: item for name, item in found if isinstance(item, EscherError)}
    assert len(good) + len(bad) == len(found)
    return good, bad


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.gz"])
def test_an_archive_of_playbooks(tmp_path, name):
    path = pack(
        tmp_path / name,
        member("LICENSES/MIT.txt", b"mit"),
        *book("./playbooks/a"),
        *book("b", **{"README.md": b"x", "python/x/y.py": b"y"}),
    )
    good, bad = read(path)
    assert not bad
    assert list(good) == ["playbooks/a", "b"]
    assert good["b"].files == {"shell/a.sh": b"b", "python/x/y.py": b"y"}
    assert good["b"].ignored == ("README.md",)


def test_a_playbook_at_the_top(tmp_path):
    path = pack(tmp_path / "x.tar", member("metadata.json", b"{}"), member("shell/a.sh", b"a"))
    good, _ = read(path)
    assert [draft.files for draft in good.values()] == [{"shell/a.sh": b"a"}]


HOSTILE = [
    member("b/shell/../../../etc/x", b"x"),
    member("b//shell/x", b"x"),
    member("b/shell/x\x01", b"x"),
    member("b/shell/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("b/shell/hard", type=tarfile.LNKTYPE, linkname="a/metadata.json"),
    member("b/shell/dev", type=tarfile.CHRTYPE),
    member("b/shell/pipe", type=tarfile.FIFOTYPE),
    member("b/shell/a.sh", b"again"),
    member("b/shell/huge", b"x" * ((64 << 20) + 1)),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda item: item[0].name)
def test_a_hostile_member_costs_its_playbook_only(tmp_path, hostile):
    path = pack(tmp_path / "x.tar.gz", *book("a"), *book("b"), hostile, *book("c"))
    good, bad = read(path)
    assert set(good) == {"a", "c"}
    assert set(bad) == {"b"}
    assert bad["b"].remedy


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../x", "other/../../x"])
def test_a_climbing_member_outside_is_told(tmp_path, name):
    good, bad = read(pack(tmp_path / "x.tar", *book("a"), member(name, b"x")))
    assert set(good) == {"a"}
    assert set(bad) == {name}


def test_names_that_differ_in_case_are_left_to_validation(tmp_path):
    good, _ = read(pack(tmp_path / "x.tar", *book("a"), member("a/shell/A.SH", b"x")))
    assert set(good["a"].files) == {"shell/a.sh", "shell/A.SH"}


def test_bad_metadata_is_one_error(tmp_path):
    members = [*book("a"), member("b/metadata.json", b"{"), *book("c")]
    good, bad = read(pack(tmp_path / "x.tar", *members))
    assert (set(good), set(bad)) == ({"a", "c"}, {"b"})


def test_any_order_gives_the_same_drafts(tmp_path, monkeypatch):
    members = [item for n in range(40) for item in book(f"p{n}", **{"python/b.py": b"x" * 5000})]
    expected, _ = read(pack(tmp_path / "sorted.tar", *members))
    random.Random(1).shuffle(members)
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 20_000)
    shuffled, bad = read(pack(tmp_path / "shuffled.tar.gz", *members))
    assert not bad
    assert shuffled == expected


def test_scattered_files_do_not_pile_up_in_memory(tmp_path, monkeypatch):
    blob = random.Random(2).randbytes(1 << 20)
    books = [book(f"p{n}", **{"python/b.py": blob}) for n in range(32)]
    members = [item for row in zip(*books, strict=True) for item in row]
    path = pack(tmp_path / "x.tar", *members)
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 4 << 20)
    tracemalloc.start()
    try:
        assert sum(1 for _ in iter_drafts(path)) == 32
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_what_waits_on_disk_has_no_name_there(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 1)
    path, waiting = pack(tmp_path / "x.tar", *book("a"), *book("b")), tmp_path / "waiting"
    waiting.mkdir()
    found = iter_drafts(path, temporary=waiting)
    assert isinstance(next(found)[1], PlaybookDraft)
    assert not list(waiting.iterdir()), "a killed process leaves nothing behind"
    assert len(list(found)) == 1
    assert not list(waiting.iterdir())


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_truncated_archive_gives_what_is_whole_and_an_error(tmp_path, name):
    blob = random.Random(3).randbytes(300_000)
    members = [item for n in "abc" for item in book(n, **{"python/b.py": blob})]
    path = pack(tmp_path / name, *members)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 5 // 6])
    good, bad = read(path)
    assert set(good) == {"a", "b"}
    assert set(bad) == {"c", name}


def test_a_tar_without_its_end_is_not_taken_for_whole(tmp_path):
    path = pack(tmp_path / "x.tar", *book("a"), *book("b"))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + b"\0" * (-len(content) % 512))
    good, bad = read(path)
    assert set(good) == {"a"}
    assert set(bad) == {"b", "x.tar"}


def test_a_wrong_checksum_is_believed(tmp_path):
    path = pack(tmp_path / "x.tar.gz", *book("a"))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the CRC
    path.write_bytes(content)
    good, bad = read(path)
    assert not good
    assert isinstance(bad["x.tar.gz"], InvalidPlaybook)


def test_a_bomb_ends_at_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ARCHIVE_BYTES", 1 << 20)
    path = pack(tmp_path / "x.tar.gz", *book("a"), member("zeros", bytes(5 << 20)))
    assert path.stat().st_size < 20_000
    good, bad = read(path)
    assert not good
    assert "1 MiB uncompressed" in bad["x.tar.gz"].detail


def test_a_header_bomb_is_refused_before_it_is_read(tmp_path):
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 900 << 20
    path = tmp_path / "x.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(huge.tobuf(tarfile.GNU_FORMAT) + bytes(10 << 20))
    tracemalloc.start()
    try:
        _, bad = read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert "unreasonable" in bad["x.tar.gz"].detail


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_MEMBERS", 3)
    good, bad = read(pack(tmp_path / "x.tar", *book("a"), *book("b")))
    assert not good
    assert "more than 3 members" in bad["x.tar"].detail


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", bytes(3000), b"PK\x03\x04" * 500])
def test_what_is_no_archive_is_said(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    try:
        good, bad = read(path)
    except UsageError:
        return  # an empty archive
    assert not good
    assert isinstance(bad["x.tar"], InvalidPlaybook)


def test_noise_never_escapes_the_error_tree(tmp_path):
    """Any one changed byte gives drafts or errors, nothing else."""
    path = pack(tmp_path / "x.tar", *book("a"), *book("b"))
    content = path.read_bytes()
    noise = random.Random(4)
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(noise.randint(1, 4)):
            changed[noise.randrange(5000)] = noise.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(EscherError):
            list(iter_drafts(path))


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not there")
def test_the_corpus_is_whole():
    found = list(iter_drafts(CORPUS))
    assert len(found) == 2998
    assert all(isinstance(item, PlaybookDraft) for _, item in found)


# -- headers made to hang their reader --------------------------------------------------------


def header(kind: bytes, content: bytes, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def pax(**fields: str) -> bytes:
    records = b""
    for key, value in fields.items():
        body = f" {key}={value}\n".encode()
        length = len(body)
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        records += str(length).encode() + body
    return header(tarfile.XHDTYPE, records)


FILE = header(tarfile.REGTYPE, b"echo\n", "b/shell/z.sh")
MADE_TO_HANG = {
    "a size of 10^20": pax(size="1" + "0" * 20) + FILE,
    "a size of 10^4000": pax(size="1" + "0" * 4000) + FILE,
    "a size below nothing": pax(size="-5") + FILE,
    "a size that the header itself names": header(tarfile.REGTYPE, b"", "b/shell/z")[:124]
    + b"\x80" + b"\xff" * 11 + bytes(376),
    "a pax header of 1 MB": header(tarfile.XHDTYPE, b"1" * (1 << 20)) + FILE,
    "a pax header of digits": header(tarfile.XHDTYPE, b"1" * (64 << 10)) + FILE,
    "a pax value of digits": pax(comment="1" * (63 << 10)) + FILE,
    "a pax header that counts wrong": header(tarfile.XHDTYPE, b"5 a=b\n" * 9000) + FILE,
    "3000 pax headers": pax(comment="x") * 3000 + FILE,
    "3000 global headers": header(tarfile.XGLTYPE, b"") * 3000 + FILE,
    "3000 long names": header(tarfile.GNUTYPE_LONGNAME, b"y\0") * 3000 + FILE,
    "a map of holes": pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + header(tarfile.REGTYPE, b"9" * 4000 + b"\n" + b"1\n" * 200_000, "b/shell/z"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE_TO_HANG)
def test_a_header_made_to_hang_costs_the_archive_at_most(tmp_path, kind):
    sound = pack(tmp_path / "sound.tar", *book("a"), *book("b")).read_bytes().rstrip(b"\0")
    sound += bytes(-len(sound) % 512)
    path = tmp_path / "x.tar"
    path.write_bytes(sound + MADE_TO_HANG[kind] + bytes(1024))
    began = time.monotonic()
    good, bad = read(path)
    assert time.monotonic() - began < 20
    assert set(good) <= {"a", "b"}
    if "z.sh" not in (good["b"].files if "b" in good else {}):
        assert bad
    # and the next archive is read as ever
    assert set(read(tmp_path / "sound.tar")[0]) <= {"a", "b"}


def test_an_archive_whose_reader_stalls_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "STALL_SECONDS", 1.0)
    path = tmp_path / "x.tar"
    os.mkfifo(path)  # nothing ever comes out of it
    found = list(reading.drafts_in_archive(path, Limits(), None, []))
    ((name, error),) = found
    assert name == "x.tar"
    assert isinstance(error, InvalidPlaybook)
    assert "took longer" in error.detail


def test_a_small_file_that_claims_to_be_huge_is_refused(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(50 << 20), 9) * 8)  # as one stream of 400 MiB
    _, bad = read(path)
    assert "MiB uncompressed" in bad["x.tar.gz"].detail
