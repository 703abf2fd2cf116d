"""The server's deletions: into the trash, and not too many at once."""

from __future__ import annotations

import json

import pytest
from support.feed import change_item

from core.errors import NotFound, StorageError
from core.models import Area, FileEntry, Ref, Strategy, SyncState, content_digest
from core.playbooks.folder_copies import Trash
from core.playbooks.restore import restore_from_trash

DAY = 86_400


@pytest.fixture
def served(machines, monkeypatch):
    """``served(items)`` has the server tell these items, whatever the cursor."""
    here, _ = machines
    told: list[dict] = []

    def page(cursor=None, limit=200):
        answer = original(None, limit)
        answer.changes[:] = told
        return answer

    original = here.server.change_page
    monkeypatch.setattr(here.server, "change_page", page)

    def tell(*items):
        told[:] = items

    return here, tell


def live(number):
    return change_item(Ref(f"p-{number}", "1.0.0"), b"echo %d\n" % number)


def tombstone(number, revision=2):
    return {**live(number), "deleted": True, "revision": revision, "metadata": None, "files": []}


def home_with(served, count, *, fetched=True):
    here, tell = served
    tell(*[live(number) for number in range(count)])
    assert len(here.pull_all().pulled) == count
    if fetched:
        for number in range(count):
            files = {"shell/main.sh": b"echo %d\n" % number}
            here.folders.fetch_contents(Ref(f"p-{number}", "1.0.0"), files)
    return here, tell


@pytest.mark.parametrize(("standing", "gone"), [(10, 10), (11, 10), (60, 12)])
def test_few_go_into_the_trash(served, standing, gone):
    here, tell = home_with(served, standing)
    tell(*[tombstone(number) for number in range(gone)])
    report = here.pull()
    assert len(report.deleted) == len(report.trashed) == gone
    assert len(Trash(here.settings.trash_path).entries()) == gone
    assert here.journal.versions.count_in(Area.SYNCED) == standing - gone
    assert here.journal.waiting.counts() == {"failed": 0, "deletions": 0}


@pytest.mark.parametrize(("standing", "gone"), [(11, 11), (50, 11), (54, 11)])
def test_many_wait_and_the_cursor_goes_on(served, standing, gone):
    here, tell = home_with(served, standing, fetched=False)
    tell(*[tombstone(number) for number in range(gone)])
    report = here.pull()
    assert (report.deleted, report.deletions_waiting) == ([], gone)
    assert here.journal.versions.count_in(Area.SYNCED) == standing
    assert here.journal.waiting.is_held(Ref("p-0", "1.0.0"))
    assert here.record(Ref("p-0", "1.0.0")).sync_state is SyncState.PUBLISHED
    tell()
    assert here.pull().deletions_waiting == gone, "and go on waiting"
    assert len(here.pull(accept_deletions=True).deleted) == gone
    assert here.journal.waiting.counts()["deletions"] == 0


def test_a_few_at_a_time_are_many_within_a_day(served):
    here, tell = home_with(served, 30, fetched=False)
    for start in (0, 5):
        tell(*[tombstone(number) for number in range(start, start + 5)])
        assert len(here.pull().deleted) == 5
    tell(tombstone(10))
    assert here.pull().deletions_waiting == 1
    here.skew = DAY + 60
    tell(tombstone(10), tombstone(11))
    report = here.pull()
    assert report.deleted == [Ref("p-11", "1.0.0")], "a day later few are few again"
    assert report.deletions_waiting == 1, "but what waits, waits for the user"


def test_what_is_there_again_waits_no_more(served):
    here, tell = home_with(served, 11, fetched=False)
    tell(*[tombstone(number) for number in range(11)])
    here.pull()
    back = {**live(0), "revision": 3}
    tell(back)
    report = here.pull()
    assert report.deletions_waiting == 10
    assert here.has(Ref("p-0", "1.0.0"))
    here.pull(accept_deletions=True)
    assert here.journal.versions.refs() == [Ref("p-0", "1.0.0")]


def test_an_edit_made_while_its_deletion_waits_is_not_lost(served):
    here, tell = home_with(served, 11)
    tell(*[tombstone(number) for number in range(11)])
    here.pull()
    folder = here.folder(Ref("p-3", "1.0.0"))
    (folder / "shell" / "main.sh").write_text("echo mine\n")
    here.pull(accept_deletions=True)
    [kept] = here.journal.versions.select()
    assert (kept.ref, kept.strategy) == (Ref("p-3", "1.0.1"), Strategy.LOCAL_ONLY)
    assert len(here.trash_entries()) == 10


