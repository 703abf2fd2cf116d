from __future__ import annotations

import pytest
from support.clock import Clock

from escher_server.problems import Problem
from escher_server.throttle import BURST, MAX_PEERS, REFILL_SECONDS, Throttle

PEER = "203.0.113.7"


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def refused(throttle: Throttle, peer: str | None) -> Problem | None:
    try:
        throttle.check(peer)
    except Problem as problem:
        return problem
    return None


def tries(throttle: Throttle, peer: str | None) -> int:
    """How many wrong tokens are taken before the address has to wait."""
    for number in range(1000):
        problem = refused(throttle, peer)
        if problem is not None:
            assert problem.status == 429
            assert (problem.retry_after or 0) > 0
            return number
        throttle.wrong(peer)
    return 1000


def test_an_address_has_a_burst_and_then_one_every_few_seconds(
    throttle: Throttle, clock: Clock
) -> None:
    assert tries(throttle, PEER) == BURST
    clock.now += REFILL_SECONDS
    assert tries(throttle, PEER) == 1
    clock.now += 3 * REFILL_SECONDS
    assert tries(throttle, PEER) == 3
    clock.now += 86_400
    assert tries(throttle, PEER) == BURST


def test_one_address_waits_for_itself_alone(throttle: Throttle) -> None:
    tries(throttle, PEER)
    assert tries(throttle, "203.0.113.8") == BURST
    assert tries(throttle, None) == BURST


@pytest.mark.parametrize(
    ("first", "second"),
    [("2001:db8::1", "2001:db8::ffff:1"), ("203.0.113.9", "::ffff:203.0.113.9")],
)
def test_addresses_that_are_one_customer_s_count_as_one(
    throttle: Throttle, first: str, second: str
) -> None:
    tries(throttle, first)
    assert tries(throttle, second) == 0


def test_what_is_remembered_is_bounded(throttle: Throttle) -> None:
    for number in range(MAX_PEERS + 500):
        throttle.wrong(f"peer-{number}")
        throttle.right(f"peer-{number}", "hash")
    assert len(throttle._free_at) <= MAX_PEERS
    assert len(throttle._seen) <= MAX_PEERS
