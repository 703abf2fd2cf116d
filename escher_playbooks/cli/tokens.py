"""Secrets that a home makes for itself at its first start: one file each, 0600, never printed."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from core.errors import StorageError, storage_error
from core.files import fsync_dir, make_private_dir, read_bytes

if TYPE_CHECKING:
    from core.settings import Settings

TOKEN_BYTES = 32


def server_token(settings: Settings) -> str:
    """The embedded server's token: the setting, else the home's own."""
    return _set_or_made(settings.server_token, settings.server_token_path)


def flower_auth(settings: Settings) -> str:
    """Flower's ``user:password``: the setting, else the home's own."""
    return _set_or_made(settings.flower_basic_auth, settings.flower_auth_path, prefix="escher:")


def _set_or_made(setting: SecretStr | None, path: Path, prefix: str = "") -> str:
    if setting is not None:
        return setting.get_secret_value()
    if not path.exists():
        make_private_dir(path.parent)
        _write_first(path, f"{prefix}{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode())
    secret = read_bytes(path).decode().strip()
    if not secret:
        raise StorageError(f"{path} is empty.", "Remove it; the next start makes a new one.")
    return secret


def _write_first(path: Path, content: bytes) -> None:
    """Write the whole file under its name, unless another process was first (then keep that)."""
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)  # mkstemp makes it 0600
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)  # unlike a rename, it fails when the name is taken
        except FileExistsError:
            pass  # read by the caller: both processes then use the same secret
        finally:
            temporary.unlink(missing_ok=True)
        fsync_dir(path.parent)
    except OSError as error:
        raise storage_error(error, f"Writing {path}") from error
