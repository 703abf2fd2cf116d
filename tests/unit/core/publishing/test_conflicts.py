from __future__ import annotations

import pytest

from core.errors import AlreadyExists, LeaseHeld, NotFound, Refused, ServerUnreachable, UsageError
from core.journal.leases import VERSION
from core.journal.pins import SERVER
from core.models import Area, Ref, Status, Strategy, SyncState
from core.publishing.conflicts import Choice

REF = Ref("stop-rds", "1.0.0")


@pytest.fixture
def at_odds(machines):
    """An open conflict here that a pull found."""
    here, there = machines
    there.created_and_published("echo theirs")
    here.create("echo ours")
    here.pull()
    assert here.state(REF)[0] is SyncState.CONFLICT
    return here, there


def test_ours_as_another_version_and_theirs_comes(at_odds):
    here, there = at_odds
    done = here.resolve(REF, as_version="2.0.0")
    ours = Ref("stop-rds", "2.0.0")
    assert (done.kept_as, done.theirs_came, done.folder) == (ours, True, None)
    assert here.script(ours) == "echo ours"
    assert here.names(REF) == ["metadata.json"]
    assert here.state(REF)[:2] == (SyncState.PUBLISHED, Area.SYNCED)
    assert here.journal.conflicts.entries() == []
    assert here.publish() == {ours: "done"}
    assert there.pull().pulled == [ours]


def test_ours_under_another_id_and_theirs_comes(at_odds):
    here, _ = at_odds
    done = here.resolve(REF, rename="stop-rds-mine")
    assert done.kept_as == Ref("stop-rds-mine", "1.0.0")
    assert here.script(done.kept_as) == "echo ours"
    assert here.record(REF).is_published
    assert done.as_json()["kept_as"] == "stop-rds-mine@1.0.0"


def test_theirs_taken_and_a_copy_of_ours_is_kept(at_odds):
    here, there = at_odds
    done = here.resolve(REF, take="theirs")
    assert here.record(REF).content_digest == there.record(REF).content_digest
    assert here.copies() == ["echo ours"]
    [kept] = here.journal.conflicts.entries()
    assert (kept.state, kept.folder) == ("kept", done.folder)
    assert kept.settled_at is not None
    assert here.journal.versions.wanting_publish(here.clock()) == []


def test_what_was_kept_private_stays_private_under_its_new_name(machines):
    here, there = machines
    there.created_and_published("echo theirs")
    here.create("echo ours", storage_strategy="local_only")
    here.pull()
    ours = here.resolve(REF, as_version="1.0.1").kept_as
    assert here.record(ours).strategy is Strategy.LOCAL_ONLY
    assert here.record(ours).sync_state is SyncState.LOCAL


def test_the_wish_to_publish_goes_with_ours(machines):
    here, there = machines
    there.created_and_published("echo theirs")
    here.create("echo ours", storage_strategy="local_only")
    here.publisher.request([REF], Strategy.REVIEW)
    here.pull()
    ours = here.resolve(REF, as_version="1.0.1").kept_as
    assert here.publish() == {ours: "done"}


def test_edits_made_while_it_waited_are_what_is_kept(at_odds):
    here, _ = at_odds
    here.edit(REF, "echo ours, better")
    ours = here.resolve(REF, as_version="1.0.1").kept_as
    assert here.script(ours) == "echo ours, better"


def test_sensitive_content_is_kept_sealed(machines):
    here, there = machines
    there.created_and_published("echo theirs")
    here.create("echo CANARY", storage_strategy="local_only", sensitive=True)
    (here.folder(REF) / "shell" / ".#run.sh").symlink_to("somebody@host.1:2")  # an editor's lock
    (here.folder(REF) / "shell" / ".venv").symlink_to("/usr")
    here.pull()
    done = here.resolve(REF, take="theirs")
    kept = list((here.settings.conflicts_path / "stop-rds").rglob("run.sh"))
    assert len(kept) == 1
    assert b"CANARY" not in kept[0].read_bytes()
    assert here.journal.conflicts.entries()[0].generation == 1
    assert done.folder == str(kept[0].parent.parent)


