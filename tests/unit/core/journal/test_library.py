from __future__ import annotations

import pytest

from core.journal.library import CachedFormat
from core.journal.scripts import CacheRow
from core.models import FileEntry, Ref

A, B = Ref("escher-a", "1.0.0"), Ref("escher-b", "1.0.0")
ENTRY = FileEntry("shell/a.sh", 3, "sha256:" + "c" * 64)


@pytest.fixture
def rows(journal):
    with journal.database.write() as connection:
        for ref in (B, A):
            journal.library.put(ref, f"sha256:{ref}", 5.0, connection)
    return journal.library


def test_by_id(rows):
    assert [(row.ref, row.digest, row.used_at) for row in rows.all()] == [
        (A, f"sha256:{A}", 5.0),
        (B, f"sha256:{B}", 5.0),
    ]
    assert list(rows.get_many([B, Ref("escher-c", "1.0.0")])) == [B]


def test_put_again_keeps_what_is_known_of_the_point(rows, journal):
    rows.set_indexed({A: "state"})
    with journal.database.write() as connection:
        rows.put(A, "sha256:other", 9.0, connection)
    assert rows.get_many([A])[A] == (A, "sha256:other", "state", 9.0)


def test_the_index_forgets_one_or_all(rows):
    gone = Ref("escher-gone", "1.0.0")
    assert rows.set_indexed({A: "a", B: "b", gone: "c"}) == {A, B}
    rows.forget_index([A])
    assert [row.indexed_digest for row in rows.all()] == [None, "b"]
    rows.forget_index()
    assert [row.indexed_digest for row in rows.all()] == [None, None]


def test_forgetting_leaves_word_for_the_collection(rows, journal):
    with journal.database.write() as connection:
        rows.forget([A], connection)
        rows.forget([A], connection)
    assert [row.ref for row in rows.all()] == [B]
    assert journal.stale_points.refs() == [A]


def test_only_the_librarys_formats_are_cached_ones(rows, journal):
    with journal.database.write() as connection:
        for ref, source in ((A, "library"), (Ref("mine", "1.0.0"), "tenant")):
            row = CacheRow(ref, "shell", source, "shell/a.sh", (ENTRY,), 1, 1.0, 1.0)
            journal.script_cache.put([row], connection)
    assert rows.cached() == [CachedFormat(A, "shell", (ENTRY,))]
