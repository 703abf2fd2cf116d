"""Where each setting's value came from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource

from core.settings import Settings

MASK = "********"
# Shown where nothing is set and the value follows from others.
_DERIVED = {
    "playbooks_dir": "playbooks_path",
    "cache_dir": "cache_path",
}
_MADE = {
    "server_token": "server_token_path",
    "api_token": "api_token_path",
    "flower_basic_auth": "flower_auth_path",
}
_EMBEDDED = {"broker_url", "result_backend", "qdrant_url"}


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A setting as it is shown; ``source``: environment, .env, config.toml, made or default."""

    name: str
    value: str | int | float | bool | None
    source: str

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "source": self.source}


def describe(settings: Settings) -> list[SettingValue]:
    """Every setting with its value, secrets masked, and its source."""
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    dotenv = DotEnvSettingsSource(Settings)()
    shown = []
    for name in Settings.model_fields:
        value, source = getattr(settings, name), "default"
        if f"ESCHER_{name.upper()}" in in_environment:
            source = "environment"
        elif name in dotenv:
            source = ".env"
        elif name in settings.model_fields_set:
            source = "config.toml"
        elif name in _MADE:
            path = getattr(settings, _MADE[name])
            value = f"{MASK} ({path})" if path.exists() else None
            source = "made at first start"
        shown.append(SettingValue(name, _plain(settings, name, value), source))
    return shown


def _plain(settings: Settings, name: str, value: Any) -> str | int | float | bool | None:
    if isinstance(value, SecretStr):
        return MASK
    if value is None and name in _DERIVED:
        return str(getattr(settings, _DERIVED[name]))
    if value is None and name in _EMBEDDED:
        return "embedded"
    if value is None and name == "journal_url":
        return settings.effective_journal_url
    if name == "encryption_key_command" and value is not None:
        return MASK  # may carry a password
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
