from __future__ import annotations

import shutil

import pytest
from support.feed import change_item

from core.errors import Refused, ServerUnreachable, StorageError, UsageError
from core.journal.leases import VERSION
from core.journal.pulls import CURSOR
from core.journal.tables import pins
from core.models import Area, OutcomeState, Ref, Status, Strategy, SyncState
from core.playbooks.verify import adopt
from core.publishing.pull import PullReport

PENDING = (SyncState.PUBLISHED, Area.SYNCED, "pending_review")


def test_another_machines_version_comes_as_metadata_alone(machines):
    here, there = machines
    ref = there.created_and_published()
    report = here.pull()
    assert report.pulled == [ref]
    assert here.state(ref) == PENDING
    assert here.names(ref) == ["metadata.json"]
    ours, theirs = here.record(ref), there.record(ref)
    assert here.on_disk(ref) == ours.metadata == theirs.metadata
    assert (ours.revision, ours.content_digest) == (1, theirs.content_digest)
    assert ours.s3_paths == theirs.s3_paths
    files = here.journal.versions.files(ref)
    assert files == there.journal.versions.files(ref)
    assert not here.journal.versions.get(ref).fetched
    assert here.journal.versions.wanting_publish(here.clock()) == []
    again = here.pull()
    assert again == PullReport(cursor=again.cursor)


def test_a_pull_that_finds_nothing_is_one_call_and_writes_nothing(machines):
    here, there = machines
    there.created_and_published()
    here.pull()
    requests = here.server.reference_stats()["requests"]
    cursor = here.journal.facts.get(CURSOR)
    assert here.pull().cursor == cursor
    assert here.server.reference_stats()["requests"] == requests + 2  # and the question itself


def test_an_approval_comes_with_trust_and_the_lower_versions_are_deprecated(machines, reviewer):
    here, there = machines
    old = there.created_and_published()
    new = there.created_and_published("echo two", version="1.1.0")
    here.pull()
    reviewer.set_status(new, Status.APPROVED)
    for machine in machines:
        assert set(machine.pull().updated) == {old, new}
        record = machine.record(new)
        assert (record.strategy, record.status) == (Strategy.TRUSTED, Status.APPROVED)
        assert machine.record(old).metadata["deprecated_by"] == "1.1.0"
        assert machine.on_disk(old)["status"] == "deprecated"
        assert machine.on_disk(new) == record.metadata
        assert machine.record(old).revision == 2
    assert here.on_disk(new) == there.on_disk(new)


def test_a_rejection_shows_the_reviewers_reason_and_its_end_takes_it_away(machines, reviewer):
    here, _ = machines
    ref = here.created_and_published()
    reviewer.set_status(ref, Status.REJECTED, "It stops production.")
    here.pull()
    assert here.on_disk(ref)["deprecation_reason"] == "It stops production."
    assert here.state(ref)[2] == "rejected"
    reviewer.set_status(ref, Status.APPROVED)
    here.pull()
    assert "deprecation_reason" not in here.on_disk(ref)


def test_statistics_come_and_what_was_counted_here_is_not_lost(machines):
    here, there = machines
    ref = there.created_and_published()
    here.pull()
    here.journal.versions.set(ref, execution_count=5, success_count=1, last_executed=7)
    runs = [
        {"execution_id": str(n), "success": True, "duration_ms": 1, "at": 1000 + n}
        for n in range(3)
    ]
    there.server.send_stats(ref, runs)
    assert here.pull().updated == [ref]
    record = here.record(ref)
    assert (record.execution_count, record.success_count, record.last_executed) == (5, 3, 1002)
    assert record.revision == 1
    assert "execution_count" not in here.on_disk(ref)


def test_the_same_content_made_on_both_machines_is_one_version(machines):
    here, there = machines
    ref = there.created_and_published()
    here.create(storage_strategy="local_only", created_at=1_000_000_005, updated_at=1_000_000_005)
    report = here.pull()
    assert (report.updated, report.conflicts) == ([ref], [])
    assert here.state(ref) == PENDING
    assert here.script(ref) == "echo one"
    assert here.on_disk(ref) == there.on_disk(ref)


