from __future__ import annotations

import pytest

from core.errors import UsageError
from core.models import Area, Ref, Strategy, SyncState


def test_what_is_asked_for_becomes_pending(under):
    review, kept = under.store.add("review"), under.store.add("kept", storage_strategy="local_only")
    under.journal.versions.set(
        review, sync_state=SyncState.FAILED, error="x", error_type="Y", attempts=9,
        next_attempt_at=9999999999,
    )  # fmt: skip
    plan = under.publisher.request([review, kept, Ref("gone", "1.0.0")])
    assert plan.accepted == [review]
    assert plan.left_out == {
        "kept@1.0.0": "local_only: choose with --as review or --as trusted",
        "gone@1.0.0": "not found",
    }
    record = under.store.record(review)
    assert (record.sync_state, record.publish_as) == (SyncState.PENDING, Strategy.REVIEW)
    assert (record.error, record.error_type, record.attempts) == (None, None, 0)
    assert record.next_attempt_at is None
    assert [record.ref for record in under.journal.versions.wanting_publish(under.now)] == [review]
    assert under.state(kept) is SyncState.LOCAL


def test_a_choice_publishes_what_was_private_and_is_remembered(under):
    kept = under.store.add("kept", storage_strategy="local_only")
    assert under.publisher.request([kept], Strategy.TRUSTED).accepted == [kept]
    assert under.publisher.request([kept]).accepted == [kept]
    assert under.store.record(kept).publish_as is Strategy.TRUSTED


@pytest.mark.parametrize(
    ("playbook_id", "metadata", "reason"),
    [
        ("secret", {"sensitive": True}, "sensitive"),
        ("theirs", {"storage_strategy": "using_default"}, "using_default"),
        ("escher-theirs", {}, "using_default"),
        ("drawn", {"area": Area.AI_GENERATED, "author": "ai_generated"}, "ai-generated"),
    ],
)
def test_what_never_goes_does_not_go_with_a_choice_either(under, playbook_id, metadata, reason):
    ref = under.store.add(playbook_id, **metadata)
    for refs in ([ref], None):
        plan = under.publisher.request(refs, Strategy.REVIEW)
        assert plan.accepted == []
        assert plan.left_out[str(ref)].startswith(reason)
    # and a row that came to be pending all the same is refused before anything is sent
    under.journal.versions.set(ref, sync_state=SyncState.PENDING, publish_as=Strategy.REVIEW)
    assert under.publisher.upload([ref])[ref].error_type == "Refused"
    assert under.server.reference_stats()["bytes_received"] == 0


def test_an_entry_point_that_the_server_refuses_is_refused_with_the_way_out(under):
    """Homes from before stored what was given as it was given."""
    ref = under.store.add("dotted", entry_points={"shell": "./run.sh"})
    reason = under.publisher.request([ref]).left_out[str(ref)]
    assert "'./run.sh'" in reason
    assert "escher-playbooks update dotted DIR" in reason
    under.journal.versions.set(ref, sync_state=SyncState.PENDING, publish_as=Strategy.REVIEW)
    assert under.publisher.upload([ref])[ref].error_type == "Refused"
    bare = under.store.add("bare", entry_points={"shell": "run.sh"})
    assert under.publisher.request([bare]).accepted == [bare]  # the server takes it


def test_all_means_what_is_not_published_and_says_nothing_of_the_rest(under):
    done, new = under.store.add("done"), under.store.add("new")
    under.publish(done)
    plan = under.publisher.request(None)
    assert (plan.accepted, plan.left_out) == ([new], {})
    assert under.publisher.request([done]).left_out == {"done@1.0.0": "already published"}
    assert under.state(done) is SyncState.PUBLISHED


def test_an_open_conflict_waits_for_its_decision(under):
    ref = under.store.add("both")
    under.journal.versions.set(ref, sync_state=SyncState.CONFLICT)
    assert "conflict" in under.publisher.request([ref]).left_out[str(ref)]


@pytest.mark.parametrize("as_", [Strategy.LOCAL_ONLY, Strategy.DEFAULT])
def test_a_strategy_that_uploads_nothing_is_no_choice(under, as_):
    with pytest.raises(UsageError):
        under.publisher.request(None, as_)
