from __future__ import annotations

import pytest

from core.errors import (
    Conflict,
    NotEscherServer,
    ServerBusy,
    ServerUnreachable,
    TransferInterrupted,
    UrlExpired,
)
from core.server.http import Deadline, Retrier, RetryPolicy


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def retrier(self, policy: RetryPolicy | None = None, dice: float = 1.0) -> Retrier:
        return Retrier(policy, sleep=self.sleep, clock=lambda: self.now, random=lambda: dice)


def failing(*errors: Exception):
    left = list(errors)

    def attempt(_deadline: Deadline) -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return attempt


def test_backs_off_with_full_jitter_and_answers_at_the_fourth_try():
    time = FakeTime()
    errors = [ServerUnreachable("a"), ServerBusy("b"), TransferInterrupted("c")]
    assert time.retrier(dice=0.5).call(failing(*errors)) == "answer"
    assert time.slept == [0.1, 0.2, 0.4]


def test_gives_up_after_four_tries_with_the_last_error():
    time = FakeTime()
    errors = [ServerBusy(str(number), retry_after=7) for number in range(4)]
    with pytest.raises(ServerBusy, match="3") as caught:
        time.retrier().call(failing(*errors))
    assert time.slept == [7, 7, 7]
    assert caught.value.retry_after == 7


def test_retry_after_is_honoured_up_to_ten_seconds_and_handed_on_whole():
    time = FakeTime()
    with pytest.raises(ServerBusy) as caught:
        time.retrier().call(failing(*[ServerBusy("busy", retry_after=900)] * 4))
    assert time.slept == [10, 10, 10]
    assert caught.value.retry_after == 900


def test_the_deadline_covers_all_tries_together():
    time = FakeTime()

    def slow(deadline: Deadline) -> None:
        time.now += min(25, deadline.remaining())
        raise ServerUnreachable("silence")

    with pytest.raises(ServerUnreachable):
        time.retrier().call(slow)
    assert time.now <= 1060
    assert len(time.slept) == 2


@pytest.mark.parametrize("error", [Conflict("c"), UrlExpired("u"), NotEscherServer("n")])
def test_what_is_not_transient_in_place_is_raised_at_once(error: Exception):
    time = FakeTime()
    with pytest.raises(type(error)):
        time.retrier().call(failing(error))
    assert time.slept == []