def test_unpublished_here_and_other_content_there_waits_for_the_user(machines):
    here, there = machines
    theirs = there.created_and_published("echo theirs")
    ref = here.create("echo ours")
    report = here.pull()
    assert [decided.ref for decided in report.conflicts] == [ref]
    assert here.state(ref)[:2] == (SyncState.CONFLICT, Area.LOCAL)
    assert here.script(ref) == "echo ours"
    assert here.publish(ref) == {ref: "failed"}
    [conflict] = here.journal.conflicts.entries()
    assert (conflict.state, conflict.ref, conflict.server_revision) == ("open", ref, 1)
    assert conflict.server_digest == there.record(theirs).content_digest
    here.journal.facts.remove(CURSOR)
    here.pull()
    assert len(here.journal.conflicts.entries(everything=True)) == 1


def test_when_theirs_is_deleted_its_name_goes_on_standing_for_it(machines):
    here, there = machines
    ref = there.created_and_published("echo theirs")
    here.create("echo ours")
    here.pull()
    there.deleted(ref)
    assert [decided.rule for decided in here.pull().conflicts] == ["name_is_taken"]
    assert here.publish() == {}
    ours = here.resolve(ref, as_version="1.0.1").kept_as
    assert here.journal.conflicts.entries() == []
    assert here.publish() == {ours: "done"}
    assert there.pull().pulled == [ours]


def test_when_ours_is_deleted_the_open_conflict_is_over_and_theirs_comes(machines):
    here, there = machines
    ref = there.created_and_published("echo theirs")
    here.create("echo ours")
    here.pull()
    here.delete(ref)
    assert not here.has(ref)
    assert here.pull().pulled == [ref]
    assert here.state(ref) == PENDING
    assert here.journal.conflicts.entries() == []


class TestDeletions:
    def test_deleted_there_and_untouched_here_is_deleted_here(self, machines):
        here, there = machines
        ref = there.created_and_published()
        here.pull()
        folder = here.folder(ref)
        there.deleted(ref)
        here.folders.fetch_contents(ref, {"shell/run.sh": b"#!/bin/sh\necho one\n"})
        report = here.pull()
        assert report.deleted == [ref]
        assert not here.has(ref)
        assert not folder.parent.exists()
        assert here.journal.conflicts.entries(everything=True) == []
        assert here.trash() == ["echo one"]
        assert report.trashed == [str(path) for path in here.settings.trash_path.iterdir()]
        assert here.journal.stale_points.refs() == [ref]

    def test_notes_beside_a_playbook_do_not_go_with_it(self, machines):
        here, there = machines
        ref = here.created_and_published()
        (here.folder(ref) / "notes.txt").write_text("Ask Ana first.")
        (here.folder(ref) / ".notes.txt.swp").write_text("an editor's")
        there.pull()
        there.deleted(ref)
        assert here.pull().deleted == [ref]
        [kept] = here.settings.trash_path.iterdir()
        assert (kept / "notes.txt").read_text() == "Ask Ana first."

    def test_deleted_there_and_edited_here_the_edit_wins(self, machines):
        here, there = machines
        ref = here.created_and_published()
        there.pull()
        there.deleted(ref)
        here.edit(ref, "echo edited")
        report = here.pull()
        assert (report.deleted, [d.rule for d in report.conflicts]) == ([], ["edit_beats_deletion"])
        kept = Ref("stop-rds", "1.0.1")
        record = here.record(kept)
        assert (record.area, record.revision, record.sync_state, record.strategy) == (
            Area.LOCAL, None, SyncState.LOCAL, Strategy.LOCAL_ONLY,
        )  # fmt: skip
        assert here.script(kept) == "echo edited"
        assert here.on_disk(kept)["status"] == "ready"
        assert not here.has(ref)
        assert here.trash() == here.copies() == [], "the version holds it"

    def test_a_folder_that_only_vanished_is_no_edit(self, machines):
        here, there = machines
        ref = here.created_and_published()
        there.pull()
        there.deleted(ref)
        shutil.rmtree(here.folder(ref))
        assert here.pull().deleted == [ref]

    def test_deleted_here_and_changed_there_the_change_wins(self, machines, reviewer):
        here, _ = machines
        ref = here.created_and_published()
        here.delete(ref)
        reviewer.set_status(ref, Status.REJECTED)
        report = here.pull()
        assert [d.rule for d in report.conflicts] == ["change_beats_deletion"]
        record = here.record(ref)
        assert (record.deleting, record.sync_state) == (False, SyncState.PUBLISHED)
        assert record.status is Status.REJECTED
        assert "Delete it again" in (record.error or "")
        assert here.journal.versions.wanting_delete(here.clock()) == []
        # deleted again, with what is there now before one's eyes, it goes
        here.deleted(ref)
        assert not here.has(ref)

    def test_the_change_wins_though_the_folder_is_gone_too(self, machines, reviewer):
        here, _ = machines
        ref = here.created_and_published()
        shutil.rmtree(here.folder(ref))
        here.publisher.request_delete([ref])
        reviewer.set_status(ref, Status.REJECTED, "no")
        report = here.pull()
        assert report.failed == {}
        record = here.record(ref)
        assert (record.deleting, record.status, record.revision) == (False, Status.REJECTED, 2)
        assert not here.folder(ref).is_dir(), "a missing copy: the next scan brings it back"

    def test_deleted_here_and_only_run_there_the_deletion_goes_on(self, machines):
        here, there = machines
        ref = here.created_and_published()
        here.delete(ref)
        there.server.send_stats(
            ref, [{"execution_id": "1", "success": True, "duration_ms": 1, "at": 1}]
        )
        assert here.pull().conflicts == []
        assert here.record(ref).deleting
        assert here.publisher.delete([ref])[ref].state is OutcomeState.DONE
        assert here.pull().failed == {}

    def test_deleted_on_both_sides_is_gone(self, machines):
        here, there = machines
        ref = here.created_and_published()
        there.pull()
        here.delete(ref)
        there.deleted(ref)
        assert here.pull().deleted == [ref]
        assert not here.has(ref)