def test_a_path_that_was_handed_out_keeps_its_deletion_waiting(served):
    here, tell = home_with(served, 2)
    in_use = {Ref("p-0", "1.0.0")}
    here.puller._reconciler._in_use = in_use.__contains__
    tell(tombstone(0), tombstone(1))
    assert here.pull().deleted == [Ref("p-1", "1.0.0")]
    in_use.clear()
    assert here.pull().deleted == [Ref("p-0", "1.0.0")]


def test_an_acceptance_is_for_what_was_waiting_and_not_for_what_comes_with_it(served):
    here, tell = home_with(served, 60, fetched=False)
    tell(*[tombstone(number) for number in range(15)])
    assert here.pull().deletions_waiting == 15
    tell(*[tombstone(number) for number in range(40)])
    report = here.pull(accept_deletions=True)
    assert (len(report.deleted), report.deletions_waiting) == (15, 25)


def test_what_was_accepted_does_not_make_the_next_few_many(served):
    here, tell = home_with(served, 40, fetched=False)
    tell(*[tombstone(number) for number in range(30)])
    here.pull()
    here.pull(accept_deletions=True)
    tell(tombstone(30))
    report = here.pull()
    assert (report.deleted, report.deletions_waiting) == ([Ref("p-30", "1.0.0")], 0)


def test_what_was_accepted_and_is_in_use_is_not_asked_for_again(served):
    here, tell = home_with(served, 20, fetched=False)
    tell(*[tombstone(number) for number in range(20)])
    here.pull()
    in_use = {Ref("p-0", "1.0.0")}
    here.puller._reconciler._in_use = in_use.__contains__
    assert len(here.pull(accept_deletions=True).deleted) == 19
    in_use.clear()
    report = here.pull()
    assert (report.deleted, report.deletions_waiting) == ([Ref("p-0", "1.0.0")], 0)


@pytest.mark.parametrize("days", [400, 2, -400])
def test_a_clock_that_was_wrong_for_a_while_makes_no_few_many_for_long(served, days):
    here, tell = home_with(served, 30, fetched=False)
    here.skew = days * DAY
    tell(*[tombstone(number) for number in range(10)])
    assert len(here.pull().deleted) == 10
    here.skew = 0
    tell(tombstone(10))
    assert here.pull().deletions_waiting == 0
    assert not here.journal.pull_state.is_stale(here.clock())


def test_a_deletion_that_can_not_be_done_is_told_and_done_later(served, monkeypatch):
    here, tell = home_with(served, 1)

    def full(*_, **__):
        raise StorageError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr("core.playbooks.folder_copies._copy_whole", full)
        tell(tombstone(0))
        report = here.pull()
    assert "deleted on the server" in report.failed["p-0@1.0.0"]
    assert report.is_partial
    assert here.has(Ref("p-0", "1.0.0"))
    tell()
    assert here.pull().deleted == [Ref("p-0", "1.0.0")]


def test_tombstones_that_are_known_are_not_worked_on_again(served, monkeypatch):
    """Servers keep them for ever: a full pass of each day brings all of them."""
    here, tell = served
    tell(*[tombstone(number) for number in range(50)])
    writes = []
    write = here.journal.database.write
    monkeypatch.setattr(
        here.journal.database, "write", lambda *a, **k: writes.append(1) or write(*a, **k)
    )
    here.pull_all()
    assert len(writes) < 20, "not one by one"
    read = []
    monkeypatch.setattr("core.publishing.pull.read_item", read.append)
    assert here.pull_all().failed == {}
    assert read == []


