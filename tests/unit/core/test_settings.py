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


def test_the_environment_wins_then_the_home_then_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().publish_batch_size == 64

    (home / "config.toml").write_text("publish_batch_size = 2\ntransfer_concurrency = 2\n")
    assert load_settings().publish_batch_size == 2

    monkeypatch.setenv("ESCHER_PUBLISH_BATCH_SIZE", "4")
    assert load_settings().publish_batch_size == 4
    assert load_settings(publish_batch_size=5).publish_batch_size == 5
    assert load_settings().transfer_concurrency == 2, "each setting for itself"


class TestTheCurrentFolderChoosesNothing:
    @pytest.mark.parametrize("home", [".", "here", "../there"])
    def test_not_where_the_default_home_is(
        self, monkeypatch: pytest.MonkeyPatch, home: str
    ) -> None:
        monkeypatch.delenv("ESCHER_HOME", raising=False)
        monkeypatch.setenv("HOME", home)
        with pytest.raises(SettingsError, match="home"):
            load_settings()

    @pytest.mark.parametrize(
        "line",
        [
            "ESCHER_ENCRYPTION_KEY_SOURCE=command\nESCHER_ENCRYPTION_KEY_COMMAND='touch ran'",
            "ESCHER_HOME=/somewhere/else",
            "ESCHER_SERVER_URL=https://evil.example",
            "export ESCHER_BROKER_URL=redis://127.0.0.1:1/0",
            "caf\xe9",
        ],
    )
    def test_not_by_an_env_file(self, line: str) -> None:
        before = load_settings()
        Path(".env").write_bytes(line.encode("latin-1"))
        assert load_settings() == before

    def test_not_by_a_config_file(self) -> None:
        before = load_settings()
        Path("config.toml").write_text("api_port = 9999\n")
        assert load_settings() == before

    @pytest.mark.parametrize("value", ["home", "./home", "../home", "."])
    def test_not_by_a_relative_home(
        self, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in (tmp_path / "cwd" / "home", tmp_path / "cwd"):
            folder.mkdir(exist_ok=True)
            (folder / "config.toml").write_text("tenant_id = 'evil'\n")
        monkeypatch.setenv("ESCHER_HOME", value)
        with pytest.raises(SettingsError, match=r"home: .*relative.*whole path"):
            load_settings()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("playbooks_dir", "playbooks"),
            ("cache_dir", "../cache"),
            ("journal_url", "sqlite:///journal.db"),
            ("broker_url", "redis+socket://run/broker.sock"),
            ("result_backend", "redis+socket://broker.sock"),
        ],
    )
    @pytest.mark.parametrize("where", ["environment", "config.toml"])
    def test_not_by_a_relative_path(
        self, name: str, value: str, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if where == "environment":
            monkeypatch.setenv(f"ESCHER_{name.upper()}", value)
        else:
            (home / "config.toml").write_text(f"{name} = {value!r}\n")
        with pytest.raises(SettingsError, match=rf"{name}: .*relative.*whole"):
            load_settings()

    def test_not_by_a_secrets_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_text("theirs")
        monkeypatch.setenv("ESCHER_SERVER_TOKEN_FILE", "token")
        with pytest.raises(SettingsError, match=r"ESCHER_SERVER_TOKEN_FILE.*relative"):
            load_settings()


def test_a_home_leads_to_no_other_home(home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text(f"home = '{tmp_path / 'other'}'\n")
    with pytest.raises(SettingsError, match="another home"):
        load_settings()
    (home / "config.toml").write_text(f"home = '{home}'\napi_port = 9999\n")
    assert load_settings().api_port == 9999, "its own name is fine"


class TestASecretInAFile:
    def test_is_taken_whatever_its_mode(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "secret"
        for name, value in SECRETS.items():
            path.write_text(f"{value}\n")
            path.chmod(0o644)
            monkeypatch.setenv(f"ESCHER_{name.upper()}_FILE", str(path))
            monkeypatch.setenv("ESCHER_ALLOW_HTTP_HOSTS", "broker,db")
            secret = getattr(load_settings(), name)
            assert secret.get_secret_value() == value, name
            assert path.stat().st_mode & 0o777 == 0o644, "it is not ours"
            monkeypatch.delenv(f"ESCHER_{name.upper()}_FILE")

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 70_000])
    def test_that_holds_none_is_named(
        self, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "secret").write_bytes(content)
        monkeypatch.setenv("ESCHER_API_TOKEN_FILE", str(tmp_path / "secret"))
        with pytest.raises(SettingsError, match=r"ESCHER_API_TOKEN_FILE.*secret"):
            load_settings()

    def test_and_in_a_variable_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "secret").write_text("one")
        monkeypatch.setenv("ESCHER_API_TOKEN_FILE", str(tmp_path / "secret"))
        monkeypatch.setenv("ESCHER_API_TOKEN", "other")
        with pytest.raises(SettingsError, match="both set"):
            load_settings()


