"""What tests of real processes share."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

POLL_SECONDS = 0.02


@pytest.fixture
def until() -> Callable[..., None]:
    """``until(check, seconds)``: poll until ``check()`` is true; fail after ``seconds``."""

    def poll(check: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(POLL_SECONDS)

    return poll