class TestImmutable:
    """Other content under a name that was published: nothing here is replaced."""

    @pytest.fixture
    def replaced(self, machines, monkeypatch):
        """Published here as ``echo first``; the server claims other content from now on."""
        here, there = machines
        ref = here.created_and_published("echo first")
        there.pull()
        original = here.server.change_page

        def claim(**fields):
            def page(cursor=None, limit=200):
                answer = original(None, limit)
                other = change_item(ref, b"echo evil\n", **{"revision": 7, **fields})
                answer.changes[:] = [
                    other if raw["playbook_id"] == ref.playbook_id else raw
                    for raw in answer.changes
                ]
                return answer

            monkeypatch.setattr(here.server, "change_page", page)

        claim()
        return here, ref, claim

    def test_the_known_content_stays_and_a_conflict_waits(self, replaced):
        here, ref, _ = replaced
        before = here.record(ref)
        report = here.pull()
        assert (report.pulled, report.updated) == ([], [])
        assert [d.rule for d in report.conflicts] == ["immutable"]
        assert here.record(ref) == before
        assert here.script(ref) == "echo first"
        [conflict] = here.journal.conflicts.entries()
        assert (conflict.kind, conflict.state) == ("immutable", "open")
        assert here.journal.pins.get(ref) == before.content_digest
        assert here.pull_all().conflicts == [], "told once"

    @pytest.mark.parametrize(
        "fields", [{"revision": 99}, {"revision": 1, "updated_at": 1 << 40}, {"revision": 2}]
    )
    def test_no_revision_and_no_time_makes_it_right(self, replaced, fields):
        here, ref, claim = replaced
        claim(**fields)
        before = here.record(ref).content_digest
        for _ in range(2):
            here.pull_all()
        assert here.record(ref).content_digest == before
        assert here.script(ref) == "echo first"

    def test_only_the_user_pins_it_anew(self, replaced):
        here, ref, _ = replaced
        here.pull()
        done = here.resolve(ref, take="theirs")
        theirs = change_item(ref, b"echo evil\n")["content_digest"]
        assert here.record(ref).content_digest == here.journal.pins.get(ref) == theirs
        assert here.copies() == ["echo first"]
        assert done.theirs_came
        here.pull_all()
        assert [entry.state for entry in here.journal.conflicts.entries()] == ["kept"]

    def test_what_the_user_did_not_see_is_not_taken(self, replaced, monkeypatch):
        here, ref, _ = replaced
        here.pull()
        shown = here.server.change_page

        def again(cursor=None, limit=200):
            answer = shown(cursor, limit)
            answer.changes[:] = [change_item(ref, b"echo worse\n", revision=8)]
            return answer

        monkeypatch.setattr(here.server, "change_page", again)
        with pytest.raises(Refused, match="changed its side"):
            here.resolve(ref, take="theirs")
        assert here.script(ref) == "echo first"

    def test_its_name_can_not_be_given_away(self, replaced):
        here, ref, _ = replaced
        here.pull()
        for choice in ({"as_version": "9.0.0"}, {"rename": "other"}):
            with pytest.raises(UsageError):
                here.resolve(ref, **choice)

    def test_an_edit_is_still_the_next_patch(self, replaced):
        here, ref, _ = replaced
        here.edit(ref, "echo edited")
        assert [d.rule for d in here.pull().conflicts] == ["immutable"]
        assert here.script(ref) == "echo edited", "for the next scan to take"

    def test_what_was_asked_to_be_deleted_is_not_replaced(self, replaced):
        here, ref, _ = replaced
        here.delete(ref)
        here.pull()
        record = here.record(ref)
        assert (record.deleting, record.sync_state) == (False, SyncState.PUBLISHED)
        assert here.script(ref) == "echo first"

    def test_what_was_deleted_here_does_not_come_back_as_something_else(self, replaced):
        here, ref, _ = replaced
        with here.journal.database.write() as connection:
            here.journal.versions.delete([ref], connection)
        shutil.rmtree(here.store.layout.folder(Area.SYNCED, ref))
        assert here.pull_all().pulled == []
        assert not here.has(ref)
        assert here.journal.conflicts.entries()[0].kind == "immutable"

    def test_it_is_over_when_the_server_says_what_it_said(self, replaced, monkeypatch):
        here, ref, _ = replaced
        here.pull()
        monkeypatch.undo()
        here.pull_all()
        assert here.journal.conflicts.entries() == []
        assert here.record(ref).sync_state is SyncState.PUBLISHED


