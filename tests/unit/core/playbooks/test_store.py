from __future__ import annotations

import errno
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import (
    AlreadyExists,
    EscherError,
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    Refused,
    StorageError,
    UsageError,
)
from core.journal.leases import VERSION
from core.models import Area, Move, PlaybookDraft, Ref, Strategy, SyncState
from core.playbooks import writer
from core.playbooks.drafts import draft_from_folder
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")


def publish(store, ref, **metadata):
    """What the publisher does once the server has committed."""
    row = store.get(ref)
    changes = {"status": "pending_review", "storage_strategy": "uploaded_for_review", **metadata}
    store.journal.versions.set(
        ref, revision=7, sync_state=SyncState.PUBLISHED.value, published_digest=row.content_digest
    )
    store.move([Move(ref, Area.SYNCED, changes)])


def on_disk(store, ref):
    return json.loads((store.folder(ref) / "metadata.json").read_text())


# -- create ---------------------------------------------------------------------------------


def test_a_version_stands_where_the_contract_says(store, make_draft):
    result = store.create(make_draft(), version="1.2.3-rc.1", strategy=Strategy.REVIEW)
    ref = result.ref
    assert str(ref) == "stop-rds@1.2.3-rc.1"
    folder = store.folder(ref)
    assert folder == store.layout.root / "local" / "stop-rds" / "v1.2.3-rc.1"
    assert (folder / "shell/stop.sh").read_bytes() == b"echo stop\n"
    row = store.get(ref)
    assert on_disk(store, ref) == row.metadata
    assert (row.sync_state, row.publish_as) == (SyncState.PENDING, Strategy.REVIEW)
    assert store.read(ref) == store.published_files(ref) == {"shell/stop.sh": b"echo stop\n"}
    assert verify(store) == []


