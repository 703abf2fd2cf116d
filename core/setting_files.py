"""Reads settings that stand in files: ``<home>/config.toml``, and secrets named by ``ESCHER_…_FILE``.

Nothing is read from the current folder: a cloned repository must not choose what runs or where
things go. Paths are absolute for the same reason.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from core.errors import SettingsError, storage_error

CONFIG_FILE = "config.toml"
MAX_SECRET_BYTES = 64 * 1024
_MAX_DOTENV_BYTES = 64 * 1024
_DOTENV_LINE = re.compile(
    rb"^[ \t]*(?:export[ \t]+)?ESCHER_([A-Za-z0-9_]{1,64})[ \t]*=", re.MULTILINE
)
_OTHERS = 0o077
_OTHERS_WRITE = 0o022

log = logging.getLogger(__name__)


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's values are masked, and may be given as a file."""
    return "SecretStr" in str(field.annotation)


def file_variable(name: str) -> str:
    """The variable that names the file of a secret setting."""
    return f"ESCHER_{name.upper()}_FILE"


def absolute(value: Path) -> Path:
    """``value`` with ``~`` opened; a relative one raises ``ValueError``."""
    try:
        expanded = value.expanduser()
    except RuntimeError as error:  # ~stranger
        raise ValueError(f"{value} can't be found: {error}") from None
    if not expanded.is_absolute():
        raise ValueError(
            f"{str(value)!r} is relative, so the current folder would choose; write the whole path"
        )
    return Path(os.path.normpath(expanded))


class SecretFiles(PydanticBaseSettingsSource):
    """``ESCHER_SERVER_TOKEN_FILE=/run/secrets/token`` and the like; the file may have any mode."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {
            name: _read_secret(file_variable(name), os.environ[file_variable(name)])
            for name, field in self.settings_cls.model_fields.items()
            if is_secret(field) and os.environ.get(file_variable(name))
        }


def _read_secret(variable: str, path: str) -> str:
    if os.environ.get(variable.removesuffix("_FILE")):
        raise SettingsError(
            f"{variable.removesuffix('_FILE')} and {variable} are both set.", "Unset one of them."
        )
    try:
        with absolute(Path(path)).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        secret = content.decode().strip()
    except UnicodeDecodeError:
        secret = ""
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}.", "Name the file by its whole path.") from None
    except OSError as error:
        raise SettingsError(
            f"{variable} names {path}, which can't be read: {error.strerror}.",
            "Correct the path, or let this user read the file.",
        ) from error
    if not secret or len(content) > MAX_SECRET_BYTES:
        raise SettingsError(
            f"{variable} names {path}, which holds no secret (empty, over 64 KiB, or no text).",
            "Write the secret into it, and nothing else.",
        )
    return secret


class HomeConfig(PydanticBaseSettingsSource):
    """``<home>/config.toml``; the home itself comes from the environment or the default."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        try:
            home = absolute(Path(self.current_state.get("home") or "~/.escher"))
        except ValueError:
            return {}  # the field's own check says so
        path = home / CONFIG_FILE
        try:
            values, mode, closed = _read_toml(path)
        except FileNotFoundError:
            return {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsError(
                f"{path} is not TOML: {error}.", "Mend or remove the file."
            ) from error
        except OSError as error:
            raise storage_error(error, f"Reading {path}") from error
        unknown = sorted(set(values) - set(self.settings_cls.model_fields))
        if unknown:
            raise SettingsError(
                f"{path} names unknown settings: {', '.join(unknown)}.",
                "`escher-playbooks config` lists the known ones.",
            )
        secrets = self._secrets(values)
        if closed and mode & _OTHERS and (secrets or mode & _OTHERS_WRITE):
            done = "written" if mode & _OTHERS_WRITE else "read"
            rest = f"; change the secrets in it ({', '.join(secrets)})" if secrets else ""
            log.warning("%s could be %s by others: it is private now%s.", path, done, rest)
        if secrets and not closed:
            raise SettingsError(
                f"{path} holds secrets ({', '.join(secrets)}) and can be read by others.",
                f"chmod 600 {path}, and change the secrets; or give them as files (ESCHER_…_FILE).",
            )
        if Path(values.pop("home", home)) != home:
            raise SettingsError(
                f"{path} names another home.", "Set ESCHER_HOME; a home does not lead to another."
            )
        return values

    def _secrets(self, values: dict[str, Any]) -> list[str]:
        fields = self.settings_cls.model_fields
        return [
            name
            for name in sorted(values)
            if is_secret(fields[name]) or name == "encryption_key_command"  # it may hold a password
        ]


def _read_toml(path: Path) -> tuple[dict[str, Any], int, bool]:
    """The values, the mode that the file had, and whether it is its owner's only now.

    A file that others can write may hold anybody's choices, so it is refused where that can't be
    mended, and so is one that belongs to somebody else.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if os.geteuid() and found.st_uid not in {0, os.geteuid()}:
            raise SettingsError(
                f"{path} belongs to user {found.st_uid}, who would choose what runs here.",
                "Make the file your own, or remove it.",
            )
        mode = stat.S_IMODE(found.st_mode)
        closed = not mode & _OTHERS
        if not closed and stat.S_ISREG(found.st_mode):
            try:
                os.fchmod(file.fileno(), mode & ~_OTHERS)
            except OSError as error:
                if mode & _OTHERS_WRITE:
                    raise SettingsError(
                        f"{path} can be written by others (mode {mode:04o}).", f"chmod 600 {path}"
                    ) from error
            else:
                closed = True
        return tomllib.load(file), mode, closed


def unread_dotenv(*folders: Path) -> list[tuple[Path, list[str]]]:
    """Find ``.env`` files in these folders that name settings, and which; none is read any longer."""
    found = []
    for folder in dict.fromkeys(folders):
        path = folder / ".env"
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue  # a pipe would keep us waiting
            with path.open("rb") as file:
                content = file.read(_MAX_DOTENV_BYTES)
        except OSError:
            continue
        names = [match.decode().lower() for match in _DOTENV_LINE.findall(content)]
        if names:
            found.append((path, list(dict.fromkeys(names))))
    return found