@pytest.mark.usefixtures("forgetful")
def test_a_server_that_forgets_what_it_deleted_replaces_nothing_here(machines):
    here, there = machines
    ref = here.created_and_published("echo first")
    there.pull()
    there.deleted(ref)
    with there.journal.database.write() as connection:
        connection.execute(pins.delete())  # a machine that never saw the first
    there.created_and_published("echo replaced")
    report = here.pull()
    assert (report.pulled, [d.rule for d in report.conflicts]) == ([], ["immutable"])
    assert here.script(ref) == "echo first"
    here.resolve(ref, take="theirs")
    assert here.record(ref).content_digest == there.record(ref).content_digest
    assert here.copies() == ["echo first"]


def test_an_edit_of_a_version_in_the_row_becomes_the_successor(machines):
    """An update in place that a commit overtook: the server holds the former content."""
    here, _ = machines
    ref = here.created_and_published("echo first")
    row = here.record(ref)
    # as if the content had been replaced right after the commit, by a worker that lost its lease
    here.folders.drop(ref, copy="never")
    with here.journal.database.write() as connection:
        connection.execute(pins.delete())
    here.create("echo second")
    facts = ("revision", "published_digest", "published_at")
    here.journal.versions.set(
        ref, sync_state=SyncState.PENDING, **{name: getattr(row, name) for name in facts}
    )
    assert here.publish(ref) == {ref: "failed"}
    [conflict] = here.journal.conflicts.entries()
    assert conflict.kind == "edit_becomes_successor"
    report = here.pull()
    assert here.script(Ref("stop-rds", "1.0.1")) == "echo second"
    assert here.record(ref).content_digest == row.content_digest
    assert here.journal.conflicts.entries() == []
    assert report.failed == {}