def test_everything_is_private(store, make_draft, settings):
    store.create(make_draft())
    for folder, _, files in os.walk(settings.home):
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700, folder
        for name in files:
            path = Path(folder, name)
            if path.is_relative_to(settings.playbooks_path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_ai_generated_waits_in_its_own_area(store, make_draft):
    ref = store.create(make_draft(), author="ai_generated", strategy=Strategy.TRUSTED).ref
    row = store.get(ref)
    assert store.folder(ref).relative_to(store.layout.root) == Path("ai-generated/stop-rds-v1.0.0")
    assert (row.area, row.sync_state, row.publish_as) == (Area.AI_GENERATED, SyncState.LOCAL, None)
    assert row.metadata["status"] == "draft"


def test_a_version_exists_once_across_the_areas(store, make_draft):
    store.create(make_draft())
    for area in Area:
        with pytest.raises(AlreadyExists, match=r"stop-rds@1\.0\.0 exists already"):
            store.create(make_draft(), area=area)
    publish(store, REF)
    with pytest.raises(AlreadyExists):
        store.create(make_draft())
    assert not list(store.layout.staging.iterdir())


def test_a_folder_that_the_journal_does_not_know_is_not_overwritten(store, make_draft):
    stray = store.layout.folder(Area.SYNCED, REF)
    stray.mkdir(parents=True)
    with pytest.raises(AlreadyExists, match="synced/"):
        store.create(make_draft())
    assert stray.is_dir()


def test_prereleases_that_differ_in_case_only(store, make_draft):
    store.create(make_draft(version="1.0.0-rc"))
    with pytest.raises(AlreadyExists):
        store.create(make_draft(version="1.0.0-RC"))


def test_a_batch_has_an_outcome_for_each(store, make_draft):
    drafts = [make_draft(playbook_id=f"p{n}") for n in range(150)]
    drafts[3] = make_draft(playbook_id="Bad Id")
    drafts[70] = make_draft(playbook_id="p69")
    drafts[149] = make_draft({"../x": b""}, playbook_id="p149")
    results = store.create_many(drafts, check_scripts=False)
    failed = {n: type(r.error) for n, r in enumerate(results) if r.error}
    assert set(failed) == {3, 70, 149}
    assert failed[70] is AlreadyExists
    assert results[3].ref.playbook_id == "Bad Id"
    assert store.journal.versions.counts()["versions"] == 147
    assert verify(store) == []
    assert not list(store.layout.staging.iterdir())


def test_a_script_that_does_not_parse_is_a_warning_that_stays(store, make_draft):
    result = store.create(make_draft({"shell/a.sh": b"if then fi ((\n"}))
    assert any("shell/a.sh" in warning for warning in result.warnings)
    assert store.get(result.ref).warnings == result.warnings


def test_writers_do_not_lose_each_others_work(store, make_draft):
    def create(n: int) -> str | None:
        try:
            store.create(make_draft(playbook_id=f"p{n % 20}"), check_scripts=False)
        except AlreadyExists:
            return None
        return f"p{n % 20}"

    with ThreadPoolExecutor(8) as pool:
        made = [name for name in pool.map(create, range(60)) if name]
    assert sorted(made) == sorted(f"p{n}" for n in range(20))
    assert verify(store) == []


# -- looking up -----------------------------------------------------------------------------


def test_latest_ranks_by_precedence_across_areas(store, make_draft):
    for version in ("1.9.0", "1.10.0", "2.0.0-rc.1"):
        store.create(make_draft(version=version))
    assert store.resolve("stop-rds").version == "2.0.0-rc.1"
    publish(store, Ref("stop-rds", "2.0.0-rc.1"))
    assert store.resolve("stop-rds").version == "2.0.0-rc.1"
    assert store.resolve("stop-rds@1.9.0").version == "1.9.0"
    for text in ("stop-rds@3.0.0", "nobody"):
        with pytest.raises(NotFound):
            store.resolve(text)


# -- update ---------------------------------------------------------------------------------


def test_an_unpublished_version_is_replaced_in_place(store, make_draft):
    store.create(
        make_draft(created_at=1_000_000_005, updated_at=1_000_000_005), strategy=Strategy.REVIEW
    )
    before = store.get(REF)
    result = store.update("stop-rds", make_draft({"python/b.py": b"x = 1\n"}, version="9.0.0"))
    assert result.ref == REF
    assert any("9.0.0" in warning for warning in result.warnings)
    row = store.get(REF)
    assert store.read(REF) == {"python/b.py": b"x = 1\n"}
    assert row.metadata["created_at"] == 1_000_000_005
    assert row.metadata["updated_at"] > 1_000_000_005
    assert row.content_digest != before.content_digest
    assert row.generation == before.generation + 1
    assert (row.sync_state, row.publish_as) == (SyncState.PENDING, Strategy.REVIEW)
    assert verify(store) == []
    assert not list(store.layout.staging.iterdir())


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [(None, None, "1.0.1"), (None, "1.0.0", "1.0.1"), (None, "0.9.0", "1.0.1"),
     (None, "1.5.0", "1.5.0"), ("2.0.0", "1.5.0", "2.0.0")],
)  # fmt: skip
def test_a_published_version_gets_a_successor(store, make_draft, asked, own, expected):
    store.create(make_draft())
    store.journal.choices.choose_review(["stop-rds"])
    publish(store, REF, status="approved")
    published = (store.folder(REF) / "shell/stop.sh").stat()
    draft = make_draft({"shell/stop.sh": b"echo new\n"}, version=own, status="approved")
    result = store.update("stop-rds", draft, asked)
    assert result.ref.version == expected
    row = store.get(result.ref)
    assert (row.area, row.sync_state) == (Area.LOCAL, SyncState.PENDING)
    assert row.publish_as is Strategy.REVIEW
    assert row.metadata["status"] == "ready"
    assert store.read(REF) == {"shell/stop.sh": b"echo stop\n"}
    assert (store.folder(REF) / "shell/stop.sh").stat().st_ino == published.st_ino


def test_what_follows_a_trusted_version_waits_for_a_choice(store, make_draft):
    store.create(make_draft(), strategy=Strategy.TRUSTED)
    publish(store, REF, status="approved", storage_strategy="uploaded_trusted")
    row = store.get(
        store.update("stop-rds", make_draft({}, storage_strategy="uploaded_trusted")).ref
    )
    assert (row.sync_state, row.publish_as, row.strategy) == (
        SyncState.LOCAL,
        None,
        Strategy.LOCAL_ONLY,
    )


