"""The embedded broker, as the real server from the wheel or PATH."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from support.broker import running_broker, send
from support.service import eventually

from core.errors import EscherError
from core.settings import SOCKET_PATH_LIMIT, Settings, load_settings
from escher_playbooks.cli import broker
from escher_playbooks.cli.broker import BrokerBinary, find_binary, prepare_broker
from tasks.broker import under_way

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("ESCHER_BROKER_URL", raising=False)
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    return load_settings(home=home)


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    with contextlib.ExitStack() as started:
        yield lambda of=settings: started.enter_context(running_broker(of))


@pytest.fixture
def running(start: Start) -> subprocess.Popen[bytes]:
    return start()


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
    # while its disk is slow to sync, the server answers first and writes up to 2 s later
    with redis.Redis(unix_socket_path=str(settings.broker_socket)) as client:
        eventually(
            lambda: client.info("persistence")["aof_buffer_length"] == 0, 20, "it is written"
        )
    first.send_signal(signal.SIGKILL)
    first.wait()

    start()

    assert under_way(settings, ["embed"]).waiting == {"one", "two"}


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