class TestTheFeedIsNotTrusted:
    @pytest.fixture
    def served(self, machines, monkeypatch):
        """Change what the server says: ``served(change)`` is called with each raw item."""
        here, there = machines
        there.created_and_published(playbook_id="good")
        there.created_and_published(playbook_id="bad")
        original = here.server.change_page

        def serve(spoil):
            def page(cursor=None, limit=200):
                answer = original(cursor, limit)
                for raw in answer.changes:
                    if raw["playbook_id"] == "bad":
                        spoil(raw)
                return answer

            monkeypatch.setattr(here.server, "change_page", page)

        return here, serve

    @pytest.mark.parametrize(
        "spoiled",
        [
            {"playbook_id": "../../etc"},
            {"playbook_id": "escher-library"},
            {"playbook_id": 7},
            {"version": "1.0.0/../../x"},
            {"version": "not-semver"},
            {"revision": "5"},
            {"status": "of-a-newer-server"},
            {"storage_strategy": "local_only"},
            {"content_digest": "sha256:" + "0" * 64},
            {"metadata": None},
            {"metadata": []},
            {"files": [{"path": "x"}]},
        ],
    )
    def test_a_malformed_item_never_blocks_its_page(self, served, spoiled):
        here, serve = served
        serve(lambda raw: raw.update(spoiled))
        report = here.pull()
        assert report.pulled == [Ref("good", "1.0.0")]
        assert len(report.failed) == 1
        assert report.cursor is not None
        assert here.journal.facts.get(CURSOR) == report.cursor
        assert [path.name for path in here.store.layout.area(Area.SYNCED).iterdir()] == ["good"]
        assert not (here.settings.home / "etc").exists()

    def test_an_open_conflict_over_it_ends_no_pull_either(self, served):
        here, serve = served
        serve(lambda raw: raw.update(status="of-a-newer-server"))
        here.journal.conflicts.open(Ref("bad", "1.0.0"), "open_conflict", "Other content.")
        report = here.pull()
        assert (report.pulled, list(report.failed)) == ([Ref("good", "1.0.0")], ["bad@1.0.0"])
        assert here.journal.conflicts.open_of(Ref("bad", "1.0.0")) is not None

    @pytest.mark.parametrize(
        "path",
        ["../evil.sh", "/etc/passwd", "shell/../../x", "evil/x.sh", "metadata.json", "shell",
         "shell/RUN.sh", "shell/run.sh/x"],
    )  # fmt: skip
    def test_a_path_that_may_not_stand_here_is_refused(self, served, path):
        from core.models import FileEntry, content_digest

        here, serve = served

        def spoil(raw):
            raw["files"].append({**raw["files"][0], "path": path})
            entries = [FileEntry(f["path"], 1, f["checksum"]) for f in raw["files"]]
            raw["content_digest"] = content_digest(raw["metadata"], entries)

        serve(spoil)
        report = here.pull()
        assert list(report.failed) == ["bad@1.0.0"]
        assert report.pulled == [Ref("good", "1.0.0")]

    def test_what_failed_waits_by_name_and_is_tried_again_by_a_full_pass(self, served, monkeypatch):
        here, serve = served
        serve(lambda raw: raw.update(status="of-a-newer-server"))
        here.pull()
        [item] = here.journal.waiting.failed()
        assert (item.name, item.revision) == (("bad", "1.0.0"), 1)
        assert here.pull().failed == {}, "the cursor has gone on"
        assert list(here.pull_all().failed) == ["bad@1.0.0"]
        monkeypatch.undo()  # as a newer client would read it
        assert here.pull_all().pulled == [Ref("bad", "1.0.0")]
        assert here.journal.waiting.failed() == []

    def test_what_failed_is_tried_again_when_its_revision_changes(
        self, served, reviewer, monkeypatch
    ):
        here, serve = served
        serve(lambda raw: raw.update(status="of-a-newer-server"))
        here.pull()
        monkeypatch.undo()
        reviewer.set_status(Ref("bad", "1.0.0"), Status.APPROVED)
        assert here.pull().pulled == [Ref("bad", "1.0.0")]
        assert here.journal.waiting.failed() == []


