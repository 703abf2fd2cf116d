from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import files
from core.errors import StorageError, UnsafePath
from core.files import (
    atomic_write,
    check_distinct,
    check_relative_path,
    make_private_dir,
    read_bytes,
    remove_tree,
    safe_join,
    sha256_bytes,
    sha256_file,
    walk_files,
    write_new_file,
    write_tree,
)

HOSTILE = {
    "empty": "",
    "absolute": "/etc/passwd",
    "drive": "C:/windows",
    "drive, relative": "c:evil",
    "parent": "../x",
    "parent inside": "shell/../../x",
    "parent at the end": "shell/..",
    "this folder": "shell/./x",
    "empty part": "shell//x",
    "trailing slash": "shell/",
    "backslash": "shell\\x",
    "backslash parent": "..\\x",
    "NUL": "shell/x\0.sh",
    "newline": "shell/x\n.sh",
    "escape sequence": "shell/\x1b[2J.sh",
    "delete": "shell/\x7f",
    "next line (C1)": "shell/\x85",
    "right-to-left": "shell/\u202ehs.exe",
    "zero width": "shell/ma\u200bin.sh",
    "line separator": "shell/\u2028",
    "lone surrogate": "shell/\udc80",
    "leading space": "shell/ x",
    "trailing space": "shell/x ",
    "no-break space at the end": "shell/x\u00a0",
    "trailing dot": "shell/x.",
    "dots": "shell/...",
    "long name": "shell/" + "x" * 256,
    "long name in bytes": "shell/" + "ü" * 128,
    "long path": "/".join(["x" * 200] * 6),
}


class TestRelativePaths:
    @pytest.mark.parametrize("path", HOSTILE.values(), ids=HOSTILE)
    def test_a_hostile_name_is_refused_in_printable_words(self, path: str, tmp_path: Path) -> None:
        with pytest.raises(UnsafePath) as refused:
            check_relative_path(path)
        assert refused.value.detail.isprintable()
        assert len(refused.value.detail) < 2000
        with pytest.raises(UnsafePath):
            safe_join(tmp_path, path)

    @pytest.mark.parametrize(
        "path",
        ["x", "shell/main.sh", "shell/.env", "a b/c d", "ü/ß.sh", "..x/y..z", "a" * 255, "-rf"],
    )
    def test_a_plain_name_is_not(self, path: str, tmp_path: Path) -> None:
        assert check_relative_path(path) == path
        assert safe_join(tmp_path, path) == tmp_path / path

    @given(st.text(max_size=20))
    def test_what_is_let_through_stays_inside(self, path: str) -> None:
        with contextlib.suppress(UnsafePath):
            check_relative_path(path)
            root = "/root/of/it"
            assert os.path.normpath(f"{root}/{path}") == f"{root}/{path}"

    def test_names_that_differ_only_in_case(self) -> None:
        check_distinct(["shell/main.sh", "python/main.sh", "shell/main.sh"])
        for other in ("shell/MAIN.sh", "Shell/main.sh"):
            with pytest.raises(UnsafePath, match="only in case"):
                check_distinct(["shell/main.sh", other])
        for one, other in (("straße.sh", "STRASSE.sh"), ("ü.sh", "u\u0308.sh")):
            with pytest.raises(UnsafePath, match="only in case"):
                check_distinct([one, other])

    @pytest.mark.parametrize(
        "path",
        [
            "shell/u\u0308.sh",  # the doors change it
            "shell/\u06af\u0632\u0627\u0631\u0634\u200c\u0647\u0627.sh",
            "shell/\U0001f469\u200d\U0001f4bb-oncall.sh",
            "shell/\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f.sh",
            "shell/\u0601\u0662\u0660\u0662\u0666.sh",
        ],
        ids=["nfd", "persian", "emoji", "flag", "year sign"],
    )
    def test_names_of_every_script_are_fine(self, path: str) -> None:
        assert check_relative_path(path) == path

    def test_a_tag_outside_of_a_flag_is_not(self) -> None:
        with pytest.raises(UnsafePath):
            check_relative_path("shell/main\U000e0067\U000e007f.sh")

    @pytest.mark.parametrize("link", ["shell", "shell/main.sh"])
    def test_no_way_through_a_symbolic_link(self, link: str, tmp_path: Path) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        outside.mkdir()
        (root / link).parent.mkdir(parents=True)
        (root / link).symlink_to(outside)
        with pytest.raises(UnsafePath, match="symbolic link"):
            safe_join(root, "shell/main.sh")

    def test_a_dangling_link_is_one_too(self, tmp_path: Path) -> None:
        (tmp_path / "x").symlink_to(tmp_path / "nowhere")
        with pytest.raises(UnsafePath, match="symbolic link"):
            safe_join(tmp_path, "x")


