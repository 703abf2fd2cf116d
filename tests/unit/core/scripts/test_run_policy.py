"""Who may be run: the whole table, each row under each policy and override, and which is the latest."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest

from core.errors import NotRunnable
from core.journal.script_lookup import ToldStatus
from core.models import Ref, Status
from core.scripts.models import NO_OVERRIDES, Overrides
from core.scripts.run_policy import (
    SIGNATURE_REVOKED,
    SIGNATURE_WRONG,
    Eligibility,
    RunFacts,
    check_named,
    choose_latest,
    decide,
    facts_there,
    told_by,
    was_approved,
)
from core.server.answers import Script

ID = "stop-rds"
UNREVIEWED, DEPRECATED = Overrides(unreviewed=True), Overrides(deprecated=True)
BOTH = Overrides(unreviewed=True, deprecated=True)
CANDIDATE, OWN, NAMED, OVERRIDE, REFUSED = Eligibility


def facts(version: str = "1.0.0", status: str | None = "ready", **fields: Any) -> RunFacts:
    fields = {"published": True, "made_here": False} | fields
    return RunFacts(Ref(ID, version), status, **fields)


def approved(version: str, **fields: Any) -> RunFacts:
    return facts(version, "approved", was_approved=True, **fields)


def own(version: str, status: str = "ready", **fields: Any) -> RunFacts:
    return facts(version, status, made_here=True, **({"published": False} | fields))


def theirs(version: str, status: str = "pending_review", **fields: Any) -> RunFacts:
    return facts(version, status, **fields)


# what it is: (its facts, its eligibility by the table, what lets it run where it is an override)
TABLE: dict[str, tuple[RunFacts, Eligibility, Overrides]] = {
    "1 approved": (approved("1.0.0"), CANDIDATE, NO_OVERRIDES),
    "1 approved and made here": (approved("1.0.0", made_here=True), CANDIDATE, NO_OVERRIDES),
    "1 active": (facts(status="active"), CANDIDATE, NO_OVERRIDES),
    "2 deprecated after approval": (
        facts(status="deprecated", was_approved=True), NAMED, NO_OVERRIDES),
    "2 deprecated after approval, made here": (
        facts(status="deprecated", was_approved=True, made_here=True), NAMED, NO_OVERRIDES),
    "3 ready": (own("1.0.0"), OWN, NO_OVERRIDES),
    "3 pending review": (own("1.0.0", "pending_review", published=True), OWN, NO_OVERRIDES),
    "3 needs update": (own("1.0.0", "needs_update"), OWN, NO_OVERRIDES),
    "3 active by its own word": (own("1.0.0", "active"), OWN, NO_OVERRIDES),
    "3 approved by its own word": (own("1.0.0", "approved"), OWN, NO_OVERRIDES),
    "3 deprecated, never approved": (own("1.0.0", "deprecated"), NAMED, NO_OVERRIDES),
    "4 pending review": (theirs("1.0.0"), OVERRIDE, UNREVIEWED),
    "4 needs update": (theirs("1.0.0", "needs_update"), OVERRIDE, UNREVIEWED),
    "4 ready": (theirs("1.0.0", "ready"), OVERRIDE, UNREVIEWED),
    "4 approved by a file found in synced": (
        theirs("1.0.0", "approved", published=False), OVERRIDE, UNREVIEWED),
    "4 a status that nobody told": (facts(status=None), OVERRIDE, UNREVIEWED),
    "4 deprecated, never approved": (theirs("1.0.0", "deprecated"), OVERRIDE, DEPRECATED),
    "5 written by an AI": (own("1.0.0", undecided=True), OVERRIDE, UNREVIEWED),
    "5 written by an AI, calls itself active": (
        own("1.0.0", "active", undecided=True), OVERRIDE, UNREVIEWED),
    "5 a draft of mine": (own("1.0.0", "draft"), OVERRIDE, UNREVIEWED),
    "5 a draft of theirs": (theirs("1.0.0", "draft"), OVERRIDE, UNREVIEWED),
    "6 rejected": (theirs("1.0.0", "rejected"), REFUSED, NO_OVERRIDES),
    "6 rejected, made here": (own("1.0.0", "rejected", published=True), REFUSED, NO_OVERRIDES),
    "6 broken": (own("1.0.0", "broken"), REFUSED, NO_OVERRIDES),
    "6 archived": (theirs("1.0.0", "archived"), REFUSED, NO_OVERRIDES),
    "6 archived, once approved": (
        facts(status="archived", was_approved=True), REFUSED, NO_OVERRIDES),
    "6 approved under a wrong signature": (
        approved("1.0.0", signature=SIGNATURE_WRONG), REFUSED, NO_OVERRIDES),
    "6 made here under a revoked one": (
        own("1.0.0", signature=SIGNATURE_REVOKED), REFUSED, NO_OVERRIDES),
}  # fmt: skip
ROWS = [pytest.param(*row, id=name) for name, row in TABLE.items()]


def _runs(of: RunFacts, policy: Any, overrides: Overrides) -> bool:
    try:
        check_named(of, policy, overrides)
    except NotRunnable:
        return False
    return True


def _is_latest(of: RunFacts, policy: Any, overrides: Overrides = NO_OVERRIDES) -> bool:
    try:
        return choose_latest([of], policy, overrides) is not None
    except NotRunnable:
        return False


class TestTheTable:
    @pytest.mark.parametrize(("of", "eligibility", "needs"), ROWS)
    def test_own(self, of: RunFacts, eligibility: Eligibility, needs: Overrides) -> None:
        assert decide(of).eligibility is eligibility
        assert _is_latest(of, "own") == (eligibility in {CANDIDATE, OWN})
        for overrides in (NO_OVERRIDES, UNREVIEWED, DEPRECATED, BOTH):
            expected = eligibility in {CANDIDATE, OWN, NAMED} or (
                eligibility is OVERRIDE and overrides in {needs, BOTH}
            )
            assert _runs(of, "own", overrides) == expected

    @pytest.mark.parametrize(("of", "eligibility", "needs"), ROWS)
    def test_approved_takes_rows_1_and_2_and_nothing_overrides_it(
        self, of: RunFacts, eligibility: Eligibility, needs: Overrides
    ) -> None:
        name = next(name for name, row in TABLE.items() if row[0] is of)
        for overrides in (NO_OVERRIDES, UNREVIEWED, DEPRECATED, BOTH):
            assert _runs(of, "approved", overrides) == (name[0] in "12")
        assert _is_latest(of, "approved", BOTH) == (name[0] in "12")
        assert _is_latest(of, "approved") == (name[0] == "1")

    @pytest.mark.parametrize(("of", "eligibility", "needs"), ROWS)
    def test_any_makes_row_4_a_candidate_and_no_other(
        self, of: RunFacts, eligibility: Eligibility, needs: Overrides
    ) -> None:
        name = next(name for name, row in TABLE.items() if row[0] is of)
        expected = CANDIDATE if name[0] == "4" else eligibility
        assert decide(of, "any").eligibility is expected
        assert _is_latest(of, "any") == (expected in {CANDIDATE, OWN})
        assert _runs(of, "any", NO_OVERRIDES) == (expected not in {OVERRIDE, REFUSED})

    @pytest.mark.parametrize("status", [None, *Status])
    @pytest.mark.parametrize("policy", ["approved", "own", "any"])
    def test_every_status_of_every_origin_has_its_place(self, status, policy) -> None:
        for published, made_here, undecided, was in itertools.product([False, True], repeat=4):
            of = facts("1.0.0", status, published=published, made_here=made_here,
                       undecided=undecided, was_approved=was)  # fmt: skip
            decision = decide(of, policy)
            assert decision.reason
            if status in {"rejected", "broken", "archived"}:
                assert not decision.runs(BOTH)
            if policy == "approved" and decision.runs(BOTH):
                assert published
            if not made_here and not published:
                assert not decision.runs(NO_OVERRIDES) or policy == "any"


class TestTheLatest:
    def latest(
        self, *versions: RunFacts, policy: Any = "own", overrides: Overrides = NO_OVERRIDES
    ) -> str:
        choice = choose_latest(versions, policy, overrides)
        assert choice is not None
        return choice.facts.ref.version

    def test_an_unreviewed_one_never_beats_the_approved(self) -> None:
        assert self.latest(approved("1.0.0"), theirs("1.0.1")) == "1.0.0"
        assert self.latest(approved("1.0.0"), own("1.0.1")) == "1.0.0"
        assert self.latest(approved("1.0.0"), own("1.0.1", undecided=True)) == "1.0.0"
        for status in ("rejected", "broken", "archived", "draft", "needs_update", "deprecated"):
            assert self.latest(approved("1.0.0"), theirs("2.0.0", status)) == "1.0.0"

    def test_the_highest_of_the_approved(self) -> None:
        assert self.latest(approved("1.9.0"), approved("1.10.0"), own("1.11.0")) == "1.10.0"

    def test_ones_own_where_nothing_is_reviewed(self) -> None:
        assert self.latest(own("1.0.0"), own("1.1.0", "pending_review", published=True)) == "1.1.0"
        assert self.latest(own("1.0.0"), theirs("2.0.0")) == "1.0.0"
        gone = facts("0.9.0", "deprecated", was_approved=True)
        assert self.latest(gone, own("1.0.0")) == "1.0.0", "deprecated is no reviewed version"

    def test_a_pre_release_only_where_no_release_is_a_candidate(self) -> None:
        assert self.latest(approved("1.0.0"), approved("2.0.0-rc.1")) == "1.0.0"
        assert self.latest(approved("2.0.0-rc.1"), approved("2.0.0-rc.2")) == "2.0.0-rc.2"
        assert self.latest(theirs("1.0.0"), approved("2.0.0-rc.1")) == "2.0.0-rc.1"
        assert self.latest(own("1.0.0"), own("1.1.0-rc.1")) == "1.0.0"

    def test_it_has_the_format_asked_for(self) -> None:
        assert self.latest(approved("1.0.0"), approved("1.1.0", has_format=False)) == "1.0.0"
        assert choose_latest([approved("1.0.0", has_format=False)], "own") is None
        # what is reviewed has it not: what nobody reviewed does not step in
        with pytest.raises(NotRunnable):
            choose_latest([approved("1.0.0", has_format=False), theirs("1.1.0")], "own")

    def test_any_takes_the_highest_of_others_too(self) -> None:
        assert self.latest(approved("1.0.0"), theirs("1.0.1"), policy="any") == "1.0.1"
        assert self.latest(approved("1.0.0"), theirs("1.0.1", "draft"), policy="any") == "1.0.0"

    def test_an_override_counts_only_where_there_is_no_candidate(self) -> None:
        both = (approved("1.0.0"), theirs("1.0.1"))
        assert self.latest(*both, overrides=UNREVIEWED) == "1.0.0"
        assert self.latest(theirs("1.0.0"), theirs("1.0.1"), overrides=UNREVIEWED) == "1.0.1"
        with pytest.raises(NotRunnable):
            choose_latest([theirs("1.0.1")], "own", DEPRECATED)

    def test_what_was_passed_over_is_said(self) -> None:
        choice = choose_latest([approved("1.0.0"), theirs("1.0.1")], "own")
        assert choice is not None
        words = (
            "stop-rds@1.0.1 was passed over: another machine's, and nobody approved it"
            " (it is pending_review)."
        )
        assert choice.warnings == (words,)
        quiet = choose_latest([approved("1.0.0"), approved("0.9.0")], "own")
        assert quiet is not None
        assert quiet.warnings == ()


class TestWords:
    def test_none_may_run_lists_each_with_its_reason(self) -> None:
        versions = [theirs("1.0.0", publisher="mia", status_at=7), own("1.1.0", undecided=True),
                    theirs("1.2.0", "rejected")]  # fmt: skip
        with pytest.raises(NotRunnable) as caught:
            choose_latest(versions, "own")
        error = caught.value
        assert (error.exit_code, error.http_status, error.type) == (5, 409, "not-runnable")
        assert [(item["version"], item["status"]) for item in error.versions] == [
            ("1.2.0", "rejected"), ("1.1.0", "ready"), ("1.0.0", "pending_review"),
        ]  # fmt: skip
        assert all(item["reason"] for item in error.versions)
        assert error.versions[2] | {"reason": ""} == {
            "version": "1.0.0", "status": "pending_review", "status_as_of": 7, "made_here": False,
            "publisher": "mia", "reason": "",
        }  # fmt: skip
        assert "--allow-unreviewed" in error.remedy
        assert "decide stop-rds@1.1.0" in error.remedy
        assert pickle.loads(pickle.dumps(error)).versions == error.versions

    def test_the_remedy_fits_the_reason(self) -> None:
        for of, flag in ((theirs("1.0.0", "deprecated"), "--allow-deprecated"),
                         (own("1.0.0", "draft"), "--allow-unreviewed")):  # fmt: skip
            with pytest.raises(NotRunnable) as caught:
                check_named(of, "own")
            assert flag in caught.value.remedy
        with pytest.raises(NotRunnable) as caught:
            check_named(theirs("1.0.0"), "approved", BOTH)
        assert "--allow" not in caught.value.remedy, "nothing overrides that policy"
        with pytest.raises(NotRunnable, match="deprecated by 2"):
            choose_latest(
                [facts(status="deprecated", was_approved=True, deprecated_by="2.0.0")], "own"
            )

    def test_what_runs_all_the_same_says_what_it_is(self) -> None:
        told = {
            "nobody reviewed it": (own("1.0.0"), NO_OVERRIDES),
            "deprecated by 2.0.0": (
                facts(status="deprecated", was_approved=True, deprecated_by="2.0.0"), NO_OVERRIDES),
            "run all the same": (theirs("1.0.0"), UNREVIEWED),
            "the server says otherwise": (own("1.0.0", in_conflict=True), NO_OVERRIDES),
            "failed three times in a row": (approved("1.0.0", broke_here=True), NO_OVERRIDES),
        }  # fmt: skip
        for words, (of, overrides) in told.items():
            assert words in " ".join(check_named(of, "own", overrides).warnings)
        assert check_named(approved("1.0.0"), "own").warnings == ()

    def test_health_refuses_nothing(self) -> None:
        choice = choose_latest([approved("1.0.0"), approved("1.1.0", broke_here=True)], "approved")
        assert choice is not None
        assert choice.facts.ref.version == "1.1.0"


def test_who_was_approved_once() -> None:
    assert was_approved("approved", "uploaded_for_review", is_library=False)
    assert was_approved("deprecated", "uploaded_trusted", is_library=False)
    assert was_approved("deprecated", None, is_library=True)
    assert not was_approved("deprecated", "uploaded_for_review", is_library=False)
    assert not was_approved(None, None, is_library=False)


def test_ours_that_stands_behind_a_reviewed_one_of_another_format_is_named_in_the_remedy():
    with pytest.raises(NotRunnable) as refused:
        choose_latest([approved("1.0.0", has_format=False), own("1.1.0")], "own")
    assert f"Name the version ({ID}@1.1.0)" in refused.value.remedy


@pytest.mark.parametrize("known", [True, False])
def test_a_version_from_before_origins_were_kept_may_be_claimed(known: bool):
    facts = RunFacts(Ref(ID, "1.0.0"), "pending_review", published=True, origin_known=known)
    with pytest.raises(NotRunnable) as refused:
        check_named(facts, "own")
    assert (f"keys claim {ID}@1.0.0" in refused.value.remedy) is not known


class TestWhatTheServerTells:
    LIBRARY = Ref("escher-stop", "1.0.0")

    def told(self, playbook_id: str = LIBRARY.playbook_id, **said: Any) -> ToldStatus:
        return told_by(Script(playbook_id=playbook_id, version="1.0.0", files=[], **said), 1.0)

    @pytest.mark.parametrize("status", ["retired", "", [], {}, 7])
    def test_a_status_that_is_none_gives_no_right_to_run(self, status: Any) -> None:
        told = self.told(metadata={"status": status})
        with pytest.raises(NotRunnable):
            check_named(facts_there(self.LIBRARY, told), "own", NO_OVERRIDES)
        assert self.told("stop-rds", metadata={"status": status}).status is None

    def test_the_metadata_tells_it_where_the_answer_does_not(self) -> None:
        told = self.told(metadata={"status": "approved"})
        assert check_named(facts_there(self.LIBRARY, told), "own", NO_OVERRIDES)

    def test_the_library_is_approved_where_nobody_says_otherwise(self) -> None:
        for told in (None, self.told()):
            assert check_named(facts_there(self.LIBRARY, told), "approved", NO_OVERRIDES)
