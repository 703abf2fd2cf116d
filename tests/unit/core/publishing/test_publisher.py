from __future__ import annotations

import dataclasses
import math
import os
import threading

import pytest

from core.errors import EscherError, IntegrityError, NotFound, UsageError
from core.files import sha256_bytes
from core.journal.leases import VERSION
from core.models import Area, FileEntry, OutcomeState, Ref, Strategy, SyncState, content_digest

CANARY = b"echo CANARY-SCRIPT\n"
FOREVER = {"count": None}
DOWN = {"action": "reset", **FOREVER}


def test_flow_two_ends_in_synced_with_the_servers_word(desk):
    refs = [desk.shelf.add(f"p{number}", b"echo %d\n" % number) for number in range(20)]
    assert set(desk.publish(*refs).values()) == {"done"}
    for ref in refs:
        record = desk.shelf.record(ref)
        assert (record.area, record.sync_state) == (Area.SYNCED, SyncState.PUBLISHED)
        assert (record.revision, record.status.value) == (1, "pending_review")
        assert record.published_digest == record.uploaded_digest == record.content_digest
        assert record.metadata["updated_at"] == record.published_at
        assert record.publish_as is None
    assert desk.embedder.calls == [20]
    stats = desk.server.reference_stats()
    assert (stats["versions"], stats["revisions"]) == (20, 20)


def test_a_member_who_asks_for_trusted_gets_review(desk):
    ref = desk.shelf.add("kept", storage_strategy="local_only")
    desk.publisher.request([ref], Strategy.TRUSTED)
    desk.run(ref)
    record = desk.shelf.record(ref)
    assert (record.strategy, record.status.value) == (Strategy.REVIEW, "pending_review")


def test_every_step_twice_does_nothing_more(desk):
    ref = desk.shelf.add("twice")
    desk.publisher.request([ref])
    for step in (desk.publisher.upload, desk.publisher.publish, desk.publisher.settle):
        assert step([ref, ref])[ref].state is OutcomeState.DONE
        requests = desk.server.reference_stats()["requests"]
        assert step([ref])[ref].state is OutcomeState.DONE
        assert desk.server.reference_stats()["requests"] == requests + 1  # the question itself
    assert desk.run(ref) == {ref: "done"}
    assert desk.server.reference_stats()["revisions"] == 1
    assert len(desk.shelf.moves) == 1


def test_the_order_is_in_the_rows(desk):
    ref = desk.shelf.add("early")
    steps = (desk.publisher.upload, desk.publisher.publish, desk.publisher.settle)
    assert {step([ref])[ref].state for step in steps} == {OutcomeState.SKIPPED}
    desk.publisher.request([ref])
    assert desk.publisher.settle([ref])[ref].state is OutcomeState.WAITING
    assert desk.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    desk.publisher.upload([ref])
    desk.embedder.missing.add(ref)
    assert desk.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    assert desk.state(ref) is SyncState.PENDING


def test_what_is_gone_is_skipped(desk):
    ref = Ref("gone", "1.0.0")
    assert desk.run(ref) == {ref: "skipped"}
    assert desk.publisher.upload([]) == {}


