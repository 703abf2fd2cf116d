"""Archives made to do harm: each member refused by name, the rest goes in, nothing is extracted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

from support.playbooks import metadata
from support.refusals import Untouched, files_under, refusal
from support.service import ServiceUnderTest

MIB = 1 << 20


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"echo\n") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _special(archive: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    archive.addfile(info)


def _playbook(archive: tarfile.TarFile, folder: str) -> None:
    _add(archive, f"{folder}/metadata.json", json.dumps(metadata(folder)).encode())
    _add(archive, f"{folder}/shell/main.sh")


def test_hostile_members_are_named_and_the_good_playbook_goes_in(
    home: ServiceUnderTest, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    path = tmp_path / "a" / "hostile.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for folder in ("absolute", "climbing", "linked", "hard", "device", "twice", "good-one"):
            _playbook(archive, folder)
        _add(archive, str(outside / "absolute"))
        _add(archive, "../outside/climbing")
        _add(archive, "climbing/shell/../../../outside/x.sh")
        _special(archive, "linked/shell/link.sh", tarfile.SYMTYPE, "/etc/passwd")
        _special(archive, "hard/shell/hard.sh", tarfile.LNKTYPE, "/etc/passwd")
        _special(archive, "device/shell/zero.sh", tarfile.CHRTYPE)
        _add(archive, "twice/shell/main.sh", b"other\n")
    before, around = Untouched(home), files_under(tmp_path)

    report = home.json("import", str(path), code=1)

    assert report["imported"] == 2  # good-one, and absolute: what is hostile stands outside of it
    failed = {item["name"]: item for item in report["failed"]}
    assert {item["type"] for item in failed.values()} == {"UnsafePath"}
    assert set(failed) == {
        str(outside / "absolute"), "../outside/climbing", "climbing", "linked", "hard",
        "device", "twice",
    }  # fmt: skip
    assert "link.sh" in failed["linked"]["detail"]
    assert "main.sh" in failed["twice"]["detail"]
    assert files_under(tmp_path) == around, "nothing was written beside the archive"
    for name in ("absolute", "good-one"):
        home.json("delete", name)
    before.check()


def test_a_bomb_ends_at_the_limit(home: ServiceUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    head = io.BytesIO()
    with tarfile.open(fileobj=head, mode="w") as archive:
        _playbook(archive, "bomb")
    info = tarfile.TarInfo("bomb/shell/zeros.sh")
    info.size = 1100 * MIB
    # members of gzip may follow each other: one compressed block, repeated
    block = gzip.compress(bytes(50 * MIB), 1)
    with path.open("wb") as file:
        file.write(gzip.compress(head.getvalue().rstrip(b"\0").ljust(2560, b"\0") + info.tobuf()))
        for _ in range(22):
            file.write(block)
    before = Untouched(home)
    report = home.json("import", str(path), code=1)
    assert report["imported"] == 0
    assert any("MiB" in item["detail"] for item in report["failed"]), report
    before.check()


def test_what_is_no_archive_is_refused(home: ServiceUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "words.tar.gz"
    path.write_bytes(b"no archive at all")
    before = Untouched(home)
    refusal(home, "import", str(path), code=2, type_="UsageError", names=("words.tar.gz",))
    before.check()


def test_of_a_broken_off_archive_the_whole_playbooks_go_in(
    home: ServiceUnderTest, tmp_path: Path
) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        _playbook(archive, "first-one")
        _playbook(archive, "second-one")
        _add(archive, "second-one/shell/long.sh", b"# long\n" * 4000)
    path = tmp_path / "half.tar"
    path.write_bytes(whole.getvalue()[:8000])
    before = Untouched(home)
    report = home.json("import", str(path), code=1)
    assert report["imported"] == 1
    assert [item["type"] for item in report["failed"]]
    home.json("delete", "first-one")
    before.check()
