"""A server that lost something: full passes notice it, and it is sent again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from core.models import Ref, Status, Strategy, SyncState
from core.publishing.pull import PullReport

DAY = 86_400
REFS = [Ref("stop-rds", f"1.0.{number}") for number in range(11)]


def lose(reference, here, *refs):
    """The server was restored from a copy that is older than these versions."""
    with closing(sqlite3.connect(next(reference.data_dir.glob("*.db")))) as database, database:
        for ref in refs:
            database.execute(
                "DELETE FROM versions WHERE tenant_id = ? AND playbook_id = ? AND version = ?",
                (here.settings.tenant_id, *ref),
            )


def live(machine):
    return {(c["playbook_id"], c["version"]) for c in machine.server.change_page(None, 500).changes}


def test_eleven_versions_come_back_by_themselves(machines, reference):
    here, _ = machines
    for number, ref in enumerate(REFS):
        here.created_and_published(f"echo {number}", version=ref.version)
    here.pull()
    lose(reference, here, *REFS)
    assert here.pull().sent_again == [], "nothing tells of it"
    here.skew = DAY
    report = here.pull()
    assert report.full
    assert (report.absent, sorted(report.sent_again)) == (11, sorted(REFS))
    assert set(here.publish().values()) == {"done"}
    assert len(live(here)) == 11
    report = here.pull_all()
    assert (report.absent, report.sent_again) == (0, [])
    for number, ref in enumerate(REFS):
        record = here.record(ref)
        assert (record.absent_since, record.revision) == (None, 1)
        assert here.script(ref) == f"echo {number}"


def test_an_approval_that_the_server_lost_is_not_assumed(machines, reference, reviewer):
    here, _ = machines
    ref = here.created_and_published()
    reviewer.set_status(ref, Status.APPROVED)
    here.pull()
    assert here.state(ref)[2] == "approved"
    lose(reference, here, ref)
    here.pull_all()
    assert here.publish() == {ref: "done"}
    record = here.record(ref)
    assert (record.status, record.strategy) == (Status.PENDING_REVIEW, Strategy.REVIEW)
    assert here.on_disk(ref)["status"] == "pending_review"


def test_a_status_of_an_older_copy_is_followed(machines, reference, reviewer):
    """Restored from before the approval: the revision is a lower one, and so is the time."""
    here, _ = machines
    ref = here.created_and_published()
    here.pull()
    before = here.record(ref)
    reviewer.set_status(ref, Status.APPROVED)
    here.pull()
    with closing(sqlite3.connect(next(reference.data_dir.glob("*.db")))) as database, database:
        database.execute(
            "UPDATE versions SET status = 'pending_review', storage_strategy ="
            " 'uploaded_for_review', revision = ?, updated_at = ?, seq = seq + 1"
            " WHERE tenant_id = ?",
            (before.revision, before.metadata["updated_at"], here.settings.tenant_id),
        )
        database.execute("UPDATE tenants SET last_seq = last_seq + 1")
    report = here.pull()
    assert report.full, "a lower revision asks for a full pass"
    record = here.record(ref)
    assert (record.status, record.revision) == (Status.PENDING_REVIEW, before.revision)


def test_another_home_sends_it_after_a_day_where_it_has_the_content(machines, reference):
    here, there = machines
    ref = here.created_and_published()
    unfetched = here.created_and_published("echo two", version="1.0.1")
    there.pull()
    there.folders.fetch_contents(ref, {"shell/run.sh": b"#!/bin/sh\necho one\n"})
    lose(reference, there, ref, unfetched)
    report = there.pull_all()
    assert (report.absent, report.sent_again) == (2, [])
    there.skew = DAY + 10
    report = there.pull()
    assert (report.absent, report.sent_again) == (2, [ref])
    assert there.publish() == {ref: "done"}
    assert live(there) == {tuple(ref)}


def test_what_was_deleted_there_is_not_sent_again(machines):
    here, there = machines
    ref = here.created_and_published()
    there.pull()
    there.deleted(ref)
    report = here.pull_all()
    assert (report.absent, report.sent_again, report.deleted) == (0, [], [ref])
    assert here.journal.versions.wanting_publish(here.clock()) == []


def test_a_refused_cursor_makes_the_pass_a_full_one(machines, reference):
    here, _ = machines
    ref = here.created_and_published()
    here.pull()
    lose(reference, here, ref)
    here.journal.pull_state.keep_cursor("%%%")
    report = here.pull()
    assert report.full
    assert report.sent_again == [ref]


def test_a_feed_that_begins_anew_by_itself_is_noticed(machines, reference, monkeypatch):
    """A restored server may take the cursor and answer from the beginning."""
    here, there = machines
    lost = here.created_and_published()
    for number in range(3):
        there.created_and_published(f"echo {number}", playbook_id=f"p-{number}")
    here.pull()
    monkeypatch.setattr(here, "skew", 5)
    here.pull()
    lose(reference, here, lost)
    original = here.server.change_page
    monkeypatch.setattr(here.server, "change_page", lambda cursor, limit: original(None, limit))
    assert here.pull().sent_again == [lost]


def test_a_full_pass_that_finds_nothing_writes_nothing(machines, monkeypatch):
    here, there = machines
    for number in range(3):
        there.created_and_published(f"echo {number}", playbook_id=f"p-{number}")
    here.pull()
    take = here.journal.leases.take

    def nothing(kind, items):
        assert not list(items), "nothing is to be done"
        return take(kind, [])

    monkeypatch.setattr(here.journal.leases, "take", nothing)
    report = here.pull_all()
    assert report == PullReport(full=True, cursor=report.cursor)


def test_an_edit_of_an_absent_version_is_still_the_next_patch(machines, reference):
    here, _ = machines
    ref = here.created_and_published()
    lose(reference, here, ref)
    here.pull_all()
    record = here.record(ref)
    assert (record.sync_state, record.is_published) == (SyncState.PENDING, True)


def test_what_was_sent_again_in_vain_is_sent_with_a_later_full_pass(machines, reference):
    here, _ = machines
    ref = here.created_and_published()
    here.pull()
    lose(reference, here, ref)
    script = here.folder(ref) / "shell" / "run.sh"
    content = script.read_bytes()
    script.write_bytes(b"just being edited")
    assert here.pull_all().sent_again == [ref]
    assert here.publish() == {ref: "failed"}
    script.write_bytes(content)
    assert here.pull_all().sent_again == [ref]
    assert here.publish() == {ref: "done"}
    assert live(here) == {tuple(ref)}
