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


def test_flow_two_ends_in_synced_with_the_servers_word(under):
    refs = [under.store.add(f"p{number}", b"echo %d\n" % number) for number in range(20)]
    assert set(under.publish(*refs).values()) == {"done"}
    for ref in refs:
        record = under.store.record(ref)
        assert (record.area, record.sync_state) == (Area.SYNCED, SyncState.PUBLISHED)
        assert (record.revision, record.status.value) == (1, "pending_review")
        assert record.published_digest == record.uploaded_digest == record.content_digest
        assert record.metadata["updated_at"] == record.published_at
        assert record.publish_as is None
    assert under.embedder.calls == [20]
    stats = under.server.reference_stats()
    assert (stats["versions"], stats["revisions"]) == (20, 20)


def test_a_member_who_asks_for_trusted_gets_review(under):
    ref = under.store.add("kept", storage_strategy="local_only")
    under.publisher.request([ref], Strategy.TRUSTED)
    under.run(ref)
    record = under.store.record(ref)
    assert (record.strategy, record.status.value) == (Strategy.REVIEW, "pending_review")


def test_every_step_twice_does_nothing_more(under):
    ref = under.store.add("twice")
    under.publisher.request([ref])
    for step in (under.publisher.upload, under.publisher.publish, under.publisher.settle):
        assert step([ref, ref])[ref].state is OutcomeState.DONE
        requests = under.server.reference_stats()["requests"]
        assert step([ref])[ref].state is OutcomeState.DONE
        assert under.server.reference_stats()["requests"] == requests + 1  # the question itself
    assert under.run(ref) == {ref: "done"}
    assert under.server.reference_stats()["revisions"] == 1
    assert len(under.store.moves) == 1


def test_the_order_is_in_the_rows(under):
    ref = under.store.add("early")
    steps = (under.publisher.upload, under.publisher.publish, under.publisher.settle)
    assert {step([ref])[ref].state for step in steps} == {OutcomeState.SKIPPED}
    under.publisher.request([ref])
    assert under.publisher.settle([ref])[ref].state is OutcomeState.WAITING
    assert under.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    under.publisher.upload([ref])
    under.embedder.missing.add(ref)
    assert under.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    assert under.state(ref) is SyncState.PENDING


def test_what_is_gone_is_skipped(under):
    ref = Ref("gone", "1.0.0")
    assert under.run(ref) == {ref: "skipped"}
    assert under.publisher.upload([]) == {}


