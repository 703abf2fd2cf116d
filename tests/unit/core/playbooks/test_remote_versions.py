from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from core.errors import (
    AlreadyExists,
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    NotFound,
    Refused,
)
from core.files import sha256_bytes
from core.journal import VersionRecord
from core.models import Area, FileEntry, Ref, Strategy, SyncState, content_digest
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")
FILES = {
    "shell/run.sh": b"echo hello\n",
    "shell/lib/x.sh": b"x\n",
    "parameters.json": b'{"parameters": []}',
    "explain_plan.json": b"{}",
}


@pytest.fixture
def folders(store, settings):
    return RemoteVersions(store, settings)


def pulled(files=FILES, ref=REF, **fields):
    """What the feed tells of a version with ``files``."""
    metadata = {
        "playbook_id": ref.playbook_id, "version": ref.version, "name": "Stop idle RDS",
        "description": "Stops what nobody uses.", "cloud_provider": ["aws"],
        "storage_strategy": "uploaded_for_review", "status": "pending_review",
        "created_at": 1, "updated_at": 2, **fields,
    }  # fmt: skip
    entries = [FileEntry(path, len(body), sha256_bytes(body)) for path, body in files.items()]
    digest = content_digest(metadata, entries)
    record = VersionRecord(
        ref, Area.SYNCED, digest, metadata, sync_state=SyncState.PUBLISHED,
        published_digest=digest, revision=1,
    )  # fmt: skip
    return record, entries


def taken_in(folders, *versions):
    assert folders.take_in(versions or [pulled()]) == {}


class TestTakeIn:
    def test_metadata_stands_alone_and_the_home_verifies_clean(self, folders, store):
        taken_in(folders)
        folder = store.folder(REF)
        assert folder == store.layout.folder(Area.SYNCED, REF)
        assert [path.name for path in folder.iterdir()] == ["metadata.json"]
        assert json.loads((folder / "metadata.json").read_text()) == store.get(REF).metadata
        assert verify(store) == []
        with pytest.raises(NotFound, match="not on this machine"):
            store.read(REF)

    def test_a_version_without_files_is_whole(self, folders, store):
        taken_in(folders, pulled({}))
        assert store.read(REF) == {}

    def test_many_at_once_and_a_bad_one_holds_back_no_other(self, folders, store):
        many = [pulled(ref=Ref(f"p-{n}", "1.0.0")) for n in range(70)]
        bad = pulled({"../evil.sh": b""}, Ref("bad", "1.0.0"))
        errors = folders.take_in([*many[:3], bad, *many[3:]])
        assert list(errors) == [bad[0].ref]
        assert len(store.journal.versions.refs()) == 70
        assert list(store.layout.staging.iterdir()) == []

    def test_what_is_here_already_stays(self, folders, store, make_draft):
        store.create(make_draft(version="1.0.0"))
        errors = folders.take_in([pulled()])
        assert isinstance(errors[REF], AlreadyExists)
        assert store.get(REF).area is Area.LOCAL

    @pytest.mark.parametrize(
        ("files", "fields"),
        [
            ({"shell/a.sh": b"", "shell/A.sh": b""}, {}),
            ({"shell/a": b"", "shell/a/b": b""}, {}),
            ({"readme.md": b""}, {}),
            ({f"shell/{n}": b"" for n in range(2001)}, {}),
            ({}, {"purpose": "x" * 1_100_000}),
        ],
    )
    def test_what_may_not_stand_here_is_refused(self, folders, files, fields):
        record, entries = pulled(files, **fields)
        with pytest.raises(InvalidPlaybook):
            folders.check(record, entries)

    def test_a_size_that_is_not_taken_is_refused(self, folders):
        record, _ = pulled()
        with pytest.raises(InvalidPlaybook, match="MiB"):
            folders.check(record, [FileEntry("shell/big.sh", 1 << 40, "sha256:" + "0" * 64)])

    def test_the_librarys_ids_are_refused(self, folders):
        with pytest.raises(Refused):
            folders.check(*pulled(ref=Ref("escher-x", "1.0.0")))

    @pytest.mark.parametrize("when", ["staged", "renamed"])
    def test_killed_at_any_instant_it_is_carried_through_or_done_anew(
        self, folders, store, monkeypatch, when
    ):
        carry_out = folders._writer._changes.carry_out

        def die(intent):
            if when == "renamed":
                carry_out(intent)
            raise KeyboardInterrupt

        monkeypatch.setattr(folders._writer._changes, "carry_out", die)
        monkeypatch.setattr(folders._writer._changes, "take_back", lambda intent: None)
        monkeypatch.setattr(folders._writer, "discard", lambda name: None)
        with pytest.raises(KeyboardInterrupt):
            folders.take_in([pulled()])
        monkeypatch.undo()
        assert store.writer.recover() == 1
        assert store.get(REF).is_published
        assert [path.name for path in store.folder(REF).iterdir()] == ["metadata.json"]
        assert verify(store) == []