def test_a_lost_answer_is_one_revision(desk, reference):
    ref = desk.shelf.add("lost")
    desk.publisher.request([ref])
    desk.publisher.upload([ref])
    reference.faults({"action": "lose_answer_after_commit", "path": "publish$", "count": 4})
    outcome = desk.publisher.publish([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "ServerUnreachable")
    desk.now += 60
    assert desk.run(ref) == {ref: "done"}
    assert desk.server.reference_stats()["revisions"] == 1


def test_transient_failures_are_due_later_and_later(desk, reference):
    ref = desk.shelf.add("later")
    desk.publisher.request([ref])
    reference.faults(DOWN)
    for failures, seconds in enumerate([5, 10, 20], start=1):
        outcome = desk.publisher.upload([ref])[ref]
        assert outcome.state is OutcomeState.DEFERRED
        assert outcome.next_attempt_at == math.ceil(desk.now + seconds)
        record = desk.shelf.record(ref)
        assert (record.sync_state, record.attempts) == (SyncState.DEFERRED, failures)
        assert record.error_type == "ServerUnreachable"
        assert desk.publisher.upload([ref])[ref].state is OutcomeState.WAITING
        assert desk.journal.versions.wanting_publish(desk.now) == []
        desk.now = outcome.next_attempt_at
        assert [due.ref for due in desk.journal.versions.wanting_publish(desk.now)] == [ref]
    reference.faults()
    assert desk.run(ref) == {ref: "done"}
    record = desk.shelf.record(ref)
    assert (record.attempts, record.error, record.next_attempt_at) == (0, None, None)


def test_the_servers_patience_counts_up_to_an_hour(desk, reference):
    ref = desk.shelf.add("busy")
    desk.publisher.request([ref])
    for asked, waits in ((300, 300), (86400, 3600)):
        reference.faults({"action": "status", "status": 503, "retry_after": asked, "count": 4})
        outcome = desk.publisher.upload([ref])[ref]
        assert outcome.next_attempt_at == math.ceil(desk.now + waits)
        desk.now = outcome.next_attempt_at


def test_what_was_put_off_while_the_clock_was_years_ahead_goes_out_when_it_is_right(
    desk, reference
):
    ref = desk.shelf.add("ahead")
    desk.publisher.request([ref])
    desk.now += 10 * 365 * 86400
    reference.faults(DOWN)
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.DEFERRED
    reference.faults()
    desk.now -= 10 * 365 * 86400
    assert [due.ref for due in desk.journal.versions.wanting_publish(desk.now)] == [ref]
    assert desk.run(ref) == {ref: "done"}


def test_one_bad_item_never_holds_back_its_batch(desk, reference):
    refs = [desk.shelf.add(f"p{number}", b"echo %d\n" % number) for number in range(12)]
    bad, odd, worse = refs[3], refs[5], refs[7]
    desk.publisher.request(refs)
    desk.shelf.broken[bad] = IntegrityError(f"{bad} is not what it was")
    desk.shelf.contents[odd] = None  # a mistake of ours: a TypeError
    outcomes = desk.publisher.upload(refs)
    assert outcomes[bad].error_type == "IntegrityError"
    assert outcomes[odd].error_type == "TypeError"
    assert "12" not in (outcomes[odd].error or "")[:20]
    reference.faults({"action": "status", "status": 410, "path": "publish$"})
    desk.publisher.publish(refs[7:8])
    desk.publisher.publish(refs)
    desk.shelf.broken[refs[9]] = IntegrityError("no move")
    outcomes = desk.publisher.settle(refs)
    failed = {ref for ref, outcome in outcomes.items() if outcome.state is OutcomeState.FAILED}
    assert failed == {bad, odd, worse, refs[9]}
    assert desk.state(refs[0]) is SyncState.PUBLISHED
    assert desk.shelf.record(worse).error_type == "ServerRejected"
    # what was committed and only failed to move settles when asked again
    desk.shelf.broken.clear()
    assert desk.publish(refs[9]) == {refs[9]: "done"}
    assert desk.server.reference_stats()["revisions"] == 9


def test_when_nothing_answers_the_rest_of_the_batch_is_not_tried(desk):
    desk.publisher._threads = 2
    refs = [desk.shelf.add(f"p{number}") for number in range(40)]
    desk.publisher.request(refs)
    asked: list[Ref] = []
    desk.shelf.before_read = asked.append
    desk.server._url = "http://127.0.0.1:9"
    outcomes = desk.publisher.upload(refs)
    assert {outcome.state for outcome in outcomes.values()} == {OutcomeState.DEFERRED}
    assert len(asked) <= 4


def test_files_that_got_lost_are_uploaded_again(desk, reference):
    ref = desk.shelf.add("lost-files")
    desk.publisher.request([ref])
    desk.publisher.upload([ref])
    reference.faults({"action": "status", "status": 424, "path": "publish$"})
    outcome = desk.publisher.publish([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "FilesMissing")
    assert desk.shelf.record(ref).uploaded_digest is None
    desk.now += 10
    assert desk.run(ref) == {ref: "done"}


def test_a_sign_in_page_defers_and_says_what_to_check(desk, reference):
    ref = desk.shelf.add("hotel")
    desk.publisher.request([ref])
    reference.faults({"action": "html", **FOREVER})
    outcome = desk.publisher.upload([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "NotEscherServer")
    assert "server_url" in (outcome.error or "")


# -- what others do meanwhile ---------------------------------------------------------------------
def test_a_leased_version_waits(desk):
    ref = desk.shelf.add("leased")
    desk.publisher.request([ref])
    with desk.journal.leases.holding(VERSION, [ref]):
        assert desk.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.DONE
    assert desk.journal.leases.take(VERSION, [ref])  # and it was given back


def test_a_lost_lease_writes_nothing(desk):
    ref = desk.shelf.add("slow")
    desk.publisher.request([ref])

    def lose(_: Ref) -> None:
        with desk.journal.database.write() as connection:
            connection.exec_driver_sql("UPDATE leases SET token = 'another'")

    desk.shelf.before_read = lose
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert desk.shelf.record(ref).uploaded_digest is None


def test_an_edit_during_the_upload_is_not_taken_for_it(desk):
    ref = desk.shelf.add("edited")
    desk.publisher.request([ref])
    desk.shelf.before_read = lambda _: desk.shelf.edit(ref, b"echo edited\n")
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert desk.state(ref) is SyncState.PENDING
    desk.shelf.before_read = lambda _: None
    assert desk.run(ref) == {ref: "done"}


def test_an_edit_after_the_commit_stays_pending(desk):
    ref = desk.shelf.add("edited")
    desk.publisher.request([ref])
    desk.publisher.upload([ref])
    desk.publisher.publish([ref])
    desk.shelf.edit(ref, b"echo edited\n")
    assert desk.publisher.settle([ref])[ref].state is OutcomeState.WAITING
    assert desk.state(ref) is SyncState.PENDING
    assert desk.shelf.moves == []


@pytest.mark.parametrize("refused", [False, True])
def test_an_edit_during_the_commit_is_neither_failed_nor_settled(desk, reference, refused):
    ref = desk.shelf.add("edited")
    desk.publisher.request([ref])
    desk.publisher.upload([ref])
    desk.embedder.before = lambda: desk.shelf.edit(ref, b"echo edited\n")
    if refused:
        reference.faults({"action": "status", "status": 410, "path": "publish$"})
    assert desk.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    record = desk.shelf.record(ref)
    assert (record.sync_state, record.error) == (SyncState.PENDING, None)
    assert record.revision == (None if refused else 1)  # what the server did is kept all the same
    assert record.published_digest != record.content_digest


def test_files_that_do_not_make_the_digest_are_not_sent(desk):
    ref = desk.shelf.add("tampered")
    desk.publisher.request([ref])
    desk.shelf.contents[ref] = {"shell/run.sh": b"rm -rf /\n"}
    assert desk.publisher.upload([ref])[ref].error_type == "IntegrityError"
    assert desk.server.reference_stats()["objects"] == 0


def test_two_publishers_at_once_make_one_revision_each(desk):
    refs = [desk.shelf.add(f"p{number}", b"echo %d\n" % number) for number in range(10)]
    desk.publisher.request(refs)
    threads = [threading.Thread(target=desk.run, args=refs) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    desk.run(*refs)
    assert {desk.state(ref) for ref in refs} == {SyncState.PUBLISHED}
    assert desk.server.reference_stats()["revisions"] == 10


# -- conflicts ------------------------------------------------------------------------------------
def publish_elsewhere(desk, ref: Ref, script: bytes, server) -> None:
    """Another machine publishes the same id and version with ``script``."""
    metadata = {**desk.shelf.record(ref).metadata, "storage_strategy": "uploaded_for_review"}
    entry = FileEntry("shell/run.sh", len(script), sha256_bytes(script))
    server.publish(
        ref,
        metadata=metadata,
        vector=[0.2] * 384,
        embedding_model="m",
        content_digest=content_digest(metadata, [entry]),
        s3_paths=server.upload(ref, {"shell/run.sh": script}),
        base_revision=None,
    )


def test_the_same_content_is_no_conflict(desk, tmp_path):
    ref = desk.shelf.add("same", b"echo same\n")
    publish_elsewhere(desk, ref, b"echo same\n", desk.another_machine(tmp_path))
    assert desk.publish(ref) == {ref: "done"}
    record = desk.shelf.record(ref)
    assert (record.sync_state, record.revision) == (SyncState.PUBLISHED, 1)
    assert desk.server.reference_stats()["revisions"] == 1


def test_other_content_is_an_open_conflict_and_nothing_is_overwritten(desk, tmp_path):
    ref = desk.shelf.add("both", b"echo mine\n")
    publish_elsewhere(desk, ref, b"echo theirs\n", desk.another_machine(tmp_path))
    assert desk.publish(ref) == {ref: "failed"}
    record = desk.shelf.record(ref)
    assert (record.sync_state, record.error_type) == (SyncState.CONFLICT, "Conflict")
    assert "already holds both@1.0.0 with other content" in (record.error or "")
    assert desk.shelf.contents[ref] == {"shell/run.sh": b"echo mine\n"}
    assert desk.journal.versions.wanting_publish(desk.now + 1e6) == []


# -- the gate -------------------------------------------------------------------------------------
LEAK = b"export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLQ\n"


def wish(desk, ref, gate):
    """As a caller with this setting asks for it."""
    return desk.publisher.request([ref], gate=gate)


@pytest.mark.parametrize(
    ("callers", "workers", "passes"),
    [
        ("off", "off", True),
        ("off", "warn", True),
        ("warn", "warn", True),
        ("off", "block", False),
        ("warn", "block", False),
        ("block", "off", False),
        ("block", "warn", False),
    ],
)
def test_the_stricter_of_the_callers_and_the_workers_gate_counts(desk, callers, workers, passes):
    ref = desk.shelf.add("leaky", LEAK)
    desk.settings.secrets_gate = "off"
    wish(desk, ref, callers)
    desk.journal.versions.set(ref, publish_as=Strategy.REVIEW, publish_gate=callers,
                              sync_state=SyncState.PENDING)  # fmt: skip
    desk.settings.secrets_gate = workers
    outcome = desk.publisher.upload([ref])[ref]
    assert outcome.state is (OutcomeState.DONE if passes else OutcomeState.FAILED)
    assert bool(desk.server.reference_stats()["bytes_received"]) == passes
    if not passes:
        record = desk.shelf.record(ref)
        assert (record.sync_state, record.error_type) == (SyncState.FAILED, "Refused")
        assert "shell/run.sh:1: AWS Access Key (certain" in (record.error or "")
        assert "AKIA" not in (record.error or "")


@pytest.mark.parametrize("gate", ["off", "warn", "block"])
def test_findings_are_told_before_anything_is_marked(desk, gate):
    ref, clean = desk.shelf.add("leaky", LEAK), desk.shelf.add("clean")
    told = []

    def listen(found):
        told.append({ref: [f.as_json() for f in every] for ref, every in found.items()})
        assert desk.state(ref) is SyncState.LOCAL

    plan = desk.publisher.request([ref, clean], gate=gate, on_findings=listen)
    assert clean in plan.accepted
    assert (ref in plan.accepted) == (gate != "block")
    [found] = told
    [finding] = found[ref]
    assert {name: finding[name] for name in ("path", "line", "kind", "degree")} == {
        "path": "shell/run.sh", "line": 1, "kind": "AWS Access Key", "degree": "certain",
    }  # fmt: skip
    if gate == "block":
        assert "AWS Access Key" in plan.left_out[str(ref)]
        assert desk.state(ref) is SyncState.LOCAL


def test_a_stricter_asker_stops_what_a_laxer_one_had_asked_for(desk):
    ref = desk.shelf.add("leaky", LEAK)
    wish(desk, ref, "warn")
    assert str(ref) in wish(desk, ref, "block").left_out
    assert desk.state(ref) is SyncState.FAILED
    assert desk.publisher.upload([ref])[ref].state is not OutcomeState.DONE
    assert wish(desk, ref, "warn").accepted == [ref]  # a new wish of his own
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.DONE


def test_nobody_laxer_loosens_an_open_wish(desk):
    ref = desk.shelf.add("clean")
    wish(desk, ref, "block")
    wish(desk, ref, "off")
    desk.publisher.request([ref])
    assert desk.shelf.record(ref).publish_gate == "block"
    desk.publisher.tighten([ref], "warn")
    assert desk.shelf.record(ref).publish_gate == "block"
    desk.run(ref)
    assert (desk.state(ref), desk.shelf.record(ref).publish_gate) == (SyncState.PUBLISHED, None)


def test_somebody_stricter_tightens_what_waits(desk):
    ref, private = desk.shelf.add("leaky", LEAK), desk.shelf.add("private", LEAK)
    wish(desk, ref, "warn")
    desk.publisher.tighten([ref, private], "block")
    assert desk.shelf.record(ref).publish_gate == "block"
    assert desk.shelf.record(private).publish_gate is None
    assert desk.publisher.upload([ref])[ref].state is OutcomeState.FAILED


def test_an_accepted_finding_passes_until_its_file_changes(desk):
    ref = desk.shelf.add("leaky", LEAK)
    desk.settings.secrets_gate = "block"
    [finding] = desk.publisher.findings([desk.shelf.record(ref)])[ref]
    with pytest.raises(NotFound, match="no finding"):
        desk.publisher.accept_findings([ref], {finding.key: "docs", "0" * 16: "?"}, "me")
    with pytest.raises(UsageError, match="reason"):
        desk.publisher.accept_findings([ref], {finding.key: " "}, "me")
    assert str(ref) in desk.publisher.request([ref]).left_out
    desk.publisher.accept_findings([ref], {finding.key: "AWS's own example"}, "me")
    [accepted] = desk.publisher.findings([desk.shelf.record(ref)])[ref]
    assert (accepted.key, accepted.accepted.by, accepted.accepted.reason) == (
        finding.key, "me", "AWS's own example",
    )  # fmt: skip
    assert desk.publish(ref) == {ref: "done"}
    other = desk.shelf.add("other", LEAK + b"# changed\n")
    assert str(other) in desk.publisher.request([other]).left_out
    same = desk.shelf.add("same", LEAK)
    assert desk.publisher.request([same]).accepted == [same]


def test_findings_of_earlier_versions_of_the_service_leave_the_warnings(desk):
    ref = desk.shelf.add("leaky", LEAK)
    desk.journal.versions.set(ref, warnings=("kept", "may hold a secret: old:1 gone"))
    desk.publish(ref)
    assert desk.shelf.record(ref).warnings == ("kept",)


# -- deleting -------------------------------------------------------------------------------------
def test_deleting_asks_the_server_first(desk, reference):
    published, private = desk.shelf.add("published"), desk.shelf.add("private")
    desk.publish(published)
    assert desk.publisher.delete([published])[published].state is OutcomeState.SKIPPED
    assert desk.publisher.request_delete([published, private]) == [published]
    assert desk.journal.versions.wanting_publish(desk.now) == []
    assert [record.ref for record in desk.journal.versions.wanting_delete(desk.now)] == [published]
    assert desk.run(published) == {published: "skipped"}
    assert "deleted" in desk.publisher.request([published]).left_out[str(published)]
    reference.faults(DOWN)
    assert desk.publisher.delete([published])[published].state is OutcomeState.DEFERRED
    assert desk.journal.versions.wanting_delete(desk.now) == []
    assert published in desk.shelf.contents
    reference.faults()
    desk.now += 60
    assert desk.publisher.delete([published])[published].state is OutcomeState.DONE
    assert desk.journal.versions.get(published) is None
    assert desk.publisher.delete([published])[published].state is OutcomeState.DONE
    assert desk.server.reference_stats()["versions"] == 0


def test_a_deletion_that_the_disk_refuses_is_asked_again(desk):
    good, bad = desk.shelf.add("good"), desk.shelf.add("bad")
    desk.publish(good, bad)
    desk.publisher.request_delete([good, bad])
    desk.shelf.broken[bad] = EscherError("stuck")
    outcomes = desk.publisher.delete([good, bad])
    assert outcomes[good].state is OutcomeState.DONE
    assert outcomes[bad].state is OutcomeState.DEFERRED
    desk.shelf.broken.clear()
    desk.now += 60
    assert desk.publisher.delete([bad])[bad].state is OutcomeState.DONE


def test_a_change_there_wins_over_a_deletion_here(desk, reference):
    from escher_server.tenants import ensure_tenant

    ref = desk.shelf.add("approved")
    desk.publish(ref)
    ensure_tenant(reference.data_dir, desk.settings.tenant_id, "reviewer", "REVIEWER-2")
    from core.models import Status
    from core.server.client import EscherServer

    token = type(desk.settings.server_token)("REVIEWER-2")
    reviewer = EscherServer(desk.settings.model_copy(update={"server_token": token}))
    reviewer.set_status(ref, Status.REJECTED)
    desk.publisher.request_delete([ref])
    outcome = desk.publisher.delete([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.FAILED, "Conflict")
    record = desk.shelf.record(ref)
    assert (record.sync_state, record.deleting, record.revision) == (SyncState.PUBLISHED, False, 2)
    assert desk.publisher.delete([ref])[ref].state is OutcomeState.SKIPPED
    desk.publisher.request_delete([ref])
    assert desk.publisher.delete([ref])[ref].state is OutcomeState.DONE


def test_deleting_after_a_lost_answer_leaves_nothing_there(desk):
    ref = desk.shelf.add("lost")
    desk.publisher.request([ref])
    desk.publisher.upload([ref])
    desk.publisher.publish([ref])
    desk.journal.versions.set(ref, revision=None, published_digest=None)
    assert desk.publisher.request_delete([ref]) == [ref]
    assert desk.publisher.delete([ref])[ref].state is OutcomeState.DONE
    assert desk.server.reference_stats()["versions"] == 0


def test_deleting_an_open_conflict_leaves_theirs_alone(desk, tmp_path):
    ref = desk.shelf.add("both", b"echo mine\n")
    publish_elsewhere(desk, ref, b"echo theirs\n", desk.another_machine(tmp_path))
    desk.publish(ref)
    desk.publisher.request_delete([ref])
    assert desk.publisher.delete([ref])[ref].state is OutcomeState.DONE
    assert desk.server.reference_stats()["versions"] == 1


# -- nothing leaks ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "status": 400},
        {"action": "status", "status": 403},
        {"action": "expire_urls"},
        {"action": "html"},
        {"action": "reset"},
        {"action": "corrupt_request"},
        {"action": "truncate_body"},
    ],
)
def test_no_script_token_or_signature_in_rows_outcomes_and_logs(desk, reference, caplog, fault):
    caplog.set_level("DEBUG")
    ref = desk.shelf.add("canary", CANARY + os.urandom(8).hex().encode())
    desk.publisher.request([ref])
    reference.faults({**fault, **FOREVER})
    outcome = desk.publisher.upload([ref])[ref]
    assert outcome.error
    said = f"{outcome} {dataclasses.asdict(desk.shelf.record(ref))} {caplog.text}"
    for secret in ("CANARY", "signature", "Bearer"):
        assert secret not in said