def _fail(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    def fails(*_: object) -> None:
        raise error

    if name == "replace":
        monkeypatch.setattr(Path, "replace", fails)
    else:
        monkeypatch.setattr(files.os, name, fails)


class TestAtomicWrite:
    def test_the_new_bytes_are_there_and_private(self, tmp_path: Path) -> None:
        target = tmp_path / "metadata.json"
        target.write_bytes(b"old")
        target.chmod(0o644)
        atomic_write(target, b"new")
        assert target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("there_before", [b"old", None])
    @pytest.mark.parametrize("call", ["fchmod", "fsync", "replace"])
    def test_a_failure_leaves_the_old_bytes_and_nothing_else(
        self, call: str, there_before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "metadata.json"
        if there_before is not None:
            target.write_bytes(there_before)
        _fail(monkeypatch, call, OSError(errno.ENOSPC, "No space left on device"))

        with pytest.raises(StorageError, match=r"metadata\.json") as failure:
            atomic_write(target, b"new")

        assert "full" in failure.value.remedy
        assert [path.read_bytes() for path in tmp_path.iterdir()] == (
            [] if there_before is None else [there_before]
        )

    def test_a_signal_in_between_leaves_nothing_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fail(monkeypatch, "fsync", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "x", b"new")
        assert list(tmp_path.iterdir()) == []

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.write_bytes(b"theirs")
        (tmp_path / "x").symlink_to(theirs)
        atomic_write(tmp_path / "x", b"new")
        assert theirs.read_bytes() == b"theirs"
        assert (tmp_path / "x").read_bytes() == b"new"

    def test_a_long_name_is_no_obstacle(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / ("x" * 255), b"new")
        assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


class TestWriteTree:
    FILES = {"metadata.json": b"{}", "shell/lib/a.sh": b"a", "shell/b.sh": b"", "python/c.py": b"c"}  # noqa: RUF012  read only

    def test_everything_is_there_and_private(self, tmp_path: Path) -> None:
        root = tmp_path / "staging" / "one"
        write_tree(root, self.FILES)
        assert {path: (root / path).read_bytes() for path, _ in walk_files(root)} == self.FILES
        for path in root.rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)

    @pytest.mark.parametrize("at", range(1, 9))
    def test_a_disk_that_fails_at_any_sync_leaves_no_folder(
        self, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0
        real = os.fsync

        def fsync(fd: int) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(files.os, "fsync", fsync)
        with pytest.raises(StorageError, match="Input/output error"):
            write_tree(tmp_path / "one", self.FILES)
        assert not (tmp_path / "one").exists()

    def test_an_unsafe_name_leaves_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UnsafePath):
            write_tree(tmp_path / "one", {"shell/a.sh": b"a", "../b": b"b"})
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_there_already_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_bytes(b"mine")
        with pytest.raises(StorageError):
            write_tree(tmp_path, self.FILES)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_reading_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError, match="x"):
        read_bytes(tmp_path / "x")


def test_a_walk_refuses_what_is_no_file(tmp_path: Path) -> None:
    write_tree(tmp_path / "a", {"shell/a.sh": b"a"})
    (tmp_path / "a" / "shell" / "link").symlink_to("a.sh")
    with pytest.raises(UnsafePath, match="shell/link"):
        list(walk_files(tmp_path / "a"))
    (tmp_path / "a" / "shell" / "link").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(UnsafePath, match="pipe"):
        list(walk_files(tmp_path / "a"))


def test_private_folders_are_private_up_to_what_was_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_dir(make_private_dir(tmp_path / "a" / "b"))
    assert [p.stat().st_mode & 0o777 for p in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [
        0o755,
        0o700,
        0o700,
    ]
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_digests_say_their_algorithm(tmp_path: Path) -> None:
    known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "x") == known
