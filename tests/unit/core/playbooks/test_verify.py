from __future__ import annotations

import json
import os
import shutil

import pytest

from core.journal import Intent
from core.models import Area, Move, Ref, SyncState
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")


@pytest.fixture
def folder(store, make_draft):
    store.create(make_draft())
    assert verify(store) == []
    return store.folder(REF)


def only(store):
    (problem,) = verify(store)
    assert problem.remedy
    json.dumps(problem.as_json())
    return problem


def test_changed_bytes_of_the_same_length(store, folder):
    path = folder / "shell/stop.sh"
    found = path.stat()
    path.write_bytes(b"echo STOP\n")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    problem = only(store)
    assert problem.ref == REF
    assert "shell/stop.sh was changed" in problem.what


def test_missing_and_added_files(store, folder):
    (folder / "shell/stop.sh").rename(folder / "shell/other.sh")
    assert sorted(p.what.split()[0] for p in verify(store)) == ["shell/other.sh", "shell/stop.sh"]


@pytest.mark.parametrize("content", ["{", '{"name": "other"}'])
def test_metadata_that_differs(store, folder, content):
    (folder / "metadata.json").write_text(content)
    assert "metadata.json" in only(store).what


def test_a_folder_that_vanished(store, folder):
    shutil.rmtree(folder)
    assert "not there" in only(store).what
    store.journal.versions.set(REF, revision=3, sync_state=SyncState.PUBLISHED.value)
    assert "published" in only(store).remedy


def test_a_link_in_a_folder(store, folder):
    (folder / "shell/stop.sh").unlink()
    (folder / "shell/stop.sh").symlink_to("/etc/passwd")
    assert "symbolic link" in only(store).what


def test_folders_that_the_journal_does_not_know(store, folder):
    shutil.copytree(folder, folder.with_name("v1.1.0"))
    assert only(store).ref == Ref("stop-rds", "1.1.0")
    folder.with_name("v1.1.0").rename(folder.with_name("1.1.0"))
    assert only(store).ref is None
    shutil.rmtree(folder.with_name("1.1.0"))
    shutil.copytree(folder, store.layout.folder(Area.AI_GENERATED, REF))
    assert "second copy" in only(store).what


def test_metadata_alone_in_synced_is_not_fetched_yet(store, folder):
    store.journal.versions.set(REF, revision=3, sync_state=SyncState.PUBLISHED.value)
    store.move([Move(REF, Area.SYNCED, {})])
    shutil.rmtree(store.folder(REF) / "shell")
    assert verify(store) == []


def test_the_row_may_be_ahead_of_the_disk_until_it_is_settled(store, folder):
    del folder
    metadata = store.get(REF).metadata | {"status": "approved"}
    store.journal.versions.set(REF, metadata=metadata, revision=1)
    assert verify(store) == []


def test_an_open_intent_that_can_be_finished_is(store, folder):
    folder.rename(store.layout.old("a" * 32))
    store.journal.intents.begin([Intent(REF, "delete", "a" * 32, from_area=Area.LOCAL)])
    assert verify(store) == []
    assert store.journal.versions.get(REF) is None


def test_leftovers_in_staging(store, folder):
    del folder
    left = store.layout.staged("0" * 32)
    left.mkdir()
    assert verify(store) == []
    os.utime(left, (1, 1))
    assert only(store).path == str(left)
