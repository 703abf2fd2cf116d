"""Entry points are filled in on the way in, at every door, and what was given stays."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import pytest

from core.errors import AlreadyExists, InvalidPlaybook, Unchanged
from core.models import Area, Move, Ref, SyncState, content_digest, file_entries
from core.playbooks.drafts import draft_from_folder
from core.playbooks.edits import EditReport, Edits
from core.playbooks.scan import Scan
from core.playbooks.verify import adopt, verify

REF = Ref("stop-rds", "1.0.0")
SHELL = {"shell/a.sh": b"echo a\n", "shell/main.sh": b"echo main\n"}


@pytest.fixture
def look(store, settings):
    """Take in what was done to the folders; the report."""

    def run(fetch=None) -> EditReport:
        found = Scan(store, settings).run(now_ns=time.time_ns() + 10_000_000_000)
        assert found.broken == {}
        return Edits(store, settings).take(found, fetch or store.read)

    return run


@pytest.fixture
def entries(store):
    """The entry points of the latest version, in the journal and on disk alike."""

    def read(ref: Ref = REF):
        row = store.get(ref)
        disk = json.loads((store.folder(ref) / "metadata.json").read_bytes())
        assert disk.get("entry_points") == row.metadata.get("entry_points")
        return row.metadata.get("entry_points")

    return read


def write(store, ref: Ref = REF, **fields) -> None:
    path = store.folder(ref) / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def as_before(store, make_draft, files=SHELL, **fields) -> None:
    """A version as it was stored before entry points were filled in."""
    store.create(make_draft(files, **fields))
    row, paths = store.get(REF), store.journal.versions.files(REF)
    metadata = {k: v for k, v in row.metadata.items() if k != "entry_points"}
    metadata |= {k: v for k, v in fields.items() if k == "entry_points"}
    (store.folder(REF) / "metadata.json").write_text(json.dumps(metadata))
    before = replace(
        row, metadata=metadata, filled=(), content_digest=content_digest(metadata, paths)
    )
    with store.journal.database.write() as connection:
        store.journal.versions.put([(before, paths)], connection)


def publish(store) -> None:
    digest = store.get(REF).content_digest
    store.journal.versions.set(
        REF, revision=1, published_digest=digest, sync_state=SyncState.PUBLISHED
    )
    store.move(
        [Move(REF, Area.SYNCED, {"status": "approved", "storage_strategy": "uploaded_trusted"})]
    )


class TestAtTheDoor:
    def test_what_is_absent_is_filled_in(self, store, make_draft, entries):
        files = SHELL | {
            "python/x.py": b"",
            "python/__init__.py": b"",
            "arm/azuredeploy.parameters.json": b"{}",
            "terraform/vpc/main.tf": b"",
            "terraform/net.tf": b"",
        }
        result = store.create(make_draft(files))
        assert entries() == {
            "shell": "shell/main.sh", "terraform": "terraform/net.tf", "python": "python/x.py",
        }  # fmt: skip
        assert store.get(REF).filled == ("shell", "terraform", "python")
        assert any("arm has no entry script" in warning for warning in result.warnings)

    def test_content_tells_a_script_without_a_suffix(self, store, make_draft, entries):
        store.create(make_draft({"shell/go": b"#!/bin/sh\n", "shell/Makefile": b"all:\n"}))
        assert entries() == {"shell": "shell/go"}

    def test_a_guess_is_a_warning(self, store, make_draft, entries):
        result = store.create(make_draft({"shell/b.sh": b"", "shell/a.sh": b""}))
        assert entries() == {"shell": "shell/a.sh"}
        assert any("shell/a.sh is taken" in warning for warning in result.warnings)

    @pytest.mark.parametrize("given", ["./a.sh", "a.sh", "shell\\a.sh", "./shell/a.sh"])
    def test_what_is_given_stays_in_one_form(self, store, make_draft, entries, given):
        store.create(make_draft(SHELL | {"python/x.py": b""}, entry_points={"shell": given}))
        assert entries() == {"shell": "shell/a.sh", "python": "python/x.py"}
        assert store.get(REF).filled == ("python",)

    @pytest.mark.parametrize("absent", [None, {}, {"shell": None}])
    def test_null_means_absent(self, store, make_draft, entries, absent):
        draft = make_draft(SHELL)
        draft.metadata["entry_points"] = absent
        store.create(draft)
        assert entries() == {"shell": "shell/main.sh"}

    @pytest.mark.parametrize(
        "given", [{"shell": "gone.sh"}, {"arm": "x.json"}, {"shell": "../a.sh"}, {"shell": "/a.sh"},
                  {"shell": "C:\\a.sh"}, {"bash": "a.sh"}, {"shell": ""}],
    )  # fmt: skip
    def test_what_is_not_there_is_refused(self, store, make_draft, given):
        with pytest.raises(InvalidPlaybook, match="entry_points names"):
            store.create(make_draft(SHELL, entry_points=given))

    def test_without_scripts_there_are_none(self, store, make_draft, entries):
        store.create(make_draft({}))
        assert entries() is None


class TestChanges:
    def test_an_update_fills_in_anew(self, store, make_draft, entries):
        store.create(make_draft({"shell/a.sh": b""}))
        assert entries() == {"shell": "shell/a.sh"}
        draft = make_draft(SHELL, entry_points={"shell": "shell/a.sh"})  # as an export says
        store.update("stop-rds", draft)
        assert entries() == {"shell": "shell/main.sh"}

    def test_an_update_that_gives_another_is_followed(self, store, make_draft, entries):
        store.create(make_draft(SHELL))
        store.update("stop-rds", make_draft(SHELL, entry_points={"shell": "a.sh"}))
        assert (entries(), store.get(REF).filled) == ({"shell": "shell/a.sh"}, ())
        store.update("stop-rds", make_draft(SHELL, entry_points={"shell": "shell/a.sh"}))
        assert entries() == {"shell": "shell/a.sh"}

    def test_an_edit_of_the_files_fills_in_anew(self, store, make_draft, entries, look):
        store.create(make_draft({"shell/a.sh": b""}))
        inode = (store.folder(REF) / "shell/a.sh").stat().st_ino
        (store.folder(REF) / "shell/main.sh").write_bytes(b"echo\n")
        assert look().updated == [REF]
        assert entries() == {"shell": "shell/main.sh"}
        assert (store.folder(REF) / "shell/a.sh").stat().st_ino == inode
        assert not look().changed
        assert verify(store) == []

    def test_an_edit_that_takes_the_scripts_away_takes_the_entry_with_them(
        self, store, make_draft, entries, look
    ):
        store.create(make_draft(SHELL))
        for path in SHELL:
            (store.folder(REF) / path).unlink()
        assert look().updated == [REF]
        assert entries() is None
        assert not look().changed

    def test_an_edit_of_entry_points_is_a_given_one(self, store, make_draft, entries, look):
        store.create(make_draft(SHELL))
        write(store, entry_points={"shell": ".\\shell\\a.sh"})
        assert look().updated == [REF]
        assert (entries(), store.get(REF).filled) == ({"shell": "shell/a.sh"}, ())
        (store.folder(REF) / "shell/run.sh").write_bytes(b"")
        look()
        assert entries() == {"shell": "shell/a.sh"}
        assert not look().changed

    def test_a_given_one_whose_file_goes_is_told(self, store, make_draft, settings):
        store.create(make_draft(SHELL, entry_points={"shell": "a.sh"}))
        (store.folder(REF) / "shell/a.sh").unlink()
        found = Scan(store, settings).run(now_ns=time.time_ns() + 10_000_000_000)
        assert "entry_points names 'shell/a.sh'" in found.broken[str(store.folder(REF))]

    def test_a_copied_folder_is_filled_in(self, store, make_draft, entries, look):
        store.create(make_draft(SHELL))
        other = store.folder(REF).parent.parent / "other" / "v1.0.0"
        (other / "shell").mkdir(parents=True)
        (other / "shell" / "x.sh").write_bytes(b"")
        metadata = make_draft(playbook_id="other").metadata | {"purpose": None}
        (other / "metadata.json").write_text(json.dumps(metadata))
        assert look().added == [Ref("other", "1.0.0")]
        assert entries(Ref("other", "1.0.0")) == {"shell": "shell/x.sh"}
        assert not look().changed

    def test_a_copy_brings_along_nothing_that_nobody_gave(
        self, store, make_draft, entries, look, tmp_path
    ):
        """What the rule filled in for the original, and is not there any more."""
        store.create(make_draft(SHELL | {"python/x.py": b""}, entry_points={"python": "x.py"}))
        stored = store.folder(REF)
        (stored / "shell/main.sh").unlink()
        for copied, changes in (
            (stored.parent.parent / "copy" / "v1.0.0", {"playbook_id": "copy"}),
            (tmp_path / "copy", {"playbook_id": "other"}),
        ):
            shutil.copytree(stored, copied)
            metadata = json.loads((copied / "metadata.json").read_bytes()) | changes
            (copied / "metadata.json").write_text(json.dumps(metadata))
        store.create(draft_from_folder(tmp_path / "copy"))
        report = look()
        assert (report.added, report.updated) == ([Ref("copy", "1.0.0")], [REF])
        for name in ("stop-rds", "copy", "other"):
            ref = Ref(name, "1.0.0")
            assert entries(ref) == {"shell": "shell/a.sh", "python": "python/x.py"}
        (tmp_path / "copy/python/x.py").unlink()
        with pytest.raises(InvalidPlaybook, match=r"entry_points names 'python/x\.py'"):
            store.create(draft_from_folder(tmp_path / "copy"), version="2.0.0")

    def test_a_copy_s_entry_is_filled_in_anew_ever_after(self, store, make_draft, entries, look):
        store.create(make_draft(SHELL))
        copied, ref = store.folder(REF).parent.parent / "copy" / "v1.0.0", Ref("copy", "1.0.0")
        shutil.copytree(store.folder(REF), copied)
        metadata = json.loads((copied / "metadata.json").read_bytes()) | {"playbook_id": "copy"}
        (copied / "metadata.json").write_text(json.dumps(metadata))
        look()
        assert (entries(ref), store.get(ref).filled) == ({"shell": "shell/main.sh"}, ("shell",))
        (copied / "shell/main.sh").unlink()
        assert look().updated == [ref]
        assert entries(ref) == {"shell": "shell/a.sh"}

    def test_after_the_loss_of_the_journal_what_the_rule_finds_is_its_work(
        self, store, make_draft, look
    ):
        store.create(make_draft(SHELL | {"arm/a.json": b"{}"}, entry_points={"shell": "a.sh"}))
        before = store.get(REF)
        with store.journal.database.write() as connection:
            store.journal.versions.delete([REF], connection)
        assert adopt(store) == ([REF], {})
        assert store.get(REF).content_digest == before.content_digest
        assert store.get(REF).filled == ("arm",)
        assert not look().changed


class TestVersionsFromBefore:
    def test_stay_what_they_are(self, store, make_draft, look):
        as_before(store, make_draft)
        before = store.get(REF)
        assert look() == EditReport()
        assert verify(store) == []
        assert store.get(REF) == before

    def test_the_same_again_is_there_already(self, store, make_draft):
        as_before(store, make_draft)
        before = store.get(REF)
        (result,) = store.create_many([make_draft(SHELL)])
        assert isinstance(result.error, Unchanged)
        (other,) = store.create_many([make_draft(SHELL, entry_points={"shell": "a.sh"})])
        assert type(other.error) is AlreadyExists
        assert store.get(REF) == before

    def test_deleted_and_made_again_under_its_published_name_it_is_that_content(
        self, store, make_draft
    ):
        as_before(store, make_draft)
        digest = store.get(REF).content_digest
        publish(store)
        store.delete([REF])
        store.create(make_draft(SHELL))
        assert store.get(REF).content_digest == digest
        assert "entry_points" not in store.get(REF).metadata

    def test_a_touched_published_one_is_no_new_version(self, store, make_draft, look):
        as_before(store, make_draft, entry_points={"shell": "shell/a.sh"})
        publish(store)
        content = store.read(REF)
        write(store, tags={"a": 1})
        write(store, tags=None)
        report = look(lambda _ref: content)
        assert report.kept_as in ({}, {REF: Ref("stop-rds", "1.0.1")})

    def test_an_edit_of_a_published_one_is_kept_once(self, store, make_draft, look, entries):
        as_before(store, make_draft)
        publish(store)
        content = store.read(REF)
        digest = store.get(REF).content_digest
        (store.folder(REF) / "shell/a.sh").write_bytes(b"echo edited\n")
        report = look(lambda _ref: content)
        kept = Ref("stop-rds", "1.0.1")
        assert report.kept_as == {REF: kept}
        assert entries(kept) == {"shell": "shell/main.sh"}
        assert store.get(REF).content_digest == digest
        (store.folder(REF) / "shell/a.sh").write_bytes(
            b"echo edited\n"
        )  # once more, as after a crash
        assert look(lambda _ref: content).kept_as == {REF: kept}
        assert len(store.journal.versions.refs()) == 2


def test_a_byte_order_mark_is_dropped_from_what_is_ours(store, make_draft, look):
    mark = b"\xef\xbb\xbf"
    own = {"parameters.json": mark + b'{"parameters": []}', "explain_plan.json": mark + b"{}"}
    store.create(make_draft(SHELL | own | {"shell/bom.sh": mark + b"echo\n"}))
    read = store.read(REF)
    assert (read["parameters.json"], read["explain_plan.json"]) == (b'{"parameters": []}', b"{}")
    assert read["shell/bom.sh"].startswith(mark), "what is theirs stays"
    (store.folder(REF) / "explain_plan.json").write_bytes(mark + b'{"steps": []}')
    path = store.folder(REF) / "metadata.json"
    path.write_bytes(mark + path.read_bytes())
    assert look().updated == [REF]
    assert store.read(REF)["explain_plan.json"] == b'{"steps": []}'
    assert store.journal.versions.files(REF)[0].checksum == (
        file_entries({"explain_plan.json": b'{"steps": []}'})[0].checksum
    )
    assert not look().changed
    assert verify(store) == []
