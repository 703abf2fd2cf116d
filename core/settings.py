"""Settings: ``ESCHER_*`` variables, then ``<home>/config.toml``, then defaults.

Names and defaults are those of ``contract/interface.md``. Derived paths stand here too, so that
every process of a home finds the same broker, keys and folders.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.errors import SettingsError
from core.files import read_bytes
from core.setting_files import HomeConfig, SecretFiles, absolute
from core.tls_policy import (
    LOOPBACK_HOSTS,
    check_allowed_hosts,
    check_http,
    check_journal,
    check_redis,
    may_go_in_clear,
)

__all__ = [
    "DEFAULT_SERVER_URL", "LOOPBACK_HOSTS", "SOCKET_PATH_LIMIT", "Settings", "load_settings",
]  # fmt: skip

DEFAULT_SERVER_URL = "http://127.0.0.1:8788"
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the final NUL


class Settings(BaseSettings):
    """The settings of one process; make it by `load_settings`, which turns errors into words."""

    model_config = SettingsConfigDict(
        env_prefix="ESCHER_",
        env_file=None,  # a cloned repository's .env chooses nothing
        env_ignore_empty=True,  # ESCHER_HOME= would be the current folder
        extra="ignore",
        frozen=False,
    )

    # the default is checked, too: HOME may be relative
    home: Path = Field(default_factory=lambda: Path.home() / ".escher", validate_default=True)
    playbooks_dir: Path | None = None
    cache_dir: Path | None = None
    cache_max_size_mb: float = Field(500, gt=0)
    cache_ttl_days: float = Field(7, gt=0)
    cache_lease_seconds: float = Field(300, ge=0)
    serve_stale: bool = False
    clear_text_seconds: float = Field(900, gt=0)
    download_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allow_http_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_script_size_mb: float = Field(64, gt=0)
    sync_enabled: bool = True
    sync_interval_minutes: float = Field(5, gt=0)
    edit_quiet_seconds: float = Field(3, ge=0)
    sync_pull_scripts: bool = False
    server_url: str = DEFAULT_SERVER_URL
    server_embedded: bool | None = None
    tenant_id: str = Field("local", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    server_token: SecretStr | None = None
    broker_url: SecretStr | None = None
    result_backend: SecretStr | None = None
    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    index_private_remotely: bool = False
    journal_url: SecretStr | None = None
    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    encryption_key_source: Literal["file", "keyring", "env", "command"] = "file"
    encryption_key: SecretStr | None = None
    encryption_key_command: str | None = None
    secrets_gate: Literal["off", "warn", "block"] = "block"
    run_policy: Literal["approved", "own", "any"] = "own"
    reviewer_token: SecretStr | None = None
    trash_days: float = Field(30, gt=0)
    api_host: str = "127.0.0.1"
    api_port: int = Field(8787, ge=1, le=65535)
    api_token: SecretStr | None = None
    flower_port: int = Field(5555, ge=1, le=65535)
    flower_basic_auth: SecretStr | None = None
    transfer_concurrency: int = Field(4, ge=1, le=64)
    publish_batch_size: int = Field(64, ge=1, le=512)
    server_faults: bool = False
    agent_enabled: bool = True
    share_private_with_agent: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        files, home = SecretFiles(settings_cls), HomeConfig(settings_cls)
        return init_settings, env_settings, files, home

    @field_validator("home", "playbooks_dir", "cache_dir", mode="after")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute(value)

    @field_validator("download_hosts", "allow_http_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        """``a.example.com, *.b.example.com:8443``, as an environment variable has it."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allow_http_hosts", mode="after")
    @classmethod
    def _check_allowed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_allowed_hosts(value)

    @field_validator("server_url", mode="after")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        """What is secret crosses no network in clear."""
        for name, check in (
            ("server_url", check_http),
            ("qdrant_url", check_http),
            ("broker_url", check_redis),
            ("result_backend", check_redis),
            ("journal_url", check_journal),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                check(
                    value.get_secret_value() if isinstance(value, SecretStr) else value,
                    self.allow_http_hosts,
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return self

    def may_go_in_clear(self, host: str) -> bool:
        """Whether ``host`` is spoken to without TLS: this machine, or one of allow_http_hosts."""
        return may_go_in_clear(host, self.allow_http_hosts)

    # -- what is embedded -------------------------------------------------------------------
    @property
    def embeds_server(self) -> bool:
        """Whether `up` starts the reference server."""
        if self.server_embedded is not None:
            return self.server_embedded
        return self.server_url == DEFAULT_SERVER_URL

    @property
    def embeds_broker(self) -> bool:
        return self.broker_url is None

    @property
    def embeds_qdrant(self) -> bool:
        return self.qdrant_url is None

    # -- folders and files ------------------------------------------------------------------
    @property
    def playbooks_path(self) -> Path:
        return self.playbooks_dir or self.home / "playbooks"

    @property
    def staging_path(self) -> Path:
        """New versions are put together here, on the playbooks' own file system."""
        return self.playbooks_path / ".staging"

    @property
    def cache_path(self) -> Path:
        return self.cache_dir or self.home / "cache"

    @property
    def script_cache_path(self) -> Path:
        return self.cache_path / "scripts"

    @property
    def conflicts_path(self) -> Path:
        return self.home / "conflicts"

    @property
    def trash_path(self) -> Path:
        return self.home / "trash"

    @property
    def collection_path(self) -> Path:
        return self.home / "qdrant" / "collections" / "user_playbooks"

    @property
    def run_path(self) -> Path:
        """Pids, logs and lock files of the running service."""
        return self.home / "run"

    @property
    def server_data_path(self) -> Path:
        return self.home / "server"

    @property
    def key_path(self) -> Path:
        return self.home / "keys" / "master.key"

    @property
    def api_token_path(self) -> Path:
        return self.home / "api.token"

    @property
    def server_token_path(self) -> Path:
        return self.home / "server.token"

    @property
    def flower_auth_path(self) -> Path:
        return self.home / "flower.auth"

    @property
    def effective_journal_url(self) -> str:
        if self.journal_url is not None:
            return self.journal_url.get_secret_value()
        return f"sqlite:///{self.home / 'journal.db'}"

    @cached_property
    def socket_dir(self) -> Path:
        """A 0700 folder whose path is short enough for a Unix socket."""
        if len(os.fsencode(self.run_path / "broker.sock")) <= SOCKET_PATH_LIMIT:
            return self.run_path
        # found by the user's id alone: a shell, a cron job and a worker must find the same one
        name = "escher-" + hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        runtime = Path(f"/run/user/{os.getuid()}")
        if (
            runtime.is_dir()
            and os.access(runtime, os.W_OK)
            and runtime.stat().st_uid == os.getuid()
        ):
            return runtime / name
        return Path("/tmp") / f"{name}-{os.getuid()}"  # noqa: S108  made 0700 and checked to be ours

    @property
    def broker_socket(self) -> Path:
        return self.socket_dir / "broker.sock"

    @property
    def effective_broker_url(self) -> str:
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        return f"redis+socket://{self.broker_socket}"

    @property
    def effective_result_backend(self) -> str:
        if self.result_backend is not None:
            return self.result_backend.get_secret_value()
        return self.effective_broker_url

    @property
    def api_url(self) -> str:
        host = f"[{self.api_host}]" if ":" in self.api_host else self.api_host
        return f"http://{host}:{self.api_port}"

    def read_server_token(self) -> str | None:
        """The setting, else the embedded server's own token where it has been made."""
        if self.server_token is not None:
            return self.server_token.get_secret_value()
        return _read_secret(self.server_token_path) if self.embeds_server else None

    def read_api_token(self) -> str | None:
        if self.api_token is not None:
            return self.api_token.get_secret_value()
        return _read_secret(self.api_token_path)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; a wrong one raises `SettingsError` that names it."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(
                filter(None, [".".join(str(part) for part in item["loc"]), _words(item["msg"])])
            )
            for item in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(
            f"Settings: {problems}.",
            "Change it in the environment (ESCHER_…) or config.toml.",
        ) from error


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")


def _read_secret(path: Path) -> str | None:
    try:
        if not os.path.lexists(path):
            return None
        return read_bytes(path).decode().strip() or None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is no text.", "Remove it; the next start makes a new one."
        ) from error
