from __future__ import annotations

import os
import stat

import pytest

from core.errors import InvalidPlaybook
from core.models import Ref
from core.playbooks.folder_copies import ConflictCopies

REF = Ref("stop-rds", "1.0.0-rc.1")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "v1"
    (root / "shell" / "lib").mkdir(parents=True)
    (root / "metadata.json").write_text("{ half an edit")
    (root / "shell" / "lib" / "x.sh").write_bytes(b"\x00\xff")
    (root / "notes.txt").write_text("mine")
    (root / "link").symlink_to("notes.txt")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def copies(tmp_path):
    return ConflictCopies(tmp_path / "conflicts")


def test_everything_that_stood_there_is_in_the_copy(copies, folder, tmp_path):
    kept = copies.keep(REF, folder)
    assert kept.parent == tmp_path / "conflicts" / "stop-rds"
    assert kept.name.startswith("v1.0.0-rc.1-")
    assert (kept / "metadata.json").read_text() == "{ half an edit"
    assert (kept / "shell" / "lib" / "x.sh").read_bytes() == b"\x00\xff"
    assert (kept / "notes.txt").read_text() == "mine"
    assert (kept / "link").readlink().name == "notes.txt"
    assert not (kept / "pipe").exists()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert folder.exists()


def test_the_same_content_is_kept_once_and_another_beside_it(copies, folder):
    first = copies.keep(REF, folder)
    assert copies.keep(REF, folder) == first
    (folder / "notes.txt").write_text("mine, too")
    second = copies.keep(REF, folder)
    assert second != first
    assert (first / "notes.txt").read_text() == "mine"


def test_what_a_killed_process_left_is_no_copy(copies, folder):
    kept = copies.keep(REF, folder)
    kept.rename(kept.with_name(f".{kept.name}.tmp"))
    (kept.with_name(f".{kept.name}.tmp") / "notes.txt").unlink()
    assert copies.keep(REF, folder) == kept
    assert (kept / "notes.txt").read_text() == "mine"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_name_never_leaves_the_folder(copies, folder):
    with pytest.raises(InvalidPlaybook):
        copies.keep(Ref("../x", "1.0.0"), folder)
