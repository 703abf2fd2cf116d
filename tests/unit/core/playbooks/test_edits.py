"""What people do to the folders is taken in as the contract says, and nothing of it is lost."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from core.encryption import is_sealed
from core.errors import ServerUnreachable
from core.journal.leases import VERSION
from core.models import Area, Move, Ref, Strategy, SyncState
from core.playbooks.drafts import draft_from_folder
from core.playbooks.edits import EditReport, Edits
from core.playbooks.scan import Scan
from core.playbooks.verify import verify

REF, NEXT = Ref("stop-rds", "1.0.0"), Ref("stop-rds", "1.0.1")
OLD = {"shell/stop.sh": b"echo stop\n", "python/a.py": b"a = 1\n"}


class Home:
    """A store, a scan and a server that holds what was published."""

    def __init__(self, store, envelope, settings) -> None:
        self.store = store
        self.scan = Scan(store, settings)
        self.edits = Edits(store, settings)
        self.server: dict[Ref, dict[str, bytes]] = {}
        self.offline = False

    def fetch(self, ref: Ref) -> dict[str, bytes]:
        if self.offline:
            raise ServerUnreachable("No answer.")
        return self.server[ref]

    def sync(self) -> EditReport:
        found = self.scan.run(now_ns=time.time_ns() + 10_000_000_000)
        self.broken = found.broken
        return self.edits.take(found, self.fetch)

    def publish(self, ref: Ref = REF) -> Path:
        self.server[ref] = self.store.published_files(ref)
        digest = self.store.get(ref).content_digest
        self.store.journal.versions.set(
            ref, revision=1, published_digest=digest, sync_state=SyncState.PUBLISHED
        )
        changes = {"status": "approved", "storage_strategy": "uploaded_trusted"}
        self.store.move([Move(ref, Area.SYNCED, changes)])
        return self.store.folder(ref)

    def is_in_order(self) -> bool:
        return verify(self.store) == [] and not self.sync().changed and self.broken == {}


@pytest.fixture
def home(store, envelope, settings):
    return Home(store, envelope, settings)


@pytest.fixture
def folder(home, make_draft) -> Path:
    home.store.create(make_draft(OLD))
    return home.store.folder(REF)


def rewrite(folder: Path, **fields) -> None:
    path = folder / "metadata.json"
    metadata = json.loads(path.read_bytes()) | fields
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


# -- unpublished ----------------------------------------------------------------------------
def test_an_edit_of_what_waits_to_be_deleted_is_left_to_its_removal(home, folder):
    """In the row it would be what was asked to be deleted, and no copy of it were kept."""
    home.store.journal.versions.set(REF, deleting=True, uploaded_digest="sha256:…")
    before = home.store.get(REF)
    (folder / "shell/stop.sh").write_bytes(b"echo on second thought\n")
    report = home.sync()
    assert report == EditReport()
    assert home.store.get(REF) == before


def test_an_edit_of_an_unpublished_version_is_an_update_in_place(home, folder):
    (folder / "README.md").write_text("mine")
    before = home.store.get(REF)
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    inode = (folder / "shell/stop.sh").stat().st_ino
    report = home.sync()
    row = home.store.get(REF)
    assert report.updated == report.changed == [REF]
    assert row.content_digest != before.content_digest
    assert row.generation == before.generation + 1
    assert row.metadata["created_at"] == before.metadata["created_at"]
    assert home.store.read(REF) == OLD | {"shell/stop.sh": b"echo new\n"}
    assert (folder / "shell/stop.sh").stat().st_ino == inode  # an editor may have it open
    assert (folder / "README.md").read_text() == "mine"
    assert home.is_in_order()


def test_what_is_odd_about_an_edit_is_kept(home, folder):
    (folder / "python/a.py").write_bytes(b"def broken(:\n")
    home.sync()
    assert any("python/a.py" in warning for warning in home.store.get(REF).warnings)


def test_metadata_with_fields_taken_away_is_filled_in(home, folder):
    rewrite(folder, author=None, status=None, created_at=None, name="Another name")
    assert home.sync().updated == [REF]
    disk = json.loads((folder / "metadata.json").read_bytes())
    assert disk == home.store.get(REF).metadata
    assert (disk["author"], disk["status"]) == ("user_custom", "ready")
    assert home.is_in_order()


@pytest.mark.parametrize(
    "wish",
    [
        {"storage_strategy": "uploaded_for_review"},
        {"storage_strategy": "uploaded_trusted", "status": "approved"},
        {"status": "active", "execution_count": 99, "last_executed": 1_700_000_000},
        {"storage_strategy": "using_default"},
    ],
)
def test_what_a_hand_writes_into_metadata_is_a_request(home, folder, wish):
    rewrite(folder, **wish)
    home.sync()
    row = home.store.get(REF)
    assert (row.sync_state, row.publish_as) == (SyncState.LOCAL, None)
    assert (row.strategy, row.status, row.asked) == ("local_only", "ready", wish)
    assert json.loads((folder / "metadata.json").read_bytes()) == row.metadata
    assert not {"execution_count", "last_executed"} & set(row.metadata)
    assert home.is_in_order()


def test_a_request_stays_known_after_the_next_edit(home, folder):
    rewrite(folder, storage_strategy="uploaded_trusted")
    home.sync()
    (folder / "shell/stop.sh").write_bytes(b"echo more\n")
    home.sync()
    assert home.store.get(REF).asked == {"storage_strategy": "uploaded_trusted"}


@pytest.mark.parametrize("status", ["draft", "archived", "broken"])
def test_a_careful_status_written_by_hand_is_followed_and_not_taken_back(home, folder, status):
    rewrite(folder, status=status)
    home.sync()
    assert home.store.get(REF).status == status
    rewrite(folder, status="ready")
    home.sync()
    assert home.store.get(REF).status == status
    assert home.store.get(REF).asked == {"status": "ready"}
    assert home.is_in_order()


@pytest.mark.parametrize(
    "wish", [{"storage_strategy": "using_default"}, {"status": "rejected"}, {"execution_count": 7}]
)
def test_what_a_hand_writes_into_a_published_ones_metadata_is_a_request(home, folder, wish):
    folder = home.publish()
    row = home.store.get(REF)
    rewrite(folder, **wish)
    home.sync()
    assert home.store.get(REF).metadata == row.metadata
    assert json.loads((folder / "metadata.json").read_bytes()) == row.metadata
    assert home.store.get(REF).asked == wish
    assert home.is_in_order()


def test_an_edit_of_a_failed_version_makes_it_due_again(home, folder):
    home.store.journal.versions.set(
        REF, sync_state=SyncState.FAILED, publish_as="uploaded_for_review", error="a secret"
    )
    (folder / "shell/stop.sh").write_bytes(b"echo $SECRET\n")
    home.sync()
    row = home.store.get(REF)
    assert (row.sync_state, row.error) == (SyncState.PENDING, None)


def test_a_clear_file_in_a_sensitive_version_is_held_and_sealed(home, make_draft):
    home.store.create(make_draft(OLD, sensitive=True))
    folder = home.store.folder(REF)
    (folder / "README.md").write_text("mine")
    (folder / "shell/stop.sh").write_bytes(b"echo secret\n")
    (folder / "shell/more.sh").write_bytes(b"more\n")
    (folder / "shell/.more.sh.swp").write_bytes(b"b0VIM")
    assert list(home.sync().held) == [str(REF)]
    assert all(is_sealed((folder / name).read_bytes()) for name in OLD)
    assert not (folder / "shell/more.sh").exists()
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "shell/.more.sh.swp").exists()
    assert home.store.read(REF) == OLD
    assert home.is_in_order()


def test_the_same_content_in_clear_is_sealed(home, make_draft):
    home.store.create(make_draft(OLD, sensitive=True))
    path = home.store.folder(REF) / "shell/stop.sh"
    path.write_bytes(OLD["shell/stop.sh"])
    assert home.sync().updated == [REF]
    assert is_sealed(path.read_bytes())
    assert home.is_in_order()


def test_a_version_that_becomes_sensitive_by_an_edit_is_sealed(home, make_draft):
    home.store.create(make_draft(OLD), strategy=Strategy.REVIEW)
    folder = home.store.folder(REF)
    rewrite(folder, sensitive=True)
    assert home.sync().updated == [REF]
    row = home.store.get(REF)
    assert (row.sync_state, row.publish_as, row.strategy) == (SyncState.LOCAL, None, "local_only")
    assert is_sealed((folder / "shell/stop.sh").read_bytes())
    assert home.store.read(REF) == OLD
    assert home.is_in_order()


def test_a_sensitive_default_in_clear_is_sealed(home, make_draft):
    secret = {"name": "password", "type": "string", "sensitive": True, "default": "old-one"}
    home.store.create(make_draft(parameters=[secret]))
    path = home.store.folder(REF) / "parameters.json"
    path.write_text(json.dumps({"parameters": [secret | {"default": "new-one"}]}))
    assert home.sync().updated == [REF]
    assert "new-one" not in path.read_text()
    clear = json.loads(home.store.read(REF)["parameters.json"])
    assert clear["parameters"][0]["default"] == "new-one"
    assert home.is_in_order()


def test_an_edit_while_a_worker_is_at_the_version_waits(home, folder):
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    with home.store.journal.leases.holding(VERSION, [REF]):
        assert list(home.sync().deferred) == ["stop-rds@1.0.0"]
    assert home.sync().updated == [REF]


def test_an_edit_that_goes_on_while_it_is_taken_is_left_to_the_next_scan(home, folder, monkeypatch):
    path = folder / "shell/stop.sh"
    path.write_bytes(b"first\n")
    real = home.edits._writer.locked

    def typed_meanwhile():
        path.write_bytes(b"second\n")
        return real()

    monkeypatch.setattr(home.edits._writer, "locked", typed_meanwhile)
    assert list(home.sync().deferred) == ["stop-rds@1.0.0"]
    monkeypatch.undo()
    assert home.sync().updated == [REF]
    assert home.store.read(REF)["shell/stop.sh"] == b"second\n"


# -- published ------------------------------------------------------------------------------
def test_an_edit_of_a_published_version_is_the_next_patch_for_review(home, folder):
    home.store.journal.choices.choose_review(["stop-rds"])
    folder = home.publish()
    row = home.store.get(REF)
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    (folder / "README.md").write_text("mine")
    report = home.sync()
    assert report.kept_as == {REF: NEXT}
    assert report.restored == [REF]
    new = home.store.get(NEXT)
    assert (new.area, new.sync_state) == (Area.LOCAL, SyncState.PENDING)
    assert (new.publish_as, new.strategy) == ("uploaded_for_review", "uploaded_for_review")
    assert new.status == "ready"
    assert home.store.read(NEXT) == OLD | {"shell/stop.sh": b"echo new\n"}
    assert home.store.read(REF) == OLD
    assert home.store.get(REF).metadata == row.metadata
    assert home.store.get(REF).sync_state is SyncState.PUBLISHED
    assert (folder / "README.md").read_text() == "mine"
    assert report.waiting == {}
    assert home.is_in_order()


@pytest.mark.parametrize("strategy", [None, "uploaded_trusted", "uploaded_for_review"])
def test_an_edit_waits_where_nobody_chose_review_for_the_id(home, folder, strategy):
    folder = home.publish()
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    rewrite(folder, storage_strategy=strategy)
    report = home.sync()
    new = home.store.get(NEXT)
    assert (new.sync_state, new.publish_as, new.strategy) == (SyncState.LOCAL, None, "local_only")
    assert "publish stop-rds@1.0.1 --as review" in report.waiting["stop-rds@1.0.1"]
    assert home.is_in_order()


def test_the_next_patch_is_the_next_free_one(home, folder, make_draft):
    folder = home.publish()
    home.store.create(make_draft({"shell/x.sh": b"x\n"}, version="1.0.1"))
    home.store.create(make_draft({"shell/y.sh": b"y\n"}, version="2.0.0"))
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    assert home.sync().kept_as == {REF: Ref("stop-rds", "1.0.2")}


def test_a_higher_version_in_the_edited_metadata_is_taken(home, folder):
    folder = home.publish()
    rewrite(folder, version="1.1.0", name="Another name")
    assert home.sync().kept_as == {REF: Ref("stop-rds", "1.1.0")}
    assert home.is_in_order()


def test_an_edit_of_the_metadata_alone_is_restored_without_the_server(home, folder):
    folder = home.publish()
    home.offline = True
    rewrite(folder, name="Another name")
    report = home.sync()
    assert (report.kept_as, report.restored) == ({REF: NEXT}, [REF])
    assert home.store.get(NEXT).name == "Another name"
    assert home.store.read(REF) == OLD


def test_offline_the_published_one_is_left_without_content(home, folder):
    folder = home.publish()
    home.offline = True
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    report = home.sync()
    assert (report.kept_as, report.unfetched) == ({REF: NEXT}, [REF])
    assert [path.name for path in folder.iterdir()] == ["metadata.json"]
    assert home.store.read(NEXT)["shell/stop.sh"] == b"echo new\n"
    assert home.is_in_order()


def test_metadata_edited_where_the_content_was_never_fetched(home, folder):
    folder = home.publish()
    for name in ("shell", "python"):
        shutil.rmtree(folder / name)
    rewrite(folder, name="Another name")
    home.offline = True
    assert list(home.sync().deferred) == ["stop-rds@1.0.0"]
    home.offline = False
    assert home.sync().kept_as == {REF: NEXT}
    assert home.store.read(NEXT) == OLD
    assert home.is_in_order()


def test_server_owned_fields_changed_by_hand_are_set_right(home, folder):
    folder = home.publish()
    home.offline = True
    rewrite(folder, status="draft", deprecation_reason="because")
    report = home.sync()
    assert (report.restored, report.kept_as) == ([REF], {})
    assert json.loads((folder / "metadata.json").read_bytes()) == home.store.get(REF).metadata
    assert home.is_in_order()


@pytest.mark.parametrize("offline", [False, True])
def test_removed_scripts_of_a_published_version_come_back(home, folder, offline):
    folder = home.publish()
    for path in OLD:
        (folder / path).unlink()
    (folder / "shell/.stop.sh.swp").write_bytes(b"b0VIM")
    home.offline = offline
    report = home.sync()
    assert (report.kept_as, report.restored + report.unfetched) == ({}, [REF])
    assert offline or home.store.read(REF) == OLD
    assert home.is_in_order()


def test_a_published_version_made_sensitive_stays_home(home, folder):
    folder = home.publish()
    rewrite(folder, sensitive=True)
    home.sync()
    row = home.store.get(NEXT)
    assert (row.strategy, row.sync_state) == ("local_only", SyncState.LOCAL)
    assert is_sealed((home.store.folder(NEXT) / "shell/stop.sh").read_bytes())


def test_an_edit_is_kept_once_when_the_restoring_was_cut_off(home, folder, monkeypatch):
    folder = home.publish()
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(home.edits, "_restore", killed)
    with pytest.raises(KeyboardInterrupt):
        home.sync()
    monkeypatch.undo()
    assert home.sync().kept_as == {REF: NEXT}
    assert {ref.version for ref in home.store.journal.versions.refs()} == {"1.0.0", "1.0.1"}
    assert home.store.read(REF) == OLD


def test_two_edits_in_a_row_are_two_versions(home, folder):
    folder = home.publish()
    for text in (b"first\n", b"second\n"):
        (folder / "shell/stop.sh").write_bytes(text)
        home.sync()
    kept = [home.store.read(Ref("stop-rds", v))["shell/stop.sh"] for v in ("1.0.1", "1.0.2")]
    assert kept == [b"first\n", b"second\n"]


def test_an_edit_back_to_what_a_lower_version_holds_is_a_next_version(home, folder):
    folder = home.publish()
    (folder / "shell/stop.sh").write_bytes(b"echo worse\n")
    home.sync()
    folder = home.publish(NEXT)
    (folder / "shell/stop.sh").write_bytes(OLD["shell/stop.sh"])
    assert home.sync().kept_as == {NEXT: Ref("stop-rds", "1.0.2")}
    assert home.store.read(Ref("stop-rds", "1.0.2")) == OLD


def test_a_sensitive_default_survives_the_restoring(home, make_draft):
    secret = {"name": "password", "type": "string", "sensitive": True, "default": "hidden"}
    home.store.create(make_draft(parameters=[secret]))
    folder = home.publish()
    assert b"hidden" not in home.server[REF]["parameters.json"]
    listed = json.loads((folder / "parameters.json").read_bytes())["parameters"]
    listed.append({"name": "size", "type": "int"})
    (folder / "parameters.json").write_text(json.dumps({"parameters": listed}))
    report = home.sync()
    assert (report.kept_as, report.restored) == ({REF: NEXT}, [REF])
    for ref in (REF, NEXT):
        clear = json.loads(home.store.read(ref)["parameters.json"])["parameters"]
        assert clear[0]["default"] == "hidden"
    assert home.is_in_order()


def test_a_sensitive_default_changed_in_a_published_version_stays_here(home, make_draft):
    """It is no part of what was published, so it makes no new version."""
    secret = {"name": "password", "type": "string", "sensitive": True, "default": "hidden"}
    home.store.create(make_draft(parameters=[secret]))
    folder = home.publish()
    document = {"parameters": [secret | {"default": "changed"}]}
    (folder / "parameters.json").write_text(json.dumps(document, indent=2) + "\n")
    home.offline = True
    report = home.sync()
    assert (report.kept_as, report.restored) == ({}, [REF])
    clear = json.loads(home.store.read(REF)["parameters.json"])["parameters"]
    assert clear[0]["default"] == "changed"
    assert "changed" not in (folder / "parameters.json").read_text()
    assert home.is_in_order()


# -- gone, come, moved ----------------------------------------------------------------------
def test_a_folder_that_vanished_from_local_is_gone_with_row_and_point(home, folder):
    shutil.rmtree(folder)
    assert home.sync().forgotten == [REF]
    assert home.store.journal.versions.get(REF) is None
    assert home.store.journal.stale_points.refs() == [REF]


def test_a_folder_that_vanished_from_synced_is_fetched_again(home, folder):
    folder = home.publish()
    shutil.rmtree(folder.parent)
    home.offline = True
    assert list(home.sync().deferred) == ["stop-rds@1.0.0"]
    assert home.store.get(REF).revision == 1
    home.offline = False
    assert home.sync().restored == [REF]
    assert home.store.read(REF) == OLD
    assert home.is_in_order()


def test_a_folder_that_is_there_again_is_not_forgotten(home, folder):
    away = folder.with_name("away")
    folder.rename(away)
    found = home.scan.run(now_ns=time.time_ns() + 10_000_000_000)
    found.vanished.append(REF)
    away.rename(folder)
    assert "stop-rds@1.0.0" in home.edits.take(found, home.fetch).deferred
    assert home.store.read(REF) == OLD


@pytest.mark.parametrize("sensitive", [False, True])
def test_an_added_folder_is_a_new_version(home, folder, sensitive):
    place = folder.with_name("v1.1.0")
    shutil.copytree(folder, place)
    rewrite(place, version="1.1.0", sensitive=sensitive, created_at=None)
    added = Ref("stop-rds", "1.1.0")
    assert home.sync().added == [added]
    assert home.store.read(added) == OLD
    assert is_sealed((place / "shell/stop.sh").read_bytes()) is sensitive
    assert home.is_in_order()


@pytest.mark.parametrize("area", [Area.AI_GENERATED, Area.LOCAL])
def test_an_added_folder_of_an_ai_waits_for_its_decision(home, folder, area):
    place = home.store.layout.folder(area, Ref("by-ai", "1.0.0"))
    shutil.copytree(folder, place)
    rewrite(place, playbook_id="by-ai", author="ai_generated", storage_strategy="uploaded_trusted")
    home.sync()
    row = home.store.get(Ref("by-ai", "1.0.0"))
    assert (row.area, row.sync_state) == (Area.AI_GENERATED, SyncState.LOCAL)
    assert (row.status, row.strategy) == ("ready", "local_only")
    assert home.is_in_order()


def test_an_unpublished_folder_moves_with_its_row(home, folder):
    there = home.store.layout.folder(Area.AI_GENERATED, REF)
    folder.rename(there)
    home.store.journal.versions.set(
        REF, sync_state=SyncState.PENDING, publish_as="uploaded_trusted"
    )
    assert home.sync().moved == [REF]
    row = home.store.get(REF)
    assert (row.area, row.sync_state) == (Area.AI_GENERATED, SyncState.LOCAL)
    folder.parent.mkdir(exist_ok=True)
    there.rename(folder)
    assert home.sync().moved == [REF]
    assert home.store.get(REF).area is Area.LOCAL
    assert home.is_in_order()


def test_a_published_folder_goes_back_to_its_place(home, folder):
    folder = home.publish()
    there = home.store.layout.folder(Area.LOCAL, REF)
    there.parent.mkdir(exist_ok=True)
    folder.rename(there)
    home.sync()
    assert (home.store.get(REF).area, folder.is_dir()) == (Area.SYNCED, True)
    assert home.is_in_order()


def test_what_was_never_published_does_not_stay_in_synced(home, folder):
    there = home.store.layout.folder(Area.SYNCED, REF)
    there.parent.mkdir(exist_ok=True, parents=True)
    folder.rename(there)
    home.sync()
    assert (home.store.get(REF).area, folder.is_dir()) == (Area.LOCAL, True)
    assert home.is_in_order()


@pytest.mark.parametrize("sensitive", [False, True])
def test_a_renamed_folder_is_the_version_of_its_name(home, make_draft, sensitive):
    home.store.create(make_draft(OLD, sensitive=sensitive))
    folder = home.store.folder(REF)
    folder.rename(folder.with_name("v2.0.0"))
    report = home.sync()
    renamed = Ref("stop-rds", "2.0.0")
    assert (report.moved, report.forgotten) == ([renamed], [REF])
    assert home.store.read(renamed) == OLD
    assert json.loads((folder.with_name("v2.0.0") / "metadata.json").read_bytes())["version"] == (
        "2.0.0"
    )
    assert home.is_in_order()


def test_one_that_fails_holds_back_no_other(home, folder, make_draft):
    home.store.create(make_draft(playbook_id="other"))
    (folder / "shell/stop.sh").write_bytes(b"echo new\n")
    (home.store.folder(Ref("other", "1.0.0")) / "shell/stop.sh").write_bytes(b"echo new\n")
    found = home.scan.run(now_ns=time.time_ns() + 10_000_000_000)
    rewrite(folder, storage_strategy="wherever")
    report = home.edits.take(found, home.fetch)
    assert report.updated == [Ref("other", "1.0.0")]
    assert list(report.failed) == ["stop-rds@1.0.0"]


RUNS = ("terraform.tfstate", "terraform.tfstate.backup", ".terraform/providers/aws", "out.tfplan",
        "__pycache__/stop.cpython-311.pyc", ".git/config")  # fmt: skip


def _run(folder: Path) -> None:
    """As tools leave a folder in which they were run."""
    for name in RUNS:
        path = folder / "shell" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (folder / "shell/.terraform/link").symlink_to("/nowhere")


@pytest.mark.parametrize("published", [False, True])
def test_what_runs_leave_is_no_edit_and_no_run_loses_its_state(home, folder, published):
    if published:
        folder = home.publish()
    _run(folder)
    report = home.sync()
    assert (report.changed, report.restored, report.failed) == ([], [], {})
    assert home.broken == {}
    (folder / "shell/stop.sh").write_bytes(b"#!/bin/sh\necho edited\n")
    home.sync()
    edited = NEXT if published else REF
    assert set(home.store.read(edited)) == set(OLD)
    assert [(folder / "shell" / name).exists() for name in RUNS] == [True] * len(RUNS)


def test_an_update_of_the_content_keeps_the_state_beside_it(home, folder, make_draft):
    _run(folder)
    home.store.update(REF.playbook_id, make_draft({"shell/stop.sh": b"echo new\n"}))
    assert home.store.read(REF) == {"shell/stop.sh": b"echo new\n"}
    assert (folder / "shell/terraform.tfstate").read_bytes() == b"terraform.tfstate"


@pytest.mark.parametrize("name", ["shell/notes.txt", "python/new.py", "shell/lib/more.sh"])
def test_a_file_that_only_appeared_beside_published_content_is_reported(
    home, folder, name, make_draft
):
    folder = home.publish()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"more\n")
    for _ in range(2):
        found = home.scan.run(now_ns=time.time_ns() + 10_000_000_000)
        assert (found.beside, found.edited, found.broken) == ({REF: (name,)}, [], {})
        assert home.sync().kept_as == {}
    assert path.read_bytes() == b"more\n"
    rewrite(folder, status="draft")  # the server's field, set right around it
    home.sync()
    assert path.read_bytes() == b"more\n"
    # with an update it is content, as all of the folder
    taken = home.store.update(REF.playbook_id, draft_from_folder(folder))
    assert name in home.store.read(taken.ref)