class TestFetchContents:
    def test_the_content_comes_whole_and_the_point_is_to_be_written_anew(self, folders, store):
        taken_in(folders)
        store.journal.versions.set(REF, indexed_digest="as it was")
        assert store.journal.versions.unfetched() == [REF]
        assert folders.fetch_contents(REF, FILES)
        assert store.journal.versions.unfetched() == []
        assert store.read(REF) == FILES
        assert store.published_files(REF) == FILES
        assert verify(store) == []
        record = store.get(REF)
        assert (record.revision, record.sync_state) == (1, SyncState.PUBLISHED)
        assert record.indexed_digest is None
        assert store.get(REF).fetched
        assert not folders.fetch_contents(REF, FILES), "it is there"

    @pytest.mark.parametrize(
        "wrong",
        [
            {**FILES, "shell/run.sh": b"echo evil\n"},
            {**FILES, "shell/more.sh": b""},
            {"shell/run.sh": FILES["shell/run.sh"]},
            {},
        ],
    )
    def test_other_bytes_are_refused_and_nothing_changes(self, folders, store, wrong):
        taken_in(folders)
        with pytest.raises(IntegrityError):
            folders.fetch_contents(REF, wrong)
        assert [path.name for path in store.folder(REF).iterdir()] == ["metadata.json"]
        assert list(store.layout.staging.iterdir()) == []

    def test_what_was_put_there_by_hand_is_fetched_no_more(self, folders, store):
        taken_in(folders)
        for path, content in FILES.items():
            (store.folder(REF) / path).parent.mkdir(exist_ok=True)
            (store.folder(REF) / path).write_bytes(content)
        assert not folders.fetch_contents(REF, FILES)
        assert store.journal.versions.unfetched() == []
        assert store.read(REF) == FILES

    def test_a_folder_that_vanished_comes_back(self, folders, store):
        taken_in(folders)
        folders.fetch_contents(REF, FILES)
        shutil.rmtree(store.folder(REF))
        assert folders.fetch_contents(REF, FILES)
        assert verify(store) == []

    def test_what_the_user_put_there_stays(self, folders, store):
        taken_in(folders)
        folder = store.folder(REF)
        (folder / "README.md").write_text("mine")
        edited = json.loads((folder / "metadata.json").read_text()) | {"purpose": "edited"}
        (folder / "metadata.json").write_text(json.dumps(edited))
        assert folders.fetch_contents(REF, FILES)
        assert (folder / "README.md").read_text() == "mine"
        assert json.loads((folder / "metadata.json").read_text())["purpose"] == "edited"
        assert folders.is_edited(REF)

    def test_an_edit_on_disk_is_never_overwritten(self, folders, store):
        taken_in(folders)
        folders.fetch_contents(REF, FILES)
        script = store.folder(REF) / "shell" / "run.sh"
        script.write_text("echo edited")
        assert not folders.fetch_contents(REF, FILES)
        assert script.read_text() == "echo edited"

    def test_only_what_is_published_can_be_fetched(self, folders, store, make_draft):
        store.create(make_draft(version="1.0.0"))
        with pytest.raises(Refused):
            folders.fetch_contents(REF, {})
        with pytest.raises(NotFound):
            folders.fetch_contents(Ref("nobody", "1.0.0"), {})


class TestIsEdited:
    @pytest.fixture
    def folder(self, folders, store):
        taken_in(folders)
        folders.fetch_contents(REF, FILES)
        return store.folder(REF)

    def test_as_published_it_is_not(self, folders, folder):
        assert not folders.is_edited(REF)

    def test_the_servers_fields_are_no_edit(self, folders, folder):
        metadata = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps(metadata | {"status": "archived"}))
        assert not folders.is_edited(REF)

    @pytest.mark.parametrize(
        ("name", "content"),
        [("shell/run.sh", "echo edited"), ("metadata.json", "{"), ("shell/run.sh", None)],
    )  # fmt: skip
    def test_a_change_of_the_content_is(self, folders, folder, name, content):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.unlink() if content is None else path.write_text(content)
        assert folders.is_edited(REF)

    @pytest.mark.parametrize("name", ["python/new.py", "shell/run.sh~", "shell/.terraform/x"])
    def test_what_only_appeared_beside_it_is_not(self, folders, folder, name):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        assert not folders.is_edited(REF)

    def test_unfetched_missing_and_unknown_are_not(self, folders, folder):
        for path in list(folder.iterdir()):
            if path.name != "metadata.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert not folders.is_edited(REF)
        shutil.rmtree(folder)
        assert not folders.is_edited(REF)
        assert not folders.is_edited(Ref("nobody", "1.0.0"))