@pytest.mark.parametrize(
    "choice",
    [{}, {"take": "ours"}, {"take": "theirs", "rename": "x"}, {"as_version": "two"},
     {"rename": "No Such Id"}, {"rename": "../x"}],
)  # fmt: skip
def test_one_sound_choice_is_asked_for(choice):
    with pytest.raises(UsageError):
        Choice(**choice)


@pytest.mark.parametrize("choice", [{"as_version": "1.0.0"}, {"rename": "stop-rds"}])
def test_the_name_both_hold_is_no_choice(at_odds, choice):
    here, _ = at_odds
    with pytest.raises(UsageError):
        here.resolve(REF, **choice)


def test_a_name_that_is_taken_leaves_everything_as_it_was(at_odds):
    here, _ = at_odds
    here.create("echo another", version="2.0.0")
    with pytest.raises(AlreadyExists):
        here.resolve(REF, as_version="2.0.0")
    with pytest.raises(Refused):
        here.resolve(REF, rename="escher-stop")
    assert here.script(REF) == "echo ours"
    assert len(here.journal.conflicts.entries()) == 1


def test_without_an_open_conflict_there_is_nothing_to_settle(machines):
    here, _ = machines
    here.create()
    with pytest.raises(NotFound):
        here.resolve(REF, take="theirs")


def test_while_a_worker_is_at_it_it_waits(at_odds):
    here, _ = at_odds
    with here.journal.leases.holding(VERSION, [REF]), pytest.raises(LeaseHeld):
        here.resolve(REF, take="theirs")


@pytest.mark.parametrize(
    ("choice", "ours"),
    [({"as_version": "2.0.0"}, "stop-rds@2.0.0"), ({"rename": "mine"}, "mine@1.0.0")],
)
def test_offline_ours_goes_out_of_the_way_and_theirs_comes_later(at_odds, reference, choice, ours):
    here, _ = at_odds
    reference.faults({"action": "reset", "count": None})
    done = here.resolve(REF, **choice)
    assert (str(done.kept_as), done.theirs_came) == (ours, False)
    assert here.journal.conflicts.entries(everything=True)[-1].state != "open"
    reference.faults()
    assert here.pull().pulled == [REF]


def test_offline_nothing_is_given_up_for_what_can_not_be_had(at_odds, reference):
    here, _ = at_odds
    reference.faults({"action": "reset", "count": None})
    with pytest.raises(ServerUnreachable):
        here.resolve(REF, take="theirs")
    assert here.script(REF) == "echo ours"
    assert here.journal.conflicts.entries()[0].state == "open"


@pytest.mark.parametrize("step", ["drop", "take_in"])
@pytest.mark.parametrize("choice", [{"as_version": "2.0.0"}, {"take": "theirs"}])
def test_a_crash_in_the_middle_loses_nothing(at_odds, monkeypatch, step, choice):
    here, there = at_odds
    original = getattr(here.folders, step)

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(here.folders, step, die)
    with pytest.raises(KeyboardInterrupt):
        here.resolve(REF, **choice)
    monkeypatch.setattr(here.folders, step, original)
    if step == "drop":  # nothing has gone yet: the user asks again
        here.resolve(REF, **choice)
    else:  # ours has gone from its place: the next pull brings theirs
        assert here.pull().pulled == [REF]
    assert here.record(REF).content_digest == there.record(REF).content_digest
    ours = here.copies() if "take" in choice else [here.script(Ref("stop-rds", "2.0.0"))]
    assert ours == ["echo ours"]
    assert here.journal.conflicts.entries(everything=True)
    assert not [found for found in here.journal.conflicts.entries() if found.state == "open"]


