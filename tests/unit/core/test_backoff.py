from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlalchemy import literal, select

from core.backoff import (
    BETWEEN_SYNCS,
    LONGEST_WAIT_SECONDS,
    Backoff,
    due,
    is_due,
    is_put_off,
    outcome_of,
    put_off,
)
from core.errors import (
    Conflict,
    EscherError,
    NotEscherServer,
    ServerBusy,
    ServerUnreachable,
    TransferInterrupted,
)
from core.journal import Journal
from core.models import OutcomeState

NOW = 1_800_000_000


def most(n: int) -> float:
    return BETWEEN_SYNCS.seconds(n, random=lambda: 1.0)


def test_waits_double_up_to_the_cap_however_often_it_failed():
    assert [most(n) for n in (0, 1, 9, 10, 100_000)] == [5, 10, 2560, 3600, 3600]


def test_jitter_is_full_so_those_who_failed_together_do_not_come_together():
    dice = random.Random(7)
    waits = [BETWEEN_SYNCS.seconds(5, random=dice.random) for _ in range(1000)]
    assert all(0 <= wait < 160 for wait in waits)
    assert sum(wait < 40 for wait in waits) == pytest.approx(250, abs=60)


@pytest.mark.parametrize(
    ("backoff", "asked", "waited"),
    [
        (Backoff(5, 3600), 900, 900),
        (Backoff(5, 3600), 86_400, 3600),  # a server does not put us off for a day
        (Backoff(5, 3600), None, 2.5),
        (Backoff(5, 3600), 1, 2.5),  # never sooner than the jitter says
        (Backoff(5, 3600, retry_after_cap_seconds=10), 900, 10),
    ],
)
def test_retry_after_is_heeded_up_to_its_cap(backoff, asked, waited):
    assert backoff.seconds(0, asked, lambda: 0.5) == waited


@pytest.mark.parametrize(
    ("error", "later"),
    [
        (ServerUnreachable("a"), True),
        (TransferInterrupted("b"), True),
        (NotEscherServer("a hotel's sign-in page"), True),
        (Conflict("c"), False),
        (EscherError("d"), False),
    ],
)
def test_what_may_go_well_later_is_put_off_and_the_rest_waits_for_the_user(error, later):
    assert is_put_off(error) is later
    outcome = outcome_of(error, 0, NOW, lambda: 1.0)
    assert outcome.state is (OutcomeState.DEFERRED if later else OutcomeState.FAILED)
    assert outcome.next_attempt_at == (NOW + 5 if later else None)
    assert (outcome.error_type, outcome.error) == (error.type, str(error))


def test_a_moment_is_a_whole_second_and_never_early():
    assert put_off(ServerBusy("x"), 0, NOW + 0.1, lambda: 0.5).next_attempt_at == NOW + 3
    assert put_off(ServerBusy("x", retry_after=77), 0, NOW).next_attempt_at == NOW + 77


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
    tmp_path: Path, at: int | None, wanted: bool
) -> None:
    assert is_due(at, NOW) is wanted
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    with journal.database.read() as connection:
        found = connection.scalar(select(due(literal(at), NOW)))
    journal.close()
    assert bool(found) is wanted
