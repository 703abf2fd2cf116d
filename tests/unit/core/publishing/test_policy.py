from __future__ import annotations

import pytest

from core.errors import UsageError
from core.models import Area, Ref, Strategy, SyncState


def test_what_is_asked_for_becomes_pending(desk):
    review, kept = desk.shelf.add("review"), desk.shelf.add("kept", storage_strategy="local_only")
    desk.journal.versions.set(
        review, sync_state=SyncState.FAILED, error="x", error_type="Y", attempts=9,
        next_attempt_at=9999999999,
    )  # fmt: skip
    plan = desk.publisher.request([review, kept, Ref("gone", "1.0.0")])
    assert plan.accepted == [review]
    assert plan.left_out == {
        "kept@1.0.0": "local_only: choose with --as review or --as trusted",
        "gone@1.0.0": "not found",
    }
    record = desk.shelf.record(review)
    assert (record.sync_state, record.publish_as) == (SyncState.PENDING, Strategy.REVIEW)
    assert (record.error, record.error_type, record.attempts) == (None, None, 0)
    assert record.next_attempt_at is None
    assert [record.ref for record in desk.journal.versions.wanting_publish(desk.now)] == [review]
    assert desk.state(kept) is SyncState.LOCAL


def test_a_choice_publishes_what_was_private_and_is_remembered(desk):
    kept = desk.shelf.add("kept", storage_strategy="local_only")
    assert desk.publisher.request([kept], Strategy.TRUSTED).accepted == [kept]
    assert desk.publisher.request([kept]).accepted == [kept]
    assert desk.shelf.record(kept).publish_as is Strategy.TRUSTED


@pytest.mark.parametrize(
    ("playbook_id", "metadata", "reason"),
    [
        ("secret", {"sensitive": True}, "sensitive"),
        ("theirs", {"storage_strategy": "using_default"}, "using_default"),
        ("escher-theirs", {}, "using_default"),
        ("drawn", {"area": Area.AI_GENERATED, "author": "ai_generated"}, "ai-generated"),
    ],
)
def test_what_never_goes_does_not_go_with_a_choice_either(desk, playbook_id, metadata, reason):
    ref = desk.shelf.add(playbook_id, **metadata)
    for refs in ([ref], None):
        plan = desk.publisher.request(refs, Strategy.REVIEW)
        assert plan.accepted == []
        assert plan.left_out[str(ref)].startswith(reason)
    # and a row that came to be pending all the same is refused before anything is sent
    desk.journal.versions.set(ref, sync_state=SyncState.PENDING, publish_as=Strategy.REVIEW)
    assert desk.publisher.upload([ref])[ref].error_type == "Refused"
    assert desk.server.reference_stats()["bytes_received"] == 0


def test_all_means_what_is_not_published_and_says_nothing_of_the_rest(desk):
    done, new = desk.shelf.add("done"), desk.shelf.add("new")
    desk.publish(done)
    plan = desk.publisher.request(None)
    assert (plan.accepted, plan.left_out) == ([new], {})
    assert desk.publisher.request([done]).left_out == {"done@1.0.0": "already published"}
    assert desk.state(done) is SyncState.PUBLISHED


def test_an_open_conflict_waits_for_its_decision(desk):
    ref = desk.shelf.add("both")
    desk.journal.versions.set(ref, sync_state=SyncState.CONFLICT)
    assert "conflict" in desk.publisher.request([ref]).left_out[str(ref)]


@pytest.mark.parametrize("as_", [Strategy.LOCAL_ONLY, Strategy.DEFAULT])
def test_a_strategy_that_uploads_nothing_is_no_choice(desk, as_):
    with pytest.raises(UsageError):
        desk.publisher.request(None, as_)