class TestAtPublishing:
    """What publishing meets before a pull has told of it."""

    def test_a_409_is_an_open_conflict_in_the_list(self, machines):
        here, there = machines
        there.created_and_published("echo theirs")
        here.create("echo ours")
        assert here.publish(REF) == {REF: "failed"}
        [conflict] = here.journal.conflicts.entries()
        assert (conflict.kind, conflict.server_revision) == ("open_conflict", 1)
        assert conflict.server_digest == there.record(REF).content_digest
        here.pull()
        assert [found.conflict_id for found in here.journal.conflicts.entries()] == [
            conflict.conflict_id
        ]

    def test_it_is_settled_before_any_pull_by_asking_the_server(self, machines, reference):
        here, there = machines
        there.created_and_published("echo theirs")
        here.create("echo ours")
        here.publish(REF)
        reference.faults({"action": "reset", "count": None})
        with pytest.raises(ServerUnreachable):
            here.resolve(REF, take="theirs")
        assert here.script(REF) == "echo ours"
        reference.faults()
        here.resolve(REF, take="theirs")
        assert here.copies() == ["echo ours"]
        assert here.record(REF).content_digest == there.record(REF).content_digest

    def test_nothing_to_take_where_the_server_has_nothing_any_more(self, machines):
        here, there = machines
        there.created_and_published("echo theirs")
        here.create("echo ours")
        here.publish(REF)
        there.deleted(REF)
        with pytest.raises(Refused, match="nothing to take"):
            here.resolve(REF, take="theirs")
        here.pull()  # its name stands for what was deleted: ours needs another one
        assert here.publish() == {}
        ours = here.resolve(REF, as_version="1.0.1").kept_as
        assert here.publish() == {ours: "done"}

    def test_deleting_ours_brings_theirs(self, machines):
        here, there = machines
        there.created_and_published("echo theirs")
        here.create("echo ours")
        here.publish(REF)
        here.deleted(REF)
        assert here.pull().pulled == [REF]
        assert here.journal.conflicts.entries() == []

    def test_a_deleted_version_is_published_again_with_the_same_content_alone(self, machines):
        here, there = machines
        here.created_and_published("echo first")
        there.pull()
        there.deleted(REF)
        here.pull()
        with pytest.raises(AlreadyExists, match="for ever"):
            here.create("echo second")
        here.create("echo first")
        assert here.publish(REF) == {REF: "done"}
        assert here.record(REF).revision == 3
        assert here.journal.conflicts.entries(everything=True) == []

    def test_a_412_at_a_deletion_is_told_and_the_change_wins(self, machines, reviewer):
        here, _ = machines
        here.created_and_published()
        reviewer.set_status(REF, Status.APPROVED)
        here.deleted(REF)
        assert here.state(REF)[0] is SyncState.PUBLISHED
        [told] = here.journal.conflicts.entries(everything=True)
        assert (told.kind, told.state) == ("change_beats_deletion", "settled")
        here.pull()
        assert here.state(REF)[2] == "approved"
        assert "Delete it again" in (here.record(REF).error or "")


class TestADecisionThatTimeOvertook:
    def test_made_anew_here_it_meets_the_same_conflict(self, at_odds):
        here, _ = at_odds
        here.delete(REF)
        here.create("echo ours, anew")
        here.pull()
        assert here.publish(REF) == {REF: "failed"}
        assert here.state(REF)[0] is SyncState.CONFLICT
        assert len(here.journal.conflicts.entries()) == 1

    def test_made_anew_here_and_deleted_there_its_name_is_not_free(self, at_odds):
        here, there = at_odds
        here.delete(REF)
        here.create("echo ours, anew")
        there.deleted(REF)
        here.pull()
        assert here.journal.conflicts.entries() == []
        assert here.publish() == {REF: "failed"}
        with pytest.raises(Refused, match="nothing to take"):
            here.resolve(REF, take="theirs")
        ours = here.resolve(REF, rename="mine").kept_as
        assert here.publish() == {ours: "done"}

    def test_deleted_here_after_it_was_decided_again_theirs_comes(self, machines):
        here, there = machines
        here.created_and_published("echo shared", version="0.9.0")  # so the id is nobody's alone
        there.created_and_published("echo theirs")
        here.create("echo ours")
        here.publisher.upload([REF])
        here.pull()
        assert here.publisher.request_delete([REF]) == [REF]
        here.pull()
        here.publisher.delete([REF])
        assert not here.has(REF)
        here.pull()
        assert here.record(REF).is_published
        assert here.journal.conflicts.open_ones() == []

    def test_theirs_approved_meanwhile_comes_approved(self, at_odds, reviewer):
        here, _ = at_odds
        reviewer.set_status(REF, Status.APPROVED)
        here.pull()
        here.resolve(REF, take="theirs")
        assert here.state(REF)[2] == "approved"
        assert here.record(REF).revision == 2


