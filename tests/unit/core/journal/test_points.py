"""The state of points in the journal, of own versions and of the library's, and of those gone."""

from __future__ import annotations

import contextlib

import pytest
from support.script_cache import index

from core.models import FileEntry, Ref, ScriptKey

OWN_A, OWN_B = Ref("a", "1.0.0"), Ref("b", "1.0.0")
A, B = Ref("escher-a", "1.0.0"), Ref("escher-b", "1.0.0")
ENTRY = FileEntry("shell/a.sh", 3, "sha256:" + "c" * 64)


@pytest.fixture
def rows(journal):
    with journal.database.write() as connection:
        for ref in (B, A):
            journal.library.put(ref, f"sha256:{ref}", 5.0, connection)
    return journal.library


def test_by_id(rows):
    assert [(row.ref, row.digest, row.used_at) for row in rows.get().values()] == [
        (A, f"sha256:{A}", 5.0),
        (B, f"sha256:{B}", 5.0),
    ]
    assert list(rows.get([B, Ref("escher-c", "1.0.0")])) == [B]


def test_put_again_keeps_what_is_known_of_the_point(rows, journal):
    rows.note({A: "state"})
    with journal.database.write() as connection:
        rows.put(A, "sha256:other", 9.0, connection)
    assert rows.get([A])[A] == (A, "sha256:other", "state", 9.0)


def test_the_index_forgets_one_or_all(rows):
    gone = Ref("escher-gone", "1.0.0")
    assert rows.note({A: "a", B: "b", gone: "c"}) == {A, B}
    rows.forget([A])
    assert [row.indexed_digest for row in rows.get().values()] == [None, "b"]
    rows.forget()
    assert [row.indexed_digest for row in rows.get().values()] == [None, None]


def test_forgetting_leaves_word_for_the_collection(rows, journal):
    with journal.database.write() as connection:
        rows.delete([A], connection)
        rows.delete([A], connection)
    assert list(rows.get()) == [B]
    assert journal.stale_points.refs() == [A]


def test_only_the_librarys_formats_are_cached_ones(rows, journal):
    for ref, source in ((A, "library"), (Ref("mine", "1.0.0"), "tenant")):
        index(journal, ref, ENTRY, source=source)
    found = journal.cache_folders.of_library()
    assert [(row.key, row.files) for row in found] == [(ScriptKey(A, "shell"), (ENTRY,))]


def test_points_are_forgotten_for_some_or_for_all(journal, put):
    records = [put(f"p{number}@1.0.0") for number in range(3)]
    states = {record.ref: record.index_digest for record in records}
    assert journal.points.note(states | {Ref("gone", "1.0.0"): "x"}) == set(states)
    journal.points.forget([records[1].ref])
    assert journal.versions.unindexed() == [records[1].ref]
    journal.points.forget([])
    assert len(journal.versions.unindexed()) == 1
    journal.points.forget()
    assert len(journal.versions.unindexed()) == 3


def test_word_is_left_of_every_version_that_goes_until_its_point_is_gone(journal, put):
    put("a@1.0.0")
    put("b@1.0.0")
    assert journal.stale_points.refs() == []
    for _ in range(2):  # as after a crash
        with journal.database.write() as connection:
            journal.versions.delete([OWN_A, OWN_B], connection)
    assert sorted(journal.stale_points.refs()) == [OWN_A, OWN_B]
    journal.stale_points.forget([OWN_A])
    assert journal.stale_points.refs() == [OWN_B]
    journal.stale_points.forget([])
    assert journal.stale_points.refs() == [OWN_B]


def test_word_goes_with_the_row_or_not_at_all(journal, put):
    put("a@1.0.0")
    with contextlib.suppress(RuntimeError), journal.database.write() as connection:
        journal.versions.delete([OWN_A], connection)
        raise RuntimeError
    assert journal.stale_points.refs() == []
    assert journal.versions.refs() == [OWN_A]
