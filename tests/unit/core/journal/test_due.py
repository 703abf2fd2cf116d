from __future__ import annotations

import pytest
from sqlalchemy import literal, select

from core.journal import Journal
from core.journal.due import LONGEST_WAIT_SECONDS, due, is_due

NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (None, True),
        (NOW, True),
        (NOW - 10**9, True),
        (NOW + 1, False),
        (NOW + int(LONGEST_WAIT_SECONDS), False),
        (NOW + 2 * int(LONGEST_WAIT_SECONDS), True),  # put off while the clock was an hour ahead
        (NOW + 10**9, True),
    ],
)
def test_what_is_put_off_further_than_anything_is_was_put_off_by_a_wrong_clock(
    journal: Journal, at: int | None, wanted: bool
) -> None:
    assert is_due(at, NOW) is wanted
    with journal.database.read() as connection:
        found = connection.scalar(select(due(literal(at), NOW)))
    assert bool(found) is wanted
