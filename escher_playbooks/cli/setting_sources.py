"""Where each setting's value came from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.setting_files import CONFIG_FILE, file_variable, is_secret, unread_dotenv
from core.settings import Settings

_NAMED = 3
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
    """A setting as it is shown; ``source``: environment, file, config.toml, made or default."""

    name: str
    value: str | int | float | bool | None
    source: str

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "source": self.source}


def describe(settings: Settings) -> list[SettingValue]:
    """Every setting with its value, secrets masked, and its source."""
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    shown = []
    for name in Settings.model_fields:
        value, source = getattr(settings, name), "default"
        if f"ESCHER_{name.upper()}" in in_environment:
            source = "environment"
        elif is_secret(Settings.model_fields[name]) and file_variable(name) in in_environment:
            source = "file"
        elif name in settings.model_fields_set:
            source = "config.toml"
        elif name in _MADE:
            path = getattr(settings, _MADE[name])
            value = f"{MASK} ({path})" if path.exists() else None
            source = "made at first start"
        shown.append(SettingValue(name, _plain(settings, name, value), source))
    return shown


def ignored_dotenv(*folders: Path) -> list[str]:
    """A sentence for each `.env` in these folders that names settings, which is not read."""
    notes = []
    for path, names in unread_dotenv(*folders):
        known = [name for name in names if name in Settings.model_fields]  # their text is anybody's
        what = ", ".join(known[:_NAMED]) + (", …" if len(known) > _NAMED else "")
        notes.append(
            f"{path.absolute()} is not read ({what or 'it names settings'}): settings come from the "
            f"environment and the home's {CONFIG_FILE} only."
        )
    return notes


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
