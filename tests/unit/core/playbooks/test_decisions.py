from __future__ import annotations

import pytest

from core.errors import LeaseHeld, NotFound, Refused, UsageError
from core.journal.leases import VERSION
from core.models import Area, Ref, Strategy, SyncState
from core.playbooks.decisions import Decision, decide
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")
SCRIPT = {"shell/stop.sh": b"echo stop\n"}


@pytest.fixture
def waiting(store, make_draft):
    """A store with a playbook of an AI, which asks for review by itself."""
    made = make_draft(storage_strategy="uploaded_for_review", author="ai_generated")
    store.create(made, check_scripts=False)
    return store


def standing(store) -> tuple[Area, SyncState, Strategy | None, Strategy]:
    row = store.get(REF)
    return row.area, row.sync_state, row.publish_as, row.strategy


def test_nothing_is_to_be_published_before(waiting, make_draft):
    assert standing(waiting) == (Area.AI_GENERATED, SyncState.LOCAL, None, Strategy.LOCAL_ONLY)
    assert waiting.get(REF).status == "draft"
    waiting.update("stop-rds", make_draft({"shell/stop.sh": b"echo other\n"}), check_scripts=False)
    waiting.update("stop-rds", make_draft(), "1.1.0", check_scripts=False)
    rows = waiting.journal.versions.of_playbook("stop-rds")
    assert {row.area for row in rows} == {Area.AI_GENERATED}, "what follows it waits, too"
    assert waiting.journal.versions.wanting_publish(2**40) == []


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ("keep", (Area.LOCAL, SyncState.LOCAL, None, Strategy.LOCAL_ONLY)),
        ("review", (Area.LOCAL, SyncState.PENDING, Strategy.REVIEW, Strategy.REVIEW)),
        ("trusted", (Area.LOCAL, SyncState.PENDING, Strategy.TRUSTED, Strategy.TRUSTED)),
    ],
)
def test_a_decision_moves_it_with_its_wish(waiting, decision, expected):
    digest = waiting.get(REF).content_digest
    for _ in range(2):  # the same again is harmless
        decide(waiting, REF, Decision.parse(decision))
        assert standing(waiting) == expected
        assert waiting.get(REF).content_digest == digest
        assert waiting.read(REF) == SCRIPT
        assert waiting.get(REF).status == "ready", "a draft is not found by search"
        assert verify(waiting) == []
    others = [d for d in Decision if d.value != decision]
    for other in others:
        with pytest.raises(Refused):
            decide(waiting, REF, other)
    assert standing(waiting) == expected


def test_discarded_is_gone(waiting):
    decide(waiting, REF, Decision.DISCARD)
    assert waiting.layout.areas_with(REF) == []
    assert waiting.journal.versions.get(REF) is None
    assert waiting.journal.stale_points.refs() == [REF]
    with pytest.raises(NotFound):
        decide(waiting, REF, Decision.DISCARD)


def test_only_what_an_ai_made_waits_for_a_decision(store, make_draft):
    store.create(make_draft(), check_scripts=False)
    for decision in Decision:
        with pytest.raises(Refused):
            decide(store, REF, decision)
    assert store.read(REF) == SCRIPT


def test_what_is_sensitive_is_not_published(store, make_draft):
    store.create(make_draft(author="ai_generated", sensitive=True), check_scripts=False)
    for decision in (Decision.REVIEW, Decision.TRUSTED):
        with pytest.raises(Refused, match="sensitive"):
            decide(store, REF, decision)
    decide(store, REF, Decision.KEEP)
    assert standing(store) == (Area.LOCAL, SyncState.LOCAL, None, Strategy.LOCAL_ONLY)
    assert store.read(REF) == SCRIPT


def test_one_at_a_time(waiting):
    with waiting.journal.leases.holding(VERSION, [REF]), pytest.raises(LeaseHeld):
        decide(waiting, REF, Decision.DISCARD)
    assert waiting.read(REF) == SCRIPT


def test_an_edit_that_does_not_parse_is_carried_along(waiting):
    (waiting.folder(REF) / "metadata.json").write_text("{ not yet")
    decide(waiting, REF, Decision.KEEP)
    assert standing(waiting)[0] is Area.LOCAL
    assert (waiting.folder(REF) / "metadata.json").read_text() == "{ not yet"


def test_long_names_are_understood():
    assert Decision.parse("local_only") is Decision.KEEP
    assert Decision.parse("uploaded_trusted") is Decision.TRUSTED
    with pytest.raises(UsageError):
        Decision.parse("perhaps")
