"""One test a rule, by name; the table is in `core.publishing.conflict_rules`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from core.publishing.conflict_rules import LOOK_AT_DISK, Here, Rule, There, decide

UNPUBLISHED = Here("sha256:ours", updated_at=100)
PUBLISHED = Here("sha256:a", "sha256:a", revision=3, updated_at=100, synced=True)
THERE = There("sha256:a", revision=3, updated_at=100)
MOVED = There("sha256:a", revision=4, updated_at=110)
OTHER = There("sha256:b", revision=5, updated_at=120)
GONE = There("sha256:a", revision=4, updated_at=110, deleted=True)


def test_nothing_here_and_deleted_there_is_nothing():
    assert decide(None, GONE) is Rule.NOTHING


def test_nothing_here_is_taken_in():
    assert decide(None, THERE) is Rule.TAKE_IN


@pytest.mark.parametrize("here", [PUBLISHED, replace(UNPUBLISHED, digest="sha256:a")])
def test_the_same_content_is_no_conflict_whatever_the_history(here):
    assert decide(here, MOVED) is Rule.SAME_CONTENT
    assert decide(replace(here, in_conflict=True), MOVED) is Rule.SAME_CONTENT


def test_unpublished_here_and_other_content_there_is_an_open_conflict():
    assert decide(UNPUBLISHED, OTHER) is Rule.OPEN_CONFLICT
    assert decide(replace(UNPUBLISHED, in_conflict=True), OTHER) is Rule.OPEN_CONFLICT


def test_an_edit_of_published_content_becomes_the_successor():
    edited = replace(PUBLISHED, digest="sha256:edit")
    assert decide(edited, THERE) is Rule.EDIT_BECOMES_SUCCESSOR
    assert decide(edited, THERE, pinned="sha256:a") is Rule.EDIT_BECOMES_SUCCESSOR


@pytest.mark.parametrize("there", [OTHER, replace(OTHER, revision=99), replace(OTHER, revision=4)])
@pytest.mark.parametrize(
    "here",
    [PUBLISHED, replace(PUBLISHED, edited=True), replace(PUBLISHED, digest="sha256:edit"),
     replace(PUBLISHED, deleting=True), None],
)  # fmt: skip
def test_other_content_under_a_pinned_name_replaces_nothing(here, there):
    assert decide(here, there, pinned="sha256:a") is Rule.IMMUTABLE


def test_a_server_set_up_anew_replaces_nothing_either():
    anew = There("sha256:b", revision=1, updated_at=900)
    assert decide(PUBLISHED, anew, pinned="sha256:a") is Rule.IMMUTABLE


def test_of_a_private_id_nothing_else_is_taken():
    assert decide(None, THERE, private=True) is Rule.PRIVATE_ID
    assert decide(UNPUBLISHED, OTHER, private=True) is Rule.PRIVATE_ID
    same = replace(UNPUBLISHED, digest="sha256:a")
    assert decide(same, THERE, private=True) is Rule.SAME_CONTENT


def test_deleted_there_and_untouched_here_is_deleted_here():
    assert decide(PUBLISHED, GONE) is Rule.DELETED_THERE
    assert decide(replace(PUBLISHED, deleting=True), GONE) is Rule.DELETED_THERE


def test_deleted_there_and_edited_here_the_edit_wins():
    assert decide(replace(PUBLISHED, edited=True), GONE) is Rule.EDIT_BEATS_DELETION
    assert decide(replace(PUBLISHED, digest="sha256:edit"), GONE) is Rule.EDIT_BEATS_DELETION


def test_deleted_here_and_changed_there_the_change_wins():
    assert decide(replace(PUBLISHED, deleting=True), MOVED) is Rule.CHANGE_BEATS_DELETION


def test_deleted_here_and_nothing_new_there_the_deletion_goes_on():
    counted = replace(THERE, updated_at=200)  # statistics are no revision
    assert decide(replace(PUBLISHED, deleting=True), counted) is Rule.DELETION_GOES_ON


def test_an_unpublished_version_is_not_deleted_by_somebody_elses_deletion():
    assert decide(UNPUBLISHED, GONE) is Rule.NOTHING


def test_an_open_conflict_that_loses_its_other_side_is_over():
    ours = replace(UNPUBLISHED, digest="sha256:a", in_conflict=True)
    assert decide(ours, GONE) is Rule.THEIRS_IS_GONE


def test_a_deleted_name_stands_for_what_it_held():
    assert decide(replace(UNPUBLISHED, in_conflict=True), GONE) is Rule.NAME_IS_TAKEN


def test_an_answer_that_was_overtaken_is_stale():
    ahead = replace(PUBLISHED, revision=9, updated_at=500)
    for there in (THERE, MOVED, OTHER, GONE):
        assert decide(ahead, there) is Rule.STALE


def test_a_lower_revision_counts_where_nothing_happened_here_since_it_was_asked_for():
    ahead = replace(PUBLISHED, revision=9, updated_at=500)
    assert decide(ahead, THERE, fresh=True) is Rule.SAME_CONTENT
    assert decide(ahead, GONE, fresh=True) is Rule.DELETED_THERE
    assert decide(ahead, OTHER, pinned="sha256:a", fresh=True) is Rule.IMMUTABLE


def test_a_server_set_up_anew_is_believed_though_its_revisions_are_lower():
    ahead = replace(PUBLISHED, revision=9, updated_at=100)
    assert decide(ahead, MOVED) is Rule.SAME_CONTENT


def test_a_lost_journal_is_told_by_the_server_what_was_published():
    rebuilt = Here("sha256:a", synced=True, updated_at=100)
    assert decide(rebuilt, THERE) is Rule.SAME_CONTENT
    assert decide(rebuilt, GONE) is Rule.DELETED_THERE
    assert decide(rebuilt, OTHER) is Rule.EDIT_BECOMES_SUCCESSOR


def test_whatever_gives_way_is_looked_at_on_disk_first():
    """Every state: what removes content here is decided again when the disk holds an edit."""
    booleans = (True, False)
    for digest, published, revision, synced, deleting, conflict, pinned in itertools.product(
        ("sha256:a", "sha256:edit"), (None, "sha256:a"), (None, 3), booleans, booleans, booleans,
        (None, "sha256:a"),
    ):  # fmt: skip
        here = Here(digest, published, revision, 100, synced, deleting, conflict)
        for there in (THERE, MOVED, OTHER, GONE):
            rule = decide(here, there, pinned=pinned)
            removes = {Rule.DELETED_THERE, Rule.EDIT_BECOMES_SUCCESSOR, Rule.EDIT_BEATS_DELETION}
            if rule in removes - LOOK_AT_DISK:
                assert rule in {Rule.EDIT_BECOMES_SUCCESSOR, Rule.EDIT_BEATS_DELETION}
            if pinned is not None and not there.deleted and there.digest != pinned:
                assert rule in {Rule.IMMUTABLE, Rule.OPEN_CONFLICT}  # never replaced
            edited = decide(replace(here, edited=True), there, pinned=pinned)
            if not deleting and rule in LOOK_AT_DISK:
                assert edited is Rule.EDIT_BEATS_DELETION
