from __future__ import annotations

import contextlib

from core.models import Ref

A, B = Ref("a", "1.0.0"), Ref("b", "1.0.0")


def test_word_is_left_of_every_version_that_goes_until_its_point_is_gone(journal, put):
    put("a@1.0.0")
    put("b@1.0.0")
    assert journal.stale_points.refs() == []
    for _ in range(2):  # as after a crash
        with journal.database.write() as connection:
            journal.versions.delete([A, B], connection)
    assert sorted(journal.stale_points.refs()) == [A, B]
    journal.stale_points.forget([A])
    assert journal.stale_points.refs() == [B]
    journal.stale_points.forget([])
    assert journal.stale_points.refs() == [B]


def test_word_goes_with_the_row_or_not_at_all(journal, put):
    put("a@1.0.0")
    with contextlib.suppress(RuntimeError), journal.database.write() as connection:
        journal.versions.delete([A], connection)
        raise RuntimeError
    assert journal.stale_points.refs() == []
    assert journal.versions.refs() == [A]
