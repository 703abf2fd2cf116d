"""What is asked of the broker itself, which is the real one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import kombu
import pytest
import redis
from celery.backends.redis import RedisBackend
from support.broker import running_broker, send, take_and_die

import celeryconfig
from core.errors import BrokerUnreachable, Refused
from core.settings import Settings, load_settings
from tasks.app import app
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


class TestAStrangersServer:
    """What stands at our socket in a shared place, and would answer with forged results."""

    @pytest.fixture(params=["its folder is open", "it runs as another"])
    def squatted(
        self,
        request: pytest.FixtureRequest,
        settings: Settings,
        running: subprocess.Popen[bytes],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Settings:
        if request.param == "its folder is open":
            settings.socket_dir.chmod(0o755)
        else:
            monkeypatch.setattr("core.permissions.peer_uid", lambda _: 65_534)
        return settings

    def test_is_not_asked_by_commands(self, squatted: Settings) -> None:
        for ask in (broker_reachable, restore_unacked, lambda of: under_way(of, ["embed"])):
            with pytest.raises(Refused, match=r"broker\.sock is not this user's"):
                ask(squatted)

    @pytest.mark.parametrize("door", ["messages", "results", "flower"])
    def test_is_not_connected_to(
        self, squatted: Settings, door: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(celeryconfig, "broker_url", squatted.effective_broker_url)
        monkeypatch.setattr(celeryconfig, "embedded", True)
        path = str(squatted.broker_socket)
        connection = app.connection_for_write(squatted.effective_broker_url)
        with connection, pytest.raises(Exception, match="not this user's"):
            _ping(door, connection, path)

    def test_elsewhere_is_the_settings_choice(self, squatted: Settings) -> None:
        assert redis.Redis(unix_socket_path=str(squatted.broker_socket)).ping()


def _ping(door: str, connection: kombu.Connection, path: str) -> None:
    if door == "messages":  # workers, beat, submitters
        connection.default_channel.client.ping()
    elif door == "results":
        RedisBackend(app=app, url=f"socket://{path}").client.ping()
    else:
        redis.Redis(unix_socket_path=path).ping()
