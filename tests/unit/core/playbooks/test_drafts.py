from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core.errors import EscherError, InvalidPlaybook, NotFound, UnsafePath, UsageError
from core.models import PlaybookDraft
from core.playbooks.drafts import draft_from_folder, iter_drafts
from core.playbooks.validation import Limits


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write(tmp_path / "book", **{"metadata.json": '{"name": "Stop"}', "shell__a.sh": "echo"})
    return write(root, **{"README.md": "hi", "parameters.json": "{}", "shell__lib__b.sh": "b"})


def test_a_folder_becomes_a_draft(folder):
    draft = draft_from_folder(folder)
    assert draft.metadata == {"name": "Stop"}
    assert draft.files == {"parameters.json": b"{}", "shell/a.sh": b"echo", "shell/lib/b.sh": b"b"}
    assert draft.ignored == ("README.md",)


@pytest.mark.parametrize("content", ["[]", "{", "", '{"a": NaN}'])
def test_metadata_that_is_no_object_is_named(folder, content):
    (folder / "metadata.json").write_text(content)
    with pytest.raises(InvalidPlaybook, match=r"metadata\.json") as caught:
        draft_from_folder(folder)
    assert caught.value.remedy


def test_metadata_not_in_utf8(folder):
    (folder / "metadata.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(InvalidPlaybook, match=r"metadata\.json is not UTF-8"):
        draft_from_folder(folder)


def test_without_metadata_or_folder(folder, tmp_path):
    (folder / "metadata.json").unlink()
    with pytest.raises(InvalidPlaybook, match=r"no metadata\.json"):
        draft_from_folder(folder)
    with pytest.raises(NotFound):
        draft_from_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["metadata.json", "shell/a.sh", "shell", "parameters.json"])
def test_links_are_refused(folder, tmp_path, name):
    target = tmp_path / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises(UnsafePath, match="symbolic link"):
        draft_from_folder(folder)


def test_pipes_do_not_hang(folder):
    os.mkfifo(folder / "shell" / "pipe")
    with pytest.raises(UnsafePath, match="pipe"):
        draft_from_folder(folder)


def test_a_huge_file_is_refused_before_it_is_read(folder):
    with (folder / "shell" / "huge.sh").open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(InvalidPlaybook, match=r"shell/huge\.sh in book has 200 MiB; at most 64"):
        draft_from_folder(folder)


def test_too_many_files(folder):
    with pytest.raises(InvalidPlaybook, match="More than 2 files"):
        draft_from_folder(folder, Limits(files=2))


def test_a_folder_of_playbooks_in_order_at_any_depth(tmp_path):
    for name in ("b", "a/v1.0.0", "x/y/z/deep"):
        write(tmp_path / name, **{"metadata.json": json.dumps({"name": name})})
    write(tmp_path / "c", **{"metadata.json": "{"})
    write(tmp_path / "b" / "shell", **{"metadata.json": "a script's own"})
    write(tmp_path / "1/2/3/4/5/6/7", **{"metadata.json": "{}"})
    found = list(iter_drafts(tmp_path))
    assert [name for name, _ in found] == ["a/v1.0.0", "b", "c", "x/y/z/deep"]
    assert isinstance(found[2][1], InvalidPlaybook)
    assert [d.metadata["name"] for _, d in found if isinstance(d, PlaybookDraft)] == [
        "a/v1.0.0",
        "b",
        "x/y/z/deep",
    ]


def test_one_playbook_alone(folder):
    ((name, draft),) = iter_drafts(folder)
    assert name == "book"
    assert not isinstance(draft, EscherError)


def test_nothing_to_import_is_said(tmp_path):
    with pytest.raises(UsageError, match="no playbook"):
        list(iter_drafts(tmp_path))
    with pytest.raises(NotFound):
        list(iter_drafts(tmp_path / "nowhere"))