def test_versions_only_go_up(store, make_draft):
    store.create(make_draft(version="1.0.0"))
    store.create(make_draft(version="1.1.0"))
    publish(store, Ref("stop-rds", "1.1.0"))
    with pytest.raises(AlreadyExists):
        store.update("stop-rds", make_draft(), "1.0.0")
    with pytest.raises(Refused, match="not higher"):
        store.update("stop-rds", make_draft(), "1.0.5")
    with pytest.raises(InvalidPlaybook):
        store.update("stop-rds", make_draft(), "one")
    with pytest.raises(NotFound):
        store.update("nobody", make_draft(playbook_id="nobody"))
    with pytest.raises(InvalidPlaybook, match="not of 'stop-rds'"):
        store.update("stop-rds", make_draft(playbook_id="other"))


def test_another_version_asked_for_leaves_the_unpublished_one(store, make_draft):
    store.create(make_draft())
    assert store.update("stop-rds", make_draft({}), "1.1.0").ref.version == "1.1.0"
    assert store.read(REF) == {"shell/stop.sh": b"echo stop\n"}


def test_no_update_under_a_publisher(store, make_draft):
    store.create(make_draft())
    with store.journal.leases.holding(VERSION, [REF]):
        with pytest.raises(LeaseHeld):
            store.update("stop-rds", make_draft({}))
        with pytest.raises(LeaseHeld):
            store.delete([REF], unless_busy=True)
    store.update("stop-rds", make_draft({}))
    assert store.read(REF) == {}


def test_an_update_keeps_what_the_publisher_knows(store, make_draft):
    store.create(make_draft(), strategy=Strategy.REVIEW)
    store.journal.versions.set(REF, uploaded_digest="sha256:x", error="late", attempts=3)
    store.update("stop-rds", make_draft({}))
    row = store.get(REF)
    assert (row.uploaded_digest, row.error, row.attempts) == ("sha256:x", None, 0)


def test_a_conflict_is_not_decided_by_an_edit(store, make_draft):
    store.create(make_draft())
    store.journal.versions.set(REF, sync_state="conflict", error="theirs differs")
    store.update("stop-rds", make_draft({}, storage_strategy="uploaded_for_review"))
    assert store.get(REF).sync_state is SyncState.CONFLICT


# -- move, set_metadata, delete -------------------------------------------------------------


def test_move_rewrites_and_renames(store, make_draft):
    store.create(make_draft())
    digest = store.get(REF).content_digest
    for _ in range(2):  # twice is harmless
        publish(store, REF, updated_at=77)
        row = store.get(REF)
        assert (row.area, row.content_digest, row.revision) == (Area.SYNCED, digest, 7)
        assert on_disk(store, REF) == row.metadata
        assert row.metadata["storage_strategy"] == "uploaded_for_review"
        assert row.metadata["updated_at"] == 77
    assert not (store.layout.area(Area.LOCAL) / "stop-rds").exists()
    assert verify(store) == []


def test_the_disk_follows_a_row_that_was_first(store, make_draft):
    store.create(make_draft())
    publish(store, REF)
    metadata = store.get(REF).metadata | {"status": "approved"}
    store.journal.versions.set(REF, metadata=metadata)
    store.set_metadata(REF, {"status": "approved"})
    assert on_disk(store, REF)["status"] == "approved"


def test_only_server_owned_fields_change_without_an_update(store, make_draft):
    store.create(make_draft())
    store.set_metadata(REF, {"status": "deprecated", "deprecated_by": "stop-rds-2"})
    assert on_disk(store, REF)["deprecated_by"] == "stop-rds-2"
    store.set_metadata(REF, {"status": "ready", "deprecated_by": None})
    assert "deprecated_by" not in on_disk(store, REF)
    with pytest.raises(UsageError):
        store.set_metadata(REF, {"name": "Other"})
    with pytest.raises(InvalidPlaybook):
        store.set_metadata(REF, {"status": "unheard"})


def test_an_edit_on_disk_survives_a_move(store, make_draft):
    store.create(make_draft())
    path = store.folder(REF) / "metadata.json"
    path.write_text(json.dumps(on_disk(store, REF) | {"name": "Edited by hand"}))
    publish(store, REF)
    assert on_disk(store, REF)["name"] == "Edited by hand"
    assert on_disk(store, REF)["status"] == "pending_review"