class TestTrash:
    @pytest.fixture
    def trashed(self, served):
        here, tell = home_with(served, 1)
        tell(tombstone(0))
        here.pull()
        return here, Trash(here.settings.trash_path), Ref("p-0", "1.0.0")

    def test_it_comes_back_private_under_the_next_free_version(self, trashed):
        here, trash, ref = trashed
        restored = restore_from_trash(here.store, trash, ref)
        assert restored == Ref("p-0", "1.0.1")
        record = here.record(restored)
        assert (record.area, record.strategy, record.sync_state, record.status) == (
            Area.LOCAL, Strategy.LOCAL_ONLY, SyncState.LOCAL, "ready",
        )  # fmt: skip
        assert here.store.read(restored) == {"shell/main.sh": b"echo 0\n"}
        assert trash.entries() == []
        with pytest.raises(NotFound):
            restore_from_trash(here.store, trash, ref)

    def test_what_stood_beside_it_comes_back_with_it(self, served):
        here, tell = home_with(served, 1)
        folder, ref = here.folder(Ref("p-0", "1.0.0")), Ref("p-0", "1.0.0")
        (folder / "notes.md").write_text("mine")
        (folder / "shell" / "run.tfstate").write_text("{}")
        tell(tombstone(0))
        here.pull()
        restored = restore_from_trash(here.store, Trash(here.settings.trash_path), ref)
        folder = here.folder(restored)
        assert (folder / "notes.md").read_text() == "mine"
        assert (folder / "shell" / "run.tfstate").read_text() == "{}"
        assert here.store.read(restored) == {"shell/main.sh": b"echo 0\n"}

    @pytest.mark.parametrize("source", ["server", "published"])
    def test_what_an_ai_wrote_elsewhere_waits_for_a_decision(self, served, source):
        here, tell = served
        ref = Ref("p-0", "1.0.0")
        item = change_item(ref, b"echo 0\n")
        item["metadata"]["author"] = "ai_generated"
        files = [FileEntry(f["path"], f["size_bytes"], f["checksum"]) for f in item["files"]]
        item["content_digest"] = content_digest(item["metadata"], files)
        here.journal.pins.put([(ref, item["content_digest"])], source)
        tell(item)
        here.pull_all()
        here.folders.fetch_contents(ref, {"shell/main.sh": b"echo 0\n"})
        tell({**item, "deleted": True, "revision": 2, "metadata": None, "files": []})
        here.pull()
        restored = restore_from_trash(here.store, Trash(here.settings.trash_path), ref)
        record = here.record(restored)
        is_own = source == "published"
        assert record.area is (Area.LOCAL if is_own else Area.AI_GENERATED)
        assert record.intake == ("create" if is_own else "import"), "allow-list comments"

    def test_names_that_stand_for_something_are_not_free(self, trashed):
        here, trash, ref = trashed
        here.journal.pins.put([(Ref("p-0", "1.0.1"), "sha256:x")], "server")
        assert restore_from_trash(here.store, trash, ref).version == "1.0.2"

    def test_sealed_content_stays_sealed_and_comes_back_in_clear(self, machines, tmp_path):
        here, _ = machines
        secret = b"echo CANARY\n"
        ref = here.store.create(
            _draft({"shell/run.sh": secret}, sensitive=True, version="1.0.0")
        ).ref
        trash = Trash(here.settings.trash_path)
        kept = trash.keep(ref, here.folder(ref))
        assert b"CANARY" not in (kept / "shell" / "run.sh").read_bytes()
        here.store.delete([ref])
        restored = restore_from_trash(here.store, trash, ref)
        assert here.store.read(restored) == {"shell/run.sh": secret}
        assert b"CANARY" not in (here.folder(restored) / "shell" / "run.sh").read_bytes()

    def test_it_is_purged_after_its_days_and_nothing_else_is(self, trashed, monkeypatch):
        here, trash, _ = trashed
        (here.settings.trash_path / "notes").mkdir()
        [entry] = trash.entries()
        assert trash.purge(30) == 0
        monkeypatch.setattr(
            "core.playbooks.folder_copies.time.time", lambda: entry.deleted_at + 31 * DAY
        )
        assert trash.purge(30) == 1
        assert [path.name for path in here.settings.trash_path.iterdir()] == ["notes"]

    def test_names_that_are_none_are_passed_over(self, tmp_path):
        for name in ("x", "a-v1.0.0", "a-v1.0.0-20260101T000000Z", "../b", "A-v1-2", ".a.tmp"):
            (tmp_path / name.replace("/", "_")).mkdir()
        (tmp_path / "b-v1.0.0-20260101T000000Z").symlink_to("/tmp")
        [entry] = Trash(tmp_path).entries()
        assert entry.ref == Ref("a", "1.0.0")
        assert json.dumps(entry.as_json(30))


def _draft(files, **metadata):
    from support.playbooks import draft

    return draft("Stop idle RDS", files, playbook_id="stop-rds", **metadata)
