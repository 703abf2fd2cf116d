from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import IntegrityError

from core.journal.conflicts import KEEP_SETTLED_SECONDS, ConflictState, KeptCopy
from core.models import Ref

REF = Ref("stop-rds", "1.0.0")


class TestConflicts:
    def test_a_version_waits_for_one_decision_whoever_says_so(self, journal):
        def say(number):
            return journal.conflicts.open(REF, "open_conflict", f"said {number}")

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(say, range(12)))) == 1
        assert len(journal.conflicts.open_ones()) == 1

    def test_what_is_known_stays_when_it_is_said_with_less(self, journal):
        journal.conflicts.open(
            REF, "open_conflict", "a", server_revision=2, server_digest="sha256:x"
        )
        journal.conflicts.open(REF, "open_conflict", "b", server_revision=3)
        found = journal.conflicts.open_of(REF)
        assert (found.reason, found.server_revision, found.server_digest) == ("b", 3, "sha256:x")

    def test_settled_ones_are_listed_only_when_asked_for(self, journal):
        journal.conflicts.open(REF, "open_conflict", "a")
        assert journal.conflicts.settle([REF, Ref("other", "1.0.0")], "theirs") == 1
        assert journal.conflicts.settle([REF], "theirs") == 0
        assert journal.conflicts.open_of(REF) is None
        assert journal.conflicts.entries() == []
        [found] = journal.conflicts.entries(everything=True)
        assert (found.state, found.resolution) == (ConflictState.SETTLED, "theirs")

    def test_the_same_copy_is_written_down_once(self, journal):
        copy = KeptCopy("/conflicts/stop-rds/v1.0.0-abc", 3)
        ids = {
            journal.conflicts.note(REF, "replaced_there", "x", resolution="theirs", copy=copy)
            for _ in range(2)
        }
        assert len(ids) == 1
        [found] = journal.conflicts.entries()
        assert (found.state, found.folder, found.generation) == ("kept", copy.folder, 3)

    def test_only_what_left_no_copy_is_forgotten_with_time(self, journal):
        journal.conflicts.note(REF, "change_beats_deletion", "x", resolution="theirs")
        journal.conflicts.note(
            REF, "replaced_there", "x", resolution="theirs", copy=KeptCopy("/x", 1)
        )
        journal.conflicts.open(REF, "open_conflict", "a")
        later = journal.conflicts.entries()[0].created_at + KEEP_SETTLED_SECONDS + 10
        journal.conflicts.prune(later - 60)
        assert len(journal.conflicts.entries(everything=True)) == 3
        journal.conflicts.prune(later)
        assert {found.state for found in journal.conflicts.entries(everything=True)} == {
            "kept", "open",
        }  # fmt: skip

    def test_the_table_itself_takes_one_open_row_a_version(self, journal):
        from core.journal.conflicts import _insert

        values = {"kind": "open_conflict", "reason": "x"}
        with journal.database.write() as connection:
            _insert(connection, REF, ConflictState.OPEN, values)
            _insert(connection, REF, ConflictState.SETTLED, values)
            with pytest.raises(IntegrityError):
                _insert(connection, REF, ConflictState.OPEN, values)
