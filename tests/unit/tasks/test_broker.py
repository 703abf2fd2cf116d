"""What is asked of the broker itself, which is the real one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import kombu
import pytest
import redis
from support.broker import running_broker, send, take_and_die

from core.errors import BrokerUnreachable
from core.settings import Settings, load_settings
from tasks.broker import broker_reachable, restore_unacked, under_way


@pytest.fixture
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    settings.run_path.mkdir(parents=True)
    with running_broker(settings) as process:
        yield process


def test_what_a_dead_worker_had_taken_comes_back_at_once(
    settings: Settings, running: subprocess.Popen[bytes]
) -> None:
    send(settings, "one", "two", "three")
    take_and_die(settings, 2)
    there = under_way(settings, ["embed", "transfer"])
    assert (there.waiting, set(there.taken)) == ({"three"}, {"one", "two"})
    assert there.since(time.time() - 60) == {"one", "two", "three"}
    assert there.since(time.time() + 60) == {"three"}, "taken too long ago"

    assert restore_unacked(settings) == 2

    with kombu.Connection(settings.effective_broker_url) as connection:
        queue = connection.SimpleQueue("embed")
        assert {queue.get(timeout=5).payload[0][0][0] for _ in range(3)} == {
            "one", "two", "three",
        }  # fmt: skip
        queue.close()


def test_a_mutex_that_a_killed_worker_left_does_not_hold_up_the_restoring(
    settings: Settings, running: subprocess.Popen[bytes]
) -> None:
    send(settings, "one")
    take_and_die(settings, 1)
    client = redis.Redis(unix_socket_path=str(settings.broker_socket))
    client.set("unacked_mutex", "somebody")

    assert restore_unacked(settings) == 1


def test_without_a_broker(settings: Settings) -> None:
    assert not broker_reachable(settings)
    with pytest.raises(BrokerUnreachable, match="escher-playbooks up"):
        under_way(settings, ["embed"])


def test_a_broker_elsewhere_that_does_not_answer(settings: Settings) -> None:
    elsewhere = load_settings(home=settings.home, broker_url="redis://:hidden@127.0.0.1:1/0")

    assert not broker_reachable(elsewhere)
    with pytest.raises(BrokerUnreachable) as failure:
        restore_unacked(elsewhere)
    assert "hidden" not in str(failure.value)
