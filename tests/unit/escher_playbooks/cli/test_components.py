"""What `up` starts: order, arguments that the programs accept, and who is given which secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import BrokerUnreachable, SettingsError
from core.settings import Settings, load_settings
from escher_playbooks.cli.components import build_components, component_names, environment
from escher_playbooks.cli.preflight import check_before_start
from escher_playbooks.cli.supervisor import Component

ALL = ["broker", "server", "worker-transfer", "worker-embed", "beat", "api", "agent", "flower"]
CONTRACT_QUEUES = {"transfer", "embed", "search", "control"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "run" / "logs").mkdir(parents=True)
    return tmp_path / "home"


def parts_of(settings: Settings) -> dict[str, Component]:
    return {part.name: part for part in build_components(settings)}


def test_everything_is_embedded_by_default(home: Path) -> None:
    settings = load_settings(home=home)
    assert [part.name for part in build_components(settings)] == ALL == component_names(settings)


@pytest.mark.parametrize(
    ("setting", "left_out"),
    [
        ({"broker_url": "redis://127.0.0.1/0"}, "broker"),
        ({"server_url": "https://escher.example"}, "server"),
        ({"agent_enabled": False}, "agent"),
    ],
)
def test_what_is_not_embedded_is_not_started(
    home: Path, setting: dict[str, object], left_out: str
) -> None:
    settings = load_settings(home=home, **setting)
    wanted = [name for name in ALL if name != left_out]
    assert [part.name for part in build_components(settings)] == wanted
    assert component_names(settings) == wanted


def test_the_workers_take_every_queue_of_the_contract_once(home: Path) -> None:
    queues: list[str] = []
    for part in build_components(load_settings(home=home)):
        if "-Q" in part.argv:
            queues += part.argv[list(part.argv).index("-Q") + 1].split(",")
    assert sorted(queues) == sorted(CONTRACT_QUEUES)


@pytest.mark.parametrize(
    "name", ["server", "worker-transfer", "worker-embed", "beat", "agent", "flower"]
)
def test_the_programs_accept_their_arguments(home: Path, name: str) -> None:
    part = parts_of(load_settings(home=home))[name]
    done = subprocess.run(
        [*part.argv, "--help"],
        env=dict(part.env),
        cwd=home / "run",  # where it is started
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_settings_mean_the_same_to_the_parts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = home.parent / "secret"
    secret.write_text("the-token\n")
    (home / "config.toml").write_text(
        f"tenant_id = 'acme'\nplaybooks_dir = '{home.parent / 'mine'}'\n"
    )
    monkeypatch.setenv("ESCHER_HOME", str(home))
    monkeypatch.setenv("ESCHER_ALLOW_HTTP_HOSTS", "redis,qdrant")
    monkeypatch.setenv("ESCHER_API_TOKEN_FILE", str(secret))
    here = load_settings()
    code = "from core.settings import load_settings as l; print(l().model_dump_json())"

    there = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(here),
        cwd=home / "run",
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert Settings.model_validate_json(there).model_dump_json() == here.model_dump_json()
    assert here.tenant_id == "acme"
    assert here.read_api_token() == "the-token"
    assert "the-token" not in environment(here).values(), "the file is named, not its content"
    assert here.playbooks_path == home.parent / "mine"


def test_secrets_go_to_those_who_use_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCHER_ENCRYPTION_KEY", "the-key")
    monkeypatch.setenv("ESCHER_SERVER_TOKEN", "the-token")
    monkeypatch.setenv("ESCHER_FLOWER_BASIC_AUTH", "user:pass")
    (home.parent / "journal").write_text("postgresql+psycopg://u:the-pass@127.0.0.1/j")
    monkeypatch.setenv("ESCHER_JOURNAL_URL_FILE", str(home.parent / "journal"))
    parts = parts_of(load_settings(home=home))

    def given(value: str) -> set[str]:
        return {name for name, part in parts.items() if value in part.env.values()}

    assert given("the-key") == {"worker-transfer", "worker-embed", "api"}
    assert given("the-token") == {"server", "worker-transfer", "worker-embed", "api", "agent"}
    assert "flower" in given("user:pass")
    assert given(str(home.parent / "journal")) == {
        "worker-transfer",
        "worker-embed",
        "api",
        "agent",
    }
    for part in parts.values():
        line = " ".join(part.argv)
        assert not [secret for secret in ("the-key", "the-token", "user:pass") if secret in line]


def test_the_embedded_server_speaks_plain_http_on_loopback_only(home: Path) -> None:
    settings = load_settings(home=home, server_url="https://escher.example", server_embedded=True)
    with pytest.raises(SettingsError, match="ESCHER_SERVER_EMBEDDED=false"):
        check_before_start(settings)


def test_two_parts_on_one_port_are_refused(home: Path) -> None:
    settings = load_settings(
        home=home, api_port=58999, flower_port=58999, server_url="https://escher.example"
    )
    with pytest.raises(SettingsError, match="58999"):
        check_before_start(settings)


def test_a_broker_elsewhere_has_to_answer(home: Path) -> None:
    settings = load_settings(
        home=home,
        broker_url="redis://127.0.0.1:1/0",
        api_port=58998,
        flower_port=58997,
        server_url="https://escher.example",
    )
    with pytest.raises(BrokerUnreachable, match="ESCHER_BROKER_URL"):
        check_before_start(settings)