def test_an_edit_made_after_its_deletion_was_asked_for_is_kept(machines):
    here, _ = machines
    here.created_and_published()
    other = here.created_and_published("echo other", playbook_id="other")
    for ref in (REF, other):
        here.delete(ref)
    here.edit(REF, "echo edited")
    here.publisher.delete([REF, other])
    assert not here.has(REF)
    assert not here.has(other)
    assert here.copies() == ["echo edited"]
    assert here.copies("other") == []
    assert [found.kind for found in here.journal.conflicts.entries()] == ["deletion_goes_on"]


class TestAnIdThatIsPrivateHereAndTheirsElsewhere:
    """One conflict stands for all of theirs: it is over when none of them is left."""

    OURS = Ref("stop-rds", "3.0.0")
    NEXT = Ref("stop-rds", "1.0.1")

    @pytest.fixture
    def apart(self, machines):
        here, there = machines
        there.created_and_published("echo theirs")
        there.created_and_published("echo theirs, again", version="1.0.1")
        here.create("echo ours", version="3.0.0")
        here.pull()
        return here, there

    @staticmethod
    def names(here):
        return sorted((str(c.ref), c.kind) for c in here.journal.conflicts.open_ones())

    def test_the_version_that_names_it_is_deleted_and_another_is_left(self, apart):
        here, there = apart
        assert self.names(here) == [(str(REF), "private_id")]
        there.deleted(REF)
        here.pull()
        assert self.names(here) == [(str(self.NEXT), "private_id")]
        assert here.publish() == {self.OURS: "failed"}, "the user has not chosen"
        done = here.resolve(self.NEXT, rename="stop-rds-mine")
        assert done.theirs_came
        assert here.record(self.NEXT).is_published

    def test_of_the_same_version_as_ours(self, machines):
        here, there = machines
        there.created_and_published("echo theirs")
        there.created_and_published("echo theirs, again", version="1.0.1")
        here.create("echo ours")
        here.create("echo ours", version="3.0.0")
        here.pull()
        there.deleted(REF)
        for _ in range(3):
            here.pull()
            here.publish()
            assert self.OURS not in there.pull().pulled
        named = [(str(REF), "name_is_taken"), (str(self.NEXT), "private_id")]
        assert self.names(here) == named

    @pytest.mark.parametrize("of_ours", ["apart", "at_odds"])
    def test_it_waits_on_through_full_passes(self, of_ours, request):
        here, _ = request.getfixturevalue(of_ours)
        for _ in range(2):
            here.pull_all()
            assert self.names(here) == [(str(REF), "private_id")]

    def test_all_of_theirs_are_deleted(self, apart):
        here, there = apart
        for ref in (REF, self.NEXT):
            there.deleted(ref)
        here.pull()
        assert self.names(here) == []
        assert here.publish() == {self.OURS: "done"}

    def test_no_full_pass_after_the_other(self, apart):
        here, there = apart
        there.deleted(REF)
        assert [here.pull().full for _ in range(3)] == [True, False, False]

    def test_an_id_that_became_shared_in_the_middle_of_a_full_pass(self, apart):
        """What was passed over before that moment is read again."""
        here, _ = apart
        applied = here.puller._reconciler.apply

        def shared_then(batch, before=None):
            done = applied(batch, before)
            here.journal.pins.put([(REF, "sha256:" + "0" * 64)], SERVER)
            return done

        here.puller._reconciler.apply = shared_then
        here.pull_all()
        here.puller._reconciler.apply = applied
        here.pull()
        assert here.record(self.NEXT).is_published