class TestDrop:
    @pytest.fixture(autouse=True)
    def _there(self, folders, store):
        taken_in(folders)
        folders.fetch_contents(REF, FILES)

    @pytest.mark.parametrize(
        ("copy", "edited", "kept"),
        [
            ("always", False, True),
            ("always", True, True),
            ("edits", False, False),
            ("edits", True, True),
            ("never", True, False),
        ],
    )
    def test_what_is_set_aside(self, folders, store, settings, copy, edited, kept):
        folder = store.folder(REF)
        if edited:
            (folder / "shell" / "run.sh").write_text("echo edited")
        made = folders.drop(REF, copy=copy)
        assert (made is not None) is kept
        assert not folder.exists()
        assert store.journal.versions.get(REF) is None
        if made is not None:
            found = settings.conflicts_path / "stop-rds"
            assert made.folder == str(next(found.iterdir()))
        assert folders.drop(REF, copy=copy) is None

    def test_metadata_alone_is_set_aside_only_when_it_was_edited(self, folders, store):
        folders.drop(REF, copy="never")
        taken_in(folders)
        assert folders.drop(REF, copy="always") is None
        taken_in(folders)
        path = store.folder(REF) / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"purpose": "edited"}))
        assert folders.drop(REF, copy="edits") is not None


class TestKeepAs:
    @pytest.fixture
    def ours(self, store, make_draft):
        return store.create(make_draft(version="1.0.0")).ref

    def test_the_next_free_patch(self, folders, store, make_draft, ours):
        store.create(make_draft({"shell/x.sh": b"other"}, version="1.0.1"))
        kept = folders.keep_as(ours, strategy=Strategy.REVIEW)
        assert kept == Ref("stop-rds", "1.0.2")
        assert store.read(kept) == store.read(ours)
        assert store.get(kept).sync_state is SyncState.PENDING

    def test_done_again_it_is_the_same_version(self, folders, store, ours):
        assert folders.keep_as(ours) == folders.keep_as(ours) == Ref("stop-rds", "1.0.1")
        assert folders.keep_as(ours, version="3.0.0") == folders.keep_as(ours, version="3.0.0")
        assert folders.keep_as(ours, playbook_id="b") == folders.keep_as(ours, playbook_id="b")

    def test_verdicts_and_counts_are_of_the_other_version(self, folders, store, ours):
        path = store.folder(ours) / "metadata.json"
        changed = {"status": "approved", "deprecation_reason": "no", "execution_count": 4}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        metadata = store.get(folders.keep_as(ours)).metadata
        assert metadata["status"] == "ready"
        assert not {"deprecation_reason", "execution_count"} & set(metadata)

    def test_secrets_go_with_it_and_stay_sealed(self, folders, store, make_draft):
        ref = store.create(
            make_draft({"shell/x.sh": b"CANARY"}, version="2.0.0", sensitive=True)
        ).ref
        kept = folders.keep_as(ref, strategy=Strategy.REVIEW)
        assert store.read(kept) == {"shell/x.sh": b"CANARY"}
        assert b"CANARY" not in (store.folder(kept) / "shell" / "x.sh").read_bytes()
        assert store.get(kept).strategy is Strategy.LOCAL_ONLY

    def test_an_undecided_one_waits_on_for_its_decision(self, folders, store, make_draft):
        ref = store.create(make_draft(version="2.0.0", author="ai_generated")).ref
        assert store.get(folders.keep_as(ref)).area is Area.AI_GENERATED

    def test_what_can_not_be_read_or_stored_is_said(self, folders, store, ours):
        (store.folder(ours) / "metadata.json").write_text("{")
        with pytest.raises(InvalidPlaybook):
            folders.keep_as(ours)
        taken_in(folders, pulled(ref=Ref("far-away", "1.0.0")))
        with pytest.raises(NotFound):
            folders.keep_as(Ref("far-away", "1.0.0"))


def test_errors_are_errors_of_ours(folders):
    record, entries = pulled()
    bad = dataclasses.replace(record, ref=Ref("UPPER", "1.0.0"))
    assert isinstance(folders.take_in([(bad, entries)])[bad.ref], EscherError)