def test_one_missing_folder_does_not_hold_back_a_move(store, make_draft):
    refs = [store.create(make_draft(playbook_id=f"p{n}")).ref for n in range(3)]
    for path in sorted(store.folder(refs[1]).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    store.folder(refs[1]).rmdir()
    with pytest.raises(NotFound, match="p1"):
        store.move([Move(ref, Area.SYNCED, {}) for ref in refs])
    assert [store.get(ref).area for ref in refs] == [Area.SYNCED, Area.LOCAL, Area.SYNCED]
    assert store.writer.recover() == 0


def test_delete_leaves_the_other_versions(store, make_draft):
    store.create(make_draft())
    store.create(make_draft(version="1.1.0"))
    parent = store.layout.area(Area.LOCAL) / "stop-rds"
    store.delete([REF, REF, Ref("nobody", "1.0.0")])
    assert [path.name for path in parent.iterdir()] == ["v1.1.0"]
    store.delete([Ref("stop-rds", "1.1.0")])
    assert not parent.exists()
    assert store.journal.versions.refs() == []
    assert not list(store.layout.staging.iterdir())


# -- when the disk does not play along ------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "open", "rename", "mkdir"])
def test_a_full_disk_leaves_nothing_behind(store, make_draft, monkeypatch, call):
    """Whichever call fails first, the store is as before and works again afterwards."""
    store.create(make_draft(playbook_id="before"))
    real = getattr(os, call)
    survived, remedies = False, set()
    for nth in range(60):
        left = [nth]

        def fail(*args, left=left, **kwargs):
            if str(store.layout.root) in str(args[0]) or call == "fsync":
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)
        try:
            store.create(make_draft(), check_scripts=False)
            survived = True
        except StorageError as error:
            remedies.add(error.remedy)
        finally:
            monkeypatch.setattr(os, call, real)
        store.writer.recover()
        assert verify(store) == []
        if survived:
            break
        assert store.journal.versions.get(REF) is None
        assert not list(store.layout.staging.iterdir())
    assert survived
    assert all("full" in remedy for remedy in remedies)


def test_a_journal_that_fails_at_the_end_takes_the_change_back(store, make_draft, monkeypatch):
    store.create(make_draft())

    def fail(*_args: object) -> None:
        raise StorageError("The journal failed.", "Free some space.")

    for change in (
        lambda: store.create(make_draft(playbook_id="new")),
        lambda: store.update("stop-rds", make_draft({})),
    ):
        monkeypatch.setattr(store.journal.intents, "finish", fail)
        with pytest.raises(StorageError):
            change()
        monkeypatch.undo()
        store.writer.recover()
        assert store.journal.versions.refs() == [REF]
        assert store.read(REF) == {"shell/stop.sh": b"echo stop\n"}
        assert verify(store) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written(store, make_draft):
    store.create(make_draft())
    store.layout.root.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Not permitted"):
            store.create(make_draft(playbook_id="new"))
    finally:
        store.layout.root.chmod(0o700)


def test_the_lock_has_an_end(store, make_draft, monkeypatch):
    monkeypatch.setattr(writer, "LOCK_SECONDS", 0.05)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.locked():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(20)
        with pytest.raises(StorageError, match="lock"):
            store.create(make_draft())
    finally:
        leave.set()
        thread.join(20)
    assert not list(store.layout.staging.iterdir())


def test_stale_staging_is_cleared_young_is_not(store, make_draft):
    store.create(make_draft())
    old, young = store.layout.staged("0" * 32), store.layout.staged("1" * 32)
    for folder in (old, young, store.layout.old("2" * 32)):
        folder.mkdir()
    os.utime(old, (1, 1))
    store.writer.recover()
    assert list(store.layout.staging.iterdir()) == [young]


def test_a_stored_folder_can_be_taken_in_again(store, make_draft):
    ref = store.create(make_draft(parameters=[{"name": "a", "default": 1}])).ref
    draft = draft_from_folder(store.folder(ref))
    again = store.create(PlaybookDraft(draft.metadata | {"playbook_id": "copy"}, draft.files))
    assert store.read(again.ref) == store.read(ref)


def test_errors_say_what_to_do(store, make_draft):
    for call in (
        lambda: store.get(REF),
        lambda: store.latest("nobody"),
        lambda: store.update("nobody", make_draft()),
    ):
        with pytest.raises(EscherError) as caught:
            call()
        assert caught.value.remedy
