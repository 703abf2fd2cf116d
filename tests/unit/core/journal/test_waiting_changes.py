from __future__ import annotations

import dataclasses

import pytest

from core.journal import pulls
from core.journal.pulls import DELETION, FAILED, MAX_REASON_CHARS, WaitingChange
from core.models import Ref

FIRST = WaitingChange(("a", "1.0.0"), FAILED, "why", 5, 1)
GONE = WaitingChange(("b", "1.0.0"), DELETION, "deleted", 5, 2, "sha256:b", 4)


def test_the_last_change_of_each_version_is_kept_until_it_is_done(journal):
    second = dataclasses.replace(FIRST, revision=2)
    other = WaitingChange(("?", "not semver"), FAILED, "why", 5)
    assert journal.waiting.put([FIRST, other, second, GONE]) == 0
    assert journal.waiting.failed() == [other, second]
    assert journal.waiting.deletions() == [GONE]
    assert journal.waiting.get_many([FIRST.name, ("x", "1.0.0")]) == {FIRST.name: second}
    journal.waiting.forget([FIRST.name, ("never", "there")])
    assert journal.waiting.failed() == [other]


def test_rows_and_words_are_bounded(journal, monkeypatch):
    monkeypatch.setattr(pulls, "MAX_FAILED", 5)
    junk = [WaitingChange((f"junk-{n}", "1.0.0"), FAILED, "x" * 10_000, 5) for n in range(8)]
    assert journal.waiting.put(junk) == 3
    assert journal.waiting.put(junk[:5]) == 0, "those that are there are no new ones"
    kept = journal.waiting.failed()
    assert len(kept) == 5
    assert {len(item.reason) for item in kept} == {MAX_REASON_CHARS}
    assert journal.waiting.put([GONE]) == 0, "deletions are of what is here: they have their room"


def test_a_held_deletion_is_found_by_its_version(journal):
    journal.waiting.put([GONE, FIRST])
    assert not journal.waiting.is_held(Ref("b", "1.0.0"))
    journal.waiting.hold([GONE.name])
    assert journal.waiting.is_held(Ref("b", "1.0.0"))
    assert not journal.waiting.is_held(Ref("a", "1.0.0"))
    assert journal.waiting.counts() == {"failed": 1, "deletions": 1}


class TestPullState:
    NOW = 1_800_000_000

    def test_a_full_pass_is_due_at_first_daily_and_when_asked_for(self, journal):
        state = journal.pull_state
        assert state.full_pass_due(self.NOW)
        state.keep_cursor("c")
        state.completed(self.NOW, full=True)
        assert not state.full_pass_due(self.NOW + 86_399)
        assert state.full_pass_due(self.NOW + 86_400)
        assert state.full_pass_due(self.NOW - 10), "the clock was set back"
        state.want_full_pass("why")
        assert state.full_pass_due(self.NOW)
        state.completed(self.NOW, full=False)
        assert state.full_pass_due(self.NOW)
        state.completed(self.NOW, full=True, wanted=state.wanted())
        assert not state.full_pass_due(self.NOW)

    def test_what_is_asked_for_during_a_full_pass_comes_after_it(self, journal):
        state = journal.pull_state
        state.keep_cursor("c")
        state.want_full_pass("why")
        before = state.wanted()
        state.want_full_pass("why")  # by another process, of what this pass has read over
        state.completed(self.NOW, full=True, wanted=before)
        assert state.full_pass_due(self.NOW)

    @pytest.mark.parametrize(("age", "stale"), [(None, False), (86_000, False), (86_500, True)])
    def test_what_is_known_is_stale_after_a_day(self, journal, age, stale):
        if age is not None:
            journal.pull_state.completed(self.NOW - age, full=False)
        assert journal.pull_state.is_stale(self.NOW) is stale

    def test_deletions_are_counted_for_a_day(self, journal):
        state = journal.pull_state
        state.note_deletions(self.NOW - 86_500, 4)
        state.note_deletions(self.NOW - 100, 2)
        assert state.deletions_taken(self.NOW) == 2