class TestInterrupted:
    def test_a_version_that_is_worked_on_waits_and_is_not_forgotten(self, machines, reviewer):
        here, _ = machines
        ref = here.created_and_published()
        reviewer.set_status(ref, Status.APPROVED)
        with here.journal.leases.holding(VERSION, [ref]):
            report = here.pull()
        assert (list(report.deferred), report.failed) == ([str(ref)], {})
        here.skew = 5
        assert here.pull().updated == [ref]
        assert here.state(ref)[2] == "approved"

    def test_a_lost_cursor_begins_at_the_beginning_and_changes_nothing(self, machines, reviewer):
        here, there = machines
        ref = there.created_and_published()
        here.created_and_published("echo mine", playbook_id="mine")
        reviewer.set_status(ref, Status.APPROVED)
        here.pull()
        before = here.record(ref)
        for cursor in (None, "bm90IGEgY3Vyc29y", "%%%"):
            here.journal.facts.remove(CURSOR)
            if cursor:
                here.journal.facts.set(CURSOR, cursor)
            report = here.pull()
            assert (report.pulled, report.updated, report.failed) == ([], [], {})
        assert here.record(ref) == before

    def test_the_cursor_is_kept_page_by_page(self, machines, reference, monkeypatch):
        here, there = machines
        monkeypatch.setattr("core.publishing.feed.PAGE_ITEMS", 2)
        refs = [there.created_and_published(playbook_id=f"p{n}") for n in range(5)]
        original, pages = here.server.change_page, []

        def page(cursor=None, limit=200):
            if len(pages) == 2:
                raise ServerUnreachable("gone")
            pages.append(original(cursor, limit))
            return pages[-1]

        monkeypatch.setattr(here.server, "change_page", page)
        with pytest.raises(ServerUnreachable):
            here.pull()
        assert [ref for ref in refs if here.has(ref)] == refs[:4]
        monkeypatch.setattr(here.server, "change_page", original)
        assert here.pull().pulled == refs[4:]

    @pytest.mark.parametrize("step", ["take_in", "check"])
    def test_a_full_disk_holds_the_cursor_until_it_goes(self, machines, monkeypatch, step):
        here, there = machines
        here.pull()
        ref = there.created_and_published()
        original = getattr(here.folders, step)

        def fail(*_, **__):
            raise StorageError("The disk is full.")

        monkeypatch.setattr(here.folders, step, fail)
        if step == "take_in":
            with pytest.raises(StorageError):
                here.pull()
        else:
            assert list(here.pull().failed) == [str(ref)]
        monkeypatch.setattr(here.folders, step, original)
        assert here.pull().pulled == [ref]

    def test_a_deletion_that_was_killed_is_in_the_trash_once(self, machines, monkeypatch):
        here, there = machines
        ref = here.created_and_published("echo first")
        there.pull()
        there.deleted(ref)
        original = here.folders._writer.apply

        def die(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(here.folders._writer, "apply", die)
        with pytest.raises(KeyboardInterrupt):
            here.pull()
        monkeypatch.setattr(here.folders._writer, "apply", original)
        assert here.pull().deleted == [ref]
        assert here.trash() == ["echo first"]

    def test_metadata_left_by_a_killed_pull_is_written_over(self, machines):
        here, there = machines
        ref = there.created_and_published()
        folder = here.store.layout.folder(Area.SYNCED, ref)
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text("{}")
        assert here.pull().pulled == [ref]
        assert here.on_disk(ref) == there.on_disk(ref)

    def test_an_unknown_folder_in_the_way_is_left_alone(self, machines):
        here, there = machines
        ref = there.created_and_published()
        folder = here.store.layout.folder(Area.SYNCED, ref)
        (folder / "shell").mkdir(parents=True)
        (folder / "shell" / "mine.sh").write_text("echo precious")
        assert list(here.pull().failed) == [str(ref)]
        assert (folder / "shell" / "mine.sh").read_text() == "echo precious"
        shutil.rmtree(folder)
        assert here.pull_all().pulled == [ref]

    def test_what_crashed_before_settling_is_settled(self, machines):
        here, _ = machines
        ref = here.create()
        here.publisher.request([ref])
        here.publisher.upload([ref])
        here.publisher.publish([ref])
        assert here.state(ref)[:2] == (SyncState.PENDING, Area.LOCAL)
        assert here.pull().updated == [ref]
        assert here.state(ref) == PENDING

    def test_a_lost_journal_learns_its_revisions_again(self, machines):
        here, _ = machines
        ref = here.created_and_published()
        with here.journal.database.write() as connection:
            here.journal.versions.delete([ref], connection)
        adopt(here.store)
        assert here.record(ref).revision is None
        assert here.pull().updated == [ref]
        assert (here.record(ref).revision, here.state(ref)) == (1, PENDING)
        assert here.script(ref) == "echo one"
