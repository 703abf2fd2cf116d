from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import SettingsError
from core.settings import DEFAULT_SERVER_URL, SOCKET_PATH_LIMIT, Settings, load_settings

CANARY = "CANARY-secret-value"
SECRETS = {
    "server_token": CANARY,
    "broker_url": f"redis://:{CANARY}@broker:6379/0",
    "result_backend": f"redis://:{CANARY}@broker:6379/1",
    "qdrant_api_key": CANARY,
    "journal_url": f"postgresql+psycopg://u:{CANARY}@db/journal",
    "encryption_key": CANARY,
    "api_token": CANARY,
    "flower_basic_auth": f"u:{CANARY}",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a current folder of the test's own, and no setting of the developer's."""
    for name in [name for name in os.environ if name.startswith("ESCHER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("ESCHER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_environment_wins_then_env_then_the_home_then_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().publish_batch_size == 64

    (home / "config.toml").write_text("publish_batch_size = 2\ntransfer_concurrency = 2\n")
    assert load_settings().publish_batch_size == 2

    Path(".env").write_text("ESCHER_PUBLISH_BATCH_SIZE=3\n")
    assert load_settings().publish_batch_size == 3

    monkeypatch.setenv("ESCHER_PUBLISH_BATCH_SIZE", "4")
    assert load_settings().publish_batch_size == 4
    assert load_settings(publish_batch_size=5).publish_batch_size == 5
    assert load_settings().transfer_concurrency == 2, "each setting for itself"


def test_the_home_named_in_env_has_its_config_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESCHER_HOME")
    (home / "config.toml").write_text("api_port = 9999\n")
    Path(".env").write_text(f"ESCHER_HOME={home}\n")
    assert (load_settings().home, load_settings().api_port) == (home, 9999)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCHER_SERVER_URL", "")
    monkeypatch.setenv("ESCHER_SERVER_TOKEN", "")
    assert load_settings().server_url == DEFAULT_SERVER_URL
    assert load_settings().server_token is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8788",
        "http://localhost",
        "http://[::1]:1",
        "https://escher.example/",
        "https://10.0.0.1:8443/base",
    ],
)
def test_servers_that_may_be_asked(url: str) -> None:
    assert load_settings(server_url=url).server_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://escher.example",
        "http://10.0.0.1",
        "http://127.0.0.1.escher.example",
        "http://localhost@escher.example",
        "http://0.0.0.0",
        "ftp://127.0.0.1",
        "escher.example",
        "https://",
        f"https://user:{CANARY}@escher.example",
    ],
)
def test_a_token_never_crosses_a_network_in_clear(url: str) -> None:
    with pytest.raises(SettingsError, match="server_url") as refused:
        load_settings(server_url=url)
    assert CANARY not in str(refused.value)


def test_only_a_redis_is_a_broker() -> None:
    with pytest.raises(SettingsError, match=r"broker_url.*Redis") as refused:
        load_settings(broker_url=f"amqp://u:{CANARY}@host")
    assert CANARY not in str(refused.value)


def test_secrets_are_in_no_text_of_the_settings() -> None:
    settings = load_settings(**SECRETS)
    for text in (repr(settings), str(settings), str(settings.model_dump()), f"{vars(settings)}"):
        assert CANARY not in text
    assert CANARY not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ESCHER_API_PORT", "70000"),
        ("ESCHER_TENANT_ID", "a/b"),
        ("ESCHER_SYNC_INTERVAL_MINUTES", "0"),
        ("ESCHER_SECRETS_GATE", "maybe"),
        ("ESCHER_ENCRYPTION_KEY_SOURCE", CANARY),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert name.removeprefix("ESCHER_").lower() in refused.value.detail
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"api_port = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"api_prot = 1", "api_prot"),
        (b"api_port = 'x'", "api_port"),
    ],
)
def test_a_wrong_config_file_is_named(home: Path, content: bytes, words: str) -> None:
    (home / "config.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        load_settings()


def test_an_env_file_in_another_encoding_is_named() -> None:
    Path(".env").write_bytes(b"ESCHER_TENANT_ID=caf\xe9\n")
    with pytest.raises(SettingsError, match=r"\.env .*UTF-8"):
        load_settings()


class TestSocket:
    def test_is_in_the_home_where_its_path_is_short_enough(self, home: Path) -> None:
        settings = load_settings(home=Path("/h"))
        assert settings.broker_socket == Path("/h/run/broker.sock")

    @pytest.mark.parametrize("length", [SOCKET_PATH_LIMIT, SOCKET_PATH_LIMIT + 1])
    def test_is_elsewhere_from_the_first_byte_too_many(self, length: int) -> None:
        home = Path("/" + "h" * (length - len("//run/broker.sock")))
        settings = load_settings(home=home)
        assert len(os.fsencode(home / "run" / "broker.sock")) == length
        assert (settings.socket_dir == settings.run_path) is (length == SOCKET_PATH_LIMIT)

    def test_bytes_count_and_not_letters(self) -> None:
        settings = load_settings(home=Path("/" + "ü" * 60))
        assert settings.socket_dir != settings.run_path
        assert len(os.fsencode(settings.broker_socket)) <= SOCKET_PATH_LIMIT

    def test_every_process_finds_the_same_and_every_home_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = Path("/" + "a" * 200), Path("/" + "b" * 200)
        found = load_settings(home=one).broker_socket
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere/else")  # a cron job has none
        assert load_settings(home=one).broker_socket == found
        assert load_settings(home=other).broker_socket != found


def test_folders_follow_the_home_unless_they_are_set(home: Path, tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.playbooks_path == home / "playbooks"
    assert settings.effective_journal_url == f"sqlite:///{home / 'journal.db'}"
    moved = load_settings(playbooks_dir=tmp_path / "p", cache_dir="relative")
    assert moved.staging_path == tmp_path / "p" / ".staging", "on the playbooks' own file system"
    assert moved.cache_path == Path.cwd() / "relative"


def test_the_embedded_servers_token_is_only_for_the_embedded_server(home: Path) -> None:
    (home / "server.token").write_text(f"{CANARY}\n")
    assert load_settings().read_server_token() == CANARY
    assert load_settings(server_url="https://escher.example").read_server_token() is None
    assert load_settings(server_token="mine").read_server_token() == "mine"


def test_settings_need_no_file(home: Path) -> None:
    settings = Settings()
    assert settings.read_server_token() is None
    assert settings.read_api_token() is None
    assert settings.embeds_broker
    assert settings.embeds_qdrant
    assert settings.embeds_server