class TestAConfigFileThatOthersCanReach:
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
    def test_is_closed_and_it_is_said(
        self, mode: int, home: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = home / "config.toml"
        path.write_text(f"api_token = '{CANARY}'\n")
        path.chmod(mode)
        assert load_settings().api_token is not None
        assert path.stat().st_mode & 0o777 == 0o600
        assert "change the secrets" in caplog.text
        assert CANARY not in caplog.text
        caplog.clear()
        load_settings()
        assert not caplog.text, "once"

    @pytest.mark.parametrize(
        ("mode", "content", "refused"),
        [
            (0o644, "api_token = 'x'", True),
            (0o644, "encryption_key_command = 'x'", True),
            (0o666, "api_port = 9999", True),
            (0o644, "api_port = 9999", False),
        ],
    )
    def test_is_refused_where_it_can_not_be_closed(
        self, mode: int, content: str, refused: bool, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        path = home / "config.toml"
        path.write_text(content)
        path.chmod(mode)
        monkeypatch.setattr(os, "fchmod", read_only)
        if refused:
            with pytest.raises(SettingsError, match="chmod 600"):
                load_settings()
        else:
            assert load_settings().api_port == 9999

    def test_is_refused_when_it_is_somebody_elses(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = home / "config.toml"
        path.write_text("api_port = 9999")
        path.chmod(0o600)
        uid = path.stat().st_uid or 4321
        os.chown(path, uid, -1) if os.getuid() == 0 else None
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(SettingsError, match=f"belongs to user {uid}"):
            load_settings()


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCHER_SERVER_URL", "")
    monkeypatch.setenv("ESCHER_SERVER_TOKEN", "")
    assert load_settings().server_url == DEFAULT_SERVER_URL
    assert load_settings().server_token is None


HTTP = ("server_url", "qdrant_url")
REDIS = ("broker_url", "result_backend")


class TestPlainText:
    """What carries tokens or playbooks is encrypted, or stays here, or was allowed by name."""

    @pytest.mark.parametrize("name", HTTP)
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:8788",
            "http://127.0.0.53",
            "http://localhost",
            "http://[::1]:1",
            "https://escher.example",
            "https://10.0.0.1:8443/base",
        ],
    )
    def test_http_here_and_https_anywhere(self, name: str, url: str) -> None:
        assert getattr(load_settings(**{name: url}), name) == url

    @pytest.mark.parametrize("name", HTTP)
    @pytest.mark.parametrize(
        "url",
        [
            "http://escher.example",
            "http://10.0.0.1",
            "http://127.0.0.1.escher.example",
            "http://localhost@escher.example",
            "http://0.0.0.0",
            "http://[::ffff:10.0.0.1]",
            "ftp://127.0.0.1",
            "escher.example",
            "qdrant:6333",
            "https://",
            "http://[::1",
            f"https://user:{CANARY}@escher.example",
            f"http://user:{CANARY}@escher.example",
        ],
    )
    def test_http_elsewhere_is_refused(self, name: str, url: str) -> None:
        with pytest.raises(SettingsError, match=name) as refused:
            load_settings(**{name: url})
        assert CANARY not in str(refused.value)

    @pytest.mark.parametrize("name", REDIS)
    @pytest.mark.parametrize(
        "url",
        [
            "redis://127.0.0.1:6379/0",
            "redis://",
            f"redis://:{CANARY}@localhost/0",
            f"rediss://:{CANARY}@redis.example/0",
            "redis+socket:///run/redis.sock",
            "sentinel://127.0.0.1:26379;sentinel://[::1]:26379",
        ],
    )
    def test_redis_here_and_with_tls_anywhere(self, name: str, url: str) -> None:
        assert getattr(load_settings(**{name: url}), name).get_secret_value() == url

    @pytest.mark.parametrize("name", REDIS)
    @pytest.mark.parametrize(
        "url",
        [
            f"redis://:{CANARY}@redis.example:6379/0",
            "redis://10.0.0.1",
            f"redis://127.0.0.1;redis://:{CANARY}@redis.example",
            "sentinel://127.0.0.1:26379;sentinel://redis.example:26379",
            "redis://127.0.0.1,redis.example",
            f"redis://:{CANARY}@redis.example#@localhost/0",
            f"redis://:{CANARY}@localhost/0?host=redis.example",
            f"redis://u:{CANARY}@10.0.0.1?x=@127.0.0.1",
            f"amqp://u:{CANARY}@127.0.0.1",
            f"db+postgresql://u:{CANARY}@127.0.0.1/x",
        ],
    )
    def test_redis_elsewhere_is_refused(self, name: str, url: str) -> None:
        with pytest.raises(SettingsError, match=name) as refused:
            load_settings(**{name: url})
        assert CANARY not in str(refused.value)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql+psycopg://u:p@127.0.0.1/journal",
            "postgresql+psycopg://u@/journal",
            "postgresql+psycopg://u@/journal?host=/run/postgresql",
            "postgresql+psycopg://u:p@db.example/journal?sslmode=require",
            "postgresql://u:p@db.example:5432/journal?sslmode=verify-full&x=1",
            "postgresql+psycopg://u:p@/journal?host=db.example&sslmode=verify-ca",
            "sqlite:////var/lib/escher/journal.db",
            "postgresql+psycopg://u:slash/and?mark@127.0.0.1/journal",
            "postgresql+psycopg://u:a/b@db.example/journal?sslmode=require",
        ],
    )
    def test_a_journal_here_or_with_tls(self, url: str) -> None:
        assert load_settings(journal_url=url).effective_journal_url == url

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql+psycopg://u:{CANARY}@db.example/journal",
            f"postgresql+psycopg://u:{CANARY}@db.example/journal?sslmode=prefer",
            f"postgresql+psycopg://u:{CANARY}@db.example/journal?sslmode=require&sslmode=disable",
            f"postgresql+psycopg://u:{CANARY}@127.0.0.1,db.example/journal",
            f"postgresql+psycopg://u:{CANARY}@127.0.0.1/journal?host=db.example",
            f"postgresql+psycopg://u:{CANARY}@/journal?hostaddr=10.0.0.1",
            f"postgresql+psycopg://u:{CANARY}@[fe80::1]:5432/journal",
            f"postgresql+psycopg://u:{CANARY}@/journal?service=far",
            f"postgresql+psycopg://localhost:{CANARY}/@db.example/journal",
            f"postgresql+psycopg://localhost:{CANARY}?x=@db.example/journal",
            f"postgresql+psycopg://u:{CANARY}@db.example/journal?x=1#sslmode=require",
            f"postgresql+psycopg://u:{CANARY}@127.0.0.1:port/journal",
            f"mysql://u:{CANARY}@127.0.0.1/journal",
            f"u:{CANARY}@db.example/journal",
        ],
    )
    def test_a_journal_elsewhere_without_tls_is_refused(self, url: str) -> None:
        with pytest.raises(SettingsError, match="journal_url") as refused:
            load_settings(journal_url=url)
        assert CANARY not in str(refused.value)

    def test_a_journal_where_the_environment_says_is_elsewhere_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", "db.example")
        with pytest.raises(SettingsError, match=r"db\.example"):
            load_settings(journal_url="postgresql+psycopg://u@/journal")

    @pytest.mark.parametrize(
        ("variable", "value", "url"),
        [
            ("PGHOSTADDR", "10.0.0.1", "postgresql+psycopg://u@localhost/journal"),
            ("PGHOSTADDR", "127.0.0.1,10.0.0.1", "postgresql+psycopg://u@/journal"),
            ("PGSERVICE", "far", "postgresql+psycopg://u@/journal"),
        ],
    )
    def test_nor_does_the_environment_lead_past_the_url(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError, match="journal_url"):
            load_settings(journal_url=url)
        assert load_settings(journal_url=f"{url}?sslmode=require")

    def test_private_hosts_are_allowed_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ESCHER_ALLOW_HTTP_HOSTS", "redis, Qdrant.internal,db,10.0.0.7")
        settings = load_settings(
            server_url="http://10.0.0.7:8788",
            qdrant_url="http://qdrant.INTERNAL:6333",
            broker_url="redis://redis:6379/0",
            result_backend="sentinel://redis:1;sentinel://db:2",
            journal_url="postgresql+psycopg://u:p@db/journal",
        )
        assert settings.may_go_in_clear("redis")
        assert not settings.may_go_in_clear("redis.example")
        for host in ("qdrant", "internal", "other"):
            with pytest.raises(SettingsError, match="allow_http_hosts"):
                load_settings(qdrant_url=f"http://{host}:6333")

    @pytest.mark.parametrize("value", ["*", "*.example", "http://redis", "redis:6379", "a b"])
    def test_what_is_allowed_are_hosts(self, value: str) -> None:
        with pytest.raises(SettingsError, match="allow_http_hosts"):
            load_settings(allow_http_hosts=value)


def test_secrets_are_in_no_text_of_the_settings() -> None:
    settings = load_settings(**SECRETS, allow_http_hosts="broker,db")
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
    moved = load_settings(playbooks_dir=tmp_path / "p", cache_dir="~/cache")
    assert moved.staging_path == tmp_path / "p" / ".staging", "on the playbooks' own file system"
    assert moved.cache_path == Path.home() / "cache"


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