def test_a_lost_answer_is_one_revision(under, reference):
    ref = under.store.add("lost")
    under.publisher.request([ref])
    under.publisher.upload([ref])
    reference.faults({"action": "lose_answer_after_commit", "path": "publish$", "count": 4})
    outcome = under.publisher.publish([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "ServerUnreachable")
    under.now += 60
    assert under.run(ref) == {ref: "done"}
    assert under.server.reference_stats()["revisions"] == 1


def test_transient_failures_are_due_later_and_later(under, reference):
    ref = under.store.add("later")
    under.publisher.request([ref])
    reference.faults(DOWN)
    for failures, seconds in enumerate([5, 10, 20], start=1):
        outcome = under.publisher.upload([ref])[ref]
        assert outcome.state is OutcomeState.DEFERRED
        assert outcome.next_attempt_at == math.ceil(under.now + seconds)
        record = under.store.record(ref)
        assert (record.sync_state, record.attempts) == (SyncState.DEFERRED, failures)
        assert record.error_type == "ServerUnreachable"
        assert under.publisher.upload([ref])[ref].state is OutcomeState.WAITING
        assert under.journal.versions.wanting_publish(under.now) == []
        under.now = outcome.next_attempt_at
        assert [due.ref for due in under.journal.versions.wanting_publish(under.now)] == [ref]
    reference.faults()
    assert under.run(ref) == {ref: "done"}
    record = under.store.record(ref)
    assert (record.attempts, record.error, record.next_attempt_at) == (0, None, None)


def test_the_servers_patience_counts_up_to_an_hour(under, reference):
    ref = under.store.add("busy")
    under.publisher.request([ref])
    for asked, waits in ((300, 300), (86400, 3600)):
        reference.faults({"action": "status", "status": 503, "retry_after": asked, "count": 4})
        outcome = under.publisher.upload([ref])[ref]
        assert outcome.next_attempt_at == math.ceil(under.now + waits)
        under.now = outcome.next_attempt_at


def test_what_was_put_off_while_the_clock_was_years_ahead_goes_out_when_it_is_right(
    under, reference
):
    ref = under.store.add("ahead")
    under.publisher.request([ref])
    under.now += 10 * 365 * 86400
    reference.faults(DOWN)
    assert under.publisher.upload([ref])[ref].state is OutcomeState.DEFERRED
    reference.faults()
    under.now -= 10 * 365 * 86400
    assert [due.ref for due in under.journal.versions.wanting_publish(under.now)] == [ref]
    assert under.run(ref) == {ref: "done"}


def test_one_bad_item_never_holds_back_its_batch(under, reference):
    refs = [under.store.add(f"p{number}", b"echo %d\n" % number) for number in range(12)]
    bad, odd, worse = refs[3], refs[5], refs[7]
    under.publisher.request(refs)
    under.store.broken[bad] = IntegrityError(f"{bad} is not what it was")
    under.store.contents[odd] = None  # a mistake of ours: a TypeError
    outcomes = under.publisher.upload(refs)
    assert outcomes[bad].error_type == "IntegrityError"
    assert outcomes[odd].error_type == "TypeError"
    assert "12" not in (outcomes[odd].error or "")[:20]
    reference.faults({"action": "status", "status": 410, "path": "publish$"})
    under.publisher.publish(refs[7:8])
    under.publisher.publish(refs)
    under.store.broken[refs[9]] = IntegrityError("no move")
    outcomes = under.publisher.settle(refs)
    failed = {ref for ref, outcome in outcomes.items() if outcome.state is OutcomeState.FAILED}
    assert failed == {bad, odd, worse, refs[9]}
    assert under.state(refs[0]) is SyncState.PUBLISHED
    assert under.store.record(worse).error_type == "ServerRejected"
    # what was committed and only failed to move settles when asked again
    under.store.broken.clear()
    assert under.publish(refs[9]) == {refs[9]: "done"}
    assert under.server.reference_stats()["revisions"] == 9


def test_when_nothing_answers_the_rest_of_the_batch_is_not_tried(under):
    under.publisher._threads = 2
    refs = [under.store.add(f"p{number}") for number in range(40)]
    under.publisher.request(refs)
    asked: list[Ref] = []
    under.store.before_read = asked.append
    under.server._url = "http://127.0.0.1:9"
    outcomes = under.publisher.upload(refs)
    assert {outcome.state for outcome in outcomes.values()} == {OutcomeState.DEFERRED}
    assert len(asked) <= 4


def test_files_that_got_lost_are_uploaded_again(under, reference):
    ref = under.store.add("lost-files")
    under.publisher.request([ref])
    under.publisher.upload([ref])
    reference.faults({"action": "status", "status": 424, "path": "publish$"})
    outcome = under.publisher.publish([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "FilesMissing")
    assert under.store.record(ref).uploaded_digest is None
    under.now += 10
    assert under.run(ref) == {ref: "done"}


def test_a_sign_in_page_defers_and_says_what_to_check(under, reference):
    ref = under.store.add("hotel")
    under.publisher.request([ref])
    reference.faults({"action": "html", **FOREVER})
    outcome = under.publisher.upload([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "NotEscherServer")
    assert "server_url" in (outcome.error or "")


# -- what others do meanwhile ---------------------------------------------------------------------
def test_a_leased_version_waits(under):
    ref = under.store.add("leased")
    under.publisher.request([ref])
    with under.journal.leases.holding(VERSION, [ref]):
        assert under.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert under.publisher.upload([ref])[ref].state is OutcomeState.DONE
    assert under.journal.leases.take(VERSION, [ref])  # and it was given back


def test_a_lost_lease_writes_nothing(under):
    ref = under.store.add("slow")
    under.publisher.request([ref])

    def lose(_: Ref) -> None:
        with under.journal.database.write() as connection:
            connection.exec_driver_sql("UPDATE leases SET token = 'another'")

    under.store.before_read = lose
    assert under.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert under.store.record(ref).uploaded_digest is None


def test_an_edit_during_the_upload_is_not_taken_for_it(under):
    ref = under.store.add("edited")
    under.publisher.request([ref])
    under.store.before_read = lambda _: under.store.edit(ref, b"echo edited\n")
    assert under.publisher.upload([ref])[ref].state is OutcomeState.WAITING
    assert under.state(ref) is SyncState.PENDING
    under.store.before_read = lambda _: None
    assert under.run(ref) == {ref: "done"}


def test_an_edit_after_the_commit_stays_pending(under):
    ref = under.store.add("edited")
    under.publisher.request([ref])
    under.publisher.upload([ref])
    under.publisher.publish([ref])
    under.store.edit(ref, b"echo edited\n")
    assert under.publisher.settle([ref])[ref].state is OutcomeState.WAITING
    assert under.state(ref) is SyncState.PENDING
    assert under.store.moves == []


@pytest.mark.parametrize("refused", [False, True])
def test_an_edit_during_the_commit_is_neither_failed_nor_settled(under, reference, refused):
    ref = under.store.add("edited")
    under.publisher.request([ref])
    under.publisher.upload([ref])
    under.embedder.before = lambda: under.store.edit(ref, b"echo edited\n")
    if refused:
        reference.faults({"action": "status", "status": 410, "path": "publish$"})
    assert under.publisher.publish([ref])[ref].state is OutcomeState.WAITING
    record = under.store.record(ref)
    assert (record.sync_state, record.error) == (SyncState.PENDING, None)
    assert record.revision == (None if refused else 1)  # what the server did is kept all the same
    assert record.published_digest != record.content_digest


def test_files_that_do_not_make_the_digest_are_not_sent(under):
    ref = under.store.add("tampered")
    under.publisher.request([ref])
    under.store.contents[ref] = {"shell/run.sh": b"rm -rf /\n"}
    assert under.publisher.upload([ref])[ref].error_type == "IntegrityError"
    assert under.server.reference_stats()["objects"] == 0


def test_two_publishers_at_once_make_one_revision_each(under):
    refs = [under.store.add(f"p{number}", b"echo %d\n" % number) for number in range(10)]
    under.publisher.request(refs)
    threads = [threading.Thread(target=under.run, args=refs) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    under.run(*refs)
    assert {under.state(ref) for ref in refs} == {SyncState.PUBLISHED}
    assert under.server.reference_stats()["revisions"] == 10


# -- conflicts ------------------------------------------------------------------------------------
def publish_elsewhere(under, ref: Ref, script: bytes, server) -> None:
    """Another machine publishes the same id and version with ``script``."""
    metadata = {**under.store.record(ref).metadata, "storage_strategy": "uploaded_for_review"}
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


def test_the_same_content_is_no_conflict(under, tmp_path):
    ref = under.store.add("same", b"echo same\n")
    publish_elsewhere(under, ref, b"echo same\n", under.another_machine(tmp_path))
    assert under.publish(ref) == {ref: "done"}
    record = under.store.record(ref)
    assert (record.sync_state, record.revision) == (SyncState.PUBLISHED, 1)
    assert under.server.reference_stats()["revisions"] == 1


def test_other_content_is_an_open_conflict_and_nothing_is_overwritten(under, tmp_path):
    ref = under.store.add("both", b"echo mine\n")
    publish_elsewhere(under, ref, b"echo theirs\n", under.another_machine(tmp_path))
    assert under.publish(ref) == {ref: "failed"}
    record = under.store.record(ref)
    assert (record.sync_state, record.error_type) == (SyncState.CONFLICT, "Conflict")
    assert "already holds both@1.0.0 with other content" in (record.error or "")
    assert under.store.contents[ref] == {"shell/run.sh": b"echo mine\n"}
    assert under.journal.versions.wanting_publish(under.now + 1e6) == []


# -- the gate -------------------------------------------------------------------------------------
LEAK = b"export AWS_ACCESS_KEY_ID=" + b"AKIA" + b"Q3EGZ7XN5LWTM2RB\n"


def wish(under, ref, gate):
    """As a caller with this setting asks for it."""
    return under.publisher.request([ref], gate=gate)


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
def test_the_stricter_of_the_callers_and_the_workers_gate_counts(under, callers, workers, passes):
    ref = under.store.add("leaky", LEAK)
    under.settings.secrets_gate = "off"
    wish(under, ref, callers)
    under.journal.versions.set(ref, publish_as=Strategy.REVIEW, publish_gate=callers,
                              sync_state=SyncState.PENDING)  # fmt: skip
    under.settings.secrets_gate = workers
    outcome = under.publisher.upload([ref])[ref]
    assert outcome.state is (OutcomeState.DONE if passes else OutcomeState.FAILED)
    assert bool(under.server.reference_stats()["bytes_received"]) == passes
    if not passes:
        record = under.store.record(ref)
        assert (record.sync_state, record.error_type) == (SyncState.FAILED, "Refused")
        assert "shell/run.sh:1: AWS Access Key (certain" in (record.error or "")
        assert "AKIA" not in (record.error or "")


@pytest.mark.parametrize("gate", ["off", "warn", "block"])
def test_findings_are_told_before_anything_is_marked(under, gate):
    ref, clean = under.store.add("leaky", LEAK), under.store.add("clean")
    under.settings.secrets_gate = "warn"
    told = []

    def listen(found):
        told.append({ref: [f.as_json() for f in every] for ref, every in found.items()})
        assert under.state(ref) is SyncState.LOCAL

    plan = under.publisher.request([ref, clean], gate=gate, on_findings=listen)
    assert clean in plan.accepted
    assert (ref in plan.accepted) == (gate != "block")
    [found] = told
    [finding] = found[ref]
    assert {name: finding[name] for name in ("path", "line", "kind", "degree")} == {
        "path": "shell/run.sh", "line": 1, "kind": "AWS Access Key", "degree": "certain",
    }  # fmt: skip
    if gate == "block":
        assert "AWS Access Key" in plan.left_out[str(ref)]
        assert under.state(ref) is SyncState.LOCAL


def test_a_stricter_asker_stops_what_a_laxer_one_had_asked_for(under):
    under.settings.secrets_gate = "warn"
    ref = under.store.add("leaky", LEAK)
    wish(under, ref, "warn")
    assert str(ref) in wish(under, ref, "block").left_out
    assert under.state(ref) is SyncState.FAILED
    assert under.publisher.upload([ref])[ref].state is not OutcomeState.DONE
    assert wish(under, ref, "warn").accepted == [ref]  # a new wish of his own
    assert under.publisher.upload([ref])[ref].state is OutcomeState.DONE


def test_nobody_laxer_loosens_an_open_wish(under):
    ref = under.store.add("clean")
    wish(under, ref, "block")
    wish(under, ref, "off")
    under.publisher.request([ref])
    assert under.store.record(ref).publish_gate == "block"
    under.publisher.tighten([ref], "warn")
    assert under.store.record(ref).publish_gate == "block"
    under.run(ref)
    assert (under.state(ref), under.store.record(ref).publish_gate) == (SyncState.PUBLISHED, None)


def test_somebody_stricter_tightens_what_waits(under):
    under.settings.secrets_gate = "warn"
    ref, private = under.store.add("leaky", LEAK), under.store.add("private", LEAK)
    wish(under, ref, "warn")
    under.publisher.tighten([ref, private], "block")
    assert under.store.record(ref).publish_gate == "block"
    assert under.store.record(private).publish_gate is None
    assert under.publisher.upload([ref])[ref].state is OutcomeState.FAILED


def test_an_accepted_finding_passes_until_its_file_changes(under):
    ref = under.store.add("leaky", LEAK)
    under.settings.secrets_gate = "block"
    [finding] = under.publisher.findings([under.store.record(ref)])[ref]
    with pytest.raises(NotFound, match="no finding"):
        under.publisher.accept_findings([ref], {finding.key: "docs", "0" * 16: "?"}, "me")
    with pytest.raises(UsageError, match="reason"):
        under.publisher.accept_findings([ref], {finding.key: " "}, "me")
    assert str(ref) in under.publisher.request([ref]).left_out
    under.publisher.accept_findings([ref], {finding.key: "AWS's own example"}, "me")
    [accepted] = under.publisher.findings([under.store.record(ref)])[ref]
    assert (accepted.key, accepted.accepted.by, accepted.accepted.reason) == (
        finding.key, "me", "AWS's own example",
    )  # fmt: skip
    assert under.publish(ref) == {ref: "done"}
    other = under.store.add("other", LEAK + b"# changed\n")
    assert str(other) in under.publisher.request([other]).left_out
    same = under.store.add("same", LEAK)
    assert under.publisher.request([same]).accepted == [same]


def test_findings_of_earlier_versions_of_the_service_leave_the_warnings(under):
    under.settings.secrets_gate = "warn"
    ref = under.store.add("leaky", LEAK)
    under.journal.versions.set(ref, warnings=("kept", "may hold a secret: old:1 gone"))
    under.publish(ref)
    assert under.store.record(ref).warnings == ("kept",)


# -- deleting -------------------------------------------------------------------------------------
def test_deleting_asks_the_server_first(under, reference):
    published, private = under.store.add("published"), under.store.add("private")
    under.publish(published)
    assert under.publisher.delete([published])[published].state is OutcomeState.SKIPPED
    assert under.publisher.request_delete([published, private]) == [published]
    assert under.journal.versions.wanting_publish(under.now) == []
    assert [record.ref for record in under.journal.versions.wanting_delete(under.now)] == [
        published
    ]
    assert under.run(published) == {published: "skipped"}
    assert "deleted" in under.publisher.request([published]).left_out[str(published)]
    reference.faults(DOWN)
    assert under.publisher.delete([published])[published].state is OutcomeState.DEFERRED
    assert under.journal.versions.wanting_delete(under.now) == []
    assert published in under.store.contents
    reference.faults()
    under.now += 60
    assert under.publisher.delete([published])[published].state is OutcomeState.DONE
    assert under.journal.versions.get(published) is None
    assert under.publisher.delete([published])[published].state is OutcomeState.DONE
    assert under.server.reference_stats()["versions"] == 0


def test_a_deletion_that_the_disk_refuses_is_asked_again(under):
    good, bad = under.store.add("good"), under.store.add("bad")
    under.publish(good, bad)
    under.publisher.request_delete([good, bad])
    under.store.broken[bad] = EscherError("stuck")
    outcomes = under.publisher.delete([good, bad])
    assert outcomes[good].state is OutcomeState.DONE
    assert outcomes[bad].state is OutcomeState.DEFERRED
    under.store.broken.clear()
    under.now += 60
    assert under.publisher.delete([bad])[bad].state is OutcomeState.DONE


def test_a_change_there_wins_over_a_deletion_here(under, reference):
    from escher_server.tenants import ensure_tenant

    ref = under.store.add("approved")
    under.publish(ref)
    ensure_tenant(reference.data_dir, under.settings.tenant_id, "reviewer", "REVIEWER-2")
    from core.models import Status
    from core.server.client import EscherServer

    token = type(under.settings.server_token)("REVIEWER-2")
    reviewer = EscherServer(under.settings.model_copy(update={"server_token": token}))
    reviewer.set_status(ref, Status.REJECTED)
    under.publisher.request_delete([ref])
    outcome = under.publisher.delete([ref])[ref]
    assert (outcome.state, outcome.error_type) == (OutcomeState.FAILED, "Conflict")
    record = under.store.record(ref)
    assert (record.sync_state, record.deleting, record.revision) == (SyncState.PUBLISHED, False, 2)
    assert under.publisher.delete([ref])[ref].state is OutcomeState.SKIPPED
    under.publisher.request_delete([ref])
    assert under.publisher.delete([ref])[ref].state is OutcomeState.DONE


def test_deleting_after_a_lost_answer_leaves_nothing_there(under):
    ref = under.store.add("lost")
    under.publisher.request([ref])
    under.publisher.upload([ref])
    under.publisher.publish([ref])
    under.journal.versions.set(ref, revision=None, published_digest=None)
    assert under.publisher.request_delete([ref]) == [ref]
    assert under.publisher.delete([ref])[ref].state is OutcomeState.DONE
    assert under.server.reference_stats()["versions"] == 0


def test_deleting_an_open_conflict_leaves_theirs_alone(under, tmp_path):
    ref = under.store.add("both", b"echo mine\n")
    publish_elsewhere(under, ref, b"echo theirs\n", under.another_machine(tmp_path))
    under.publish(ref)
    under.publisher.request_delete([ref])
    assert under.publisher.delete([ref])[ref].state is OutcomeState.DONE
    assert under.server.reference_stats()["versions"] == 1


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
def test_no_script_token_or_signature_in_rows_outcomes_and_logs(under, reference, caplog, fault):
    caplog.set_level("DEBUG")
    ref = under.store.add("canary", CANARY + os.urandom(8).hex().encode())
    under.publisher.request([ref])
    reference.faults({**fault, **FOREVER})
    outcome = under.publisher.upload([ref])[ref]
    assert outcome.error
    said = f"{outcome} {dataclasses.asdict(under.store.record(ref))} {caplog.text}"
    for secret in ("CANARY", "signature", "Bearer"):
        assert secret not in said
