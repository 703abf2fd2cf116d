"""AES-256-GCM envelopes: a fresh data key a file version, wrapped by the home's master key.

An envelope, as bytes::

    ESCHERv1                     8 bytes, the format
    header length                4 bytes, big-endian
    header                       JSON: {kid, wrap_nonce, wrapped_key, nonce, generation, aad},
                                 base64 values
    ciphertext                   AES-256-GCM with a 16-byte tag

Authenticated data of the content: format, playbook id, version, relative path, generation and the
constant ``sensitive``, so that a file swapped with another, or rolled back to an older one, is
refused. ``aad`` says in which form they are bound: 2; envelopes of version 0.1.0 have none of it, and
no ``sensitive``. Whoever changes it changes what is authenticated, so nothing opens. The key id is bound
in the wrap of the data key only: rotating the master key rewraps and touches no content.
Source: NIST SP 800-38D; the envelope follows ``design.md``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.bounded_json import read_object
from core.errors import IntegrityError, KeyUnavailable, WrongKey, storage_error
from core.files import find_program, make_private_dir, write_new_file
from core.settings import Settings

MAGIC = b"ESCHERv1"
SENSITIVE = "sensitive"  # what every envelope is for
AAD_FORM = 2
KEY_BYTES = 32
NONCE_BYTES = 12
MAX_HEADER_BYTES = 4096  # ours have some 250
KEY_FILE_VERSION = 1
_KEYRING_SERVICE = "escher-playbook-service"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an encrypted content belongs; it opens nowhere else."""

    playbook_id: str
    version: str
    path: str
    generation: int

    def authenticated_data(self, form: int = 2) -> bytes:
        parts = [MAGIC.decode(), self.playbook_id, self.version, self.path, self.generation]
        if form > 1:
            parts.append(SENSITIVE)
        return json.dumps(parts, ensure_ascii=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key-encryption key; ``key_id`` is derived from it and says nothing about it."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise KeyUnavailable(
                f"The master key has {len(self.key)} bytes instead of {KEY_BYTES}.",
                "Give 32 random bytes in base64.",
            )

    def __repr__(self) -> str:
        return f"MasterKey({self.key_id})"

    @property
    def key_id(self) -> str:
        return hashlib.sha256(b"escher key id" + self.key).hexdigest()[:16]


def is_sealed(content: bytes) -> bool:
    """Whether ``content`` is an envelope."""
    return content.startswith(MAGIC)


def sealed_generation(sealed: bytes, what: str) -> int:
    """The generation that an envelope says it has; only `Envelope.open` proves it."""
    return int(_split(sealed, what)[0]["generation"])


class Envelope:
    """Seals and opens content with one master key, loaded at the first use when it is a function."""

    def __init__(self, master: MasterKey | Callable[[], MasterKey]) -> None:
        self._source = master

    @cached_property
    def _master(self) -> MasterKey:
        return self._source if isinstance(self._source, MasterKey) else self._source()

    @property
    def key_id(self) -> str:
        return self._master.key_id

    def seal(self, content: bytes, place: Place) -> bytes:
        """Encrypt under a fresh data key."""
        data_key = AESGCM.generate_key(bit_length=256)
        nonce, wrap_nonce = os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
        wrapped = AESGCM(self._master.key).encrypt(wrap_nonce, data_key, self._wrap_data())
        header = json.dumps({
            "kid": self._master.key_id,
            "wrap_nonce": _b64(wrap_nonce),
            "wrapped_key": _b64(wrapped),
            "nonce": _b64(nonce),
            "generation": place.generation,
            "aad": AAD_FORM,
        }).encode()  # fmt: skip
        ciphertext = AESGCM(data_key).encrypt(nonce, content, place.authenticated_data())
        return MAGIC + len(header).to_bytes(4, "big") + header + ciphertext

    def open(self, sealed: bytes, place: Place) -> bytes:
        """Decrypt; `WrongKey` or `IntegrityError` when it is not this key's or not this place's."""
        what = f"{place.playbook_id}@{place.version} {place.path}"
        header, ciphertext = _split(sealed, what)
        if header["kid"] != self._master.key_id:
            raise WrongKey(
                f"{what} is encrypted with key {header['kid']}, the key at hand is {self.key_id}.",
                "Give the home its own key (see encryption_key_source), or restore it from recovery.",
            )
        try:
            data_key = AESGCM(self._master.key).decrypt(
                header["wrap_nonce"], header["wrapped_key"], self._wrap_data()
            )
        except InvalidTag as error:
            raise WrongKey(f"The data key of {what} does not open.", "Restore the file.") from error
        try:
            bound = place.authenticated_data(header["aad"])
            return AESGCM(data_key).decrypt(header["nonce"], ciphertext, bound)
        except InvalidTag as error:
            raise IntegrityError(
                f"{what} was changed, swapped or rolled back (generation {header['generation']},"
                f" expected {place.generation}).",
                "Restore this version from a backup, or update the playbook with the right content.",
            ) from error

    def seal_text(self, content: bytes, place: Place) -> str:
        """`seal` as base64, for JSON."""
        return _b64(self.seal(content, place))

    def open_text(self, sealed: str, place: Place) -> bytes:
        """`open` of `seal_text`'s form."""
        try:
            return self.open(base64.b64decode(sealed, validate=True), place)
        except binascii.Error as error:
            raise IntegrityError(f"{place.path} is not base64.", "Restore this version.") from error

    def _wrap_data(self) -> bytes:
        return MAGIC + b"|" + self._master.key_id.encode()


def load_master_key(settings: Settings, *, create: bool = True) -> MasterKey:
    """The home's key from `encryption_key_source`; the key file is made at the first use."""
    match settings.encryption_key_source:
        case "file":
            return _key_from_file(settings.key_path, create=create)
        case "env":
            if settings.encryption_key is None:
                raise KeyUnavailable(
                    "encryption_key_source is env and ESCHER_ENCRYPTION_KEY is not set.",
                    "Set it to 32 random bytes in base64 (openssl rand -base64 32).",
                )
            return MasterKey(
                _decode(settings.encryption_key.get_secret_value(), "ESCHER_ENCRYPTION_KEY")
            )
        case "command":
            return _key_from_command(settings.encryption_key_command, settings.home)
        case "keyring":
            return _key_from_keyring(str(settings.home), create=create)


def _key_from_file(path: Path, *, create: bool) -> MasterKey:
    try:
        if path.parent.is_symlink() or path.is_symlink():
            raise KeyUnavailable(
                f"The key file {path} is behind a link, which may lead to another's.",
                "Put the file itself there, or set encryption_key_source to env, keyring or command.",
            )
        document = read_object(path.read_bytes(), max_bytes=MAX_HEADER_BYTES)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise KeyUnavailable(
                f"The key file {path} can be read by others (mode {mode:o}).", f"chmod 600 {path}"
            )
        return MasterKey(_decode(document["key"], str(path)))
    except FileNotFoundError:
        if not create:
            raise KeyUnavailable(
                f"The key file {path} is not there.",
                "Restore it from your backup; without it the encrypted content can't be read.",
            ) from None
    except OSError as error:
        raise storage_error(error, f"Reading the key file {path}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeyUnavailable(
            f"The key file {path} is damaged.", "Restore it from a backup."
        ) from error
    key = os.urandom(KEY_BYTES)
    make_private_dir(path.parent)
    body = json.dumps({"version": KEY_FILE_VERSION, "key": _b64(key)}).encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_new_file(temporary, body)
        # link, not rename: of two processes that make the first key, one wins and both use it
        os.link(temporary, path)
    except FileExistsError:
        return _key_from_file(path, create=False)
    except OSError as error:
        raise storage_error(error, f"Writing the key file {path}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return MasterKey(key)


def _key_from_command(command: str | None, home: Path) -> MasterKey:
    if not command:
        raise KeyUnavailable(
            "encryption_key_source is command and encryption_key_command is not set.",
            "Set it to a command that prints 32 bytes in base64.",
        )
    try:
        program, *arguments = shlex.split(command)
        # run in the home: a script or a program of the current folder is nobody's choice
        folder = home if home.is_dir() else Path("/")
        found = find_program(program) if "/" not in program else str(folder / program)
        if found is None:
            raise FileNotFoundError(program)
        done = subprocess.run(
            [found, *arguments], cwd=folder, capture_output=True, check=True, timeout=30, text=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # the command's output may hold the key, so only the kind of failure is told
        raise KeyUnavailable(
            f"encryption_key_command failed ({type(error).__name__}).", "Run it by hand."
        ) from None
    return MasterKey(_decode(done.stdout, "encryption_key_command"))


def _key_from_keyring(home: str, *, create: bool) -> MasterKey:
    try:
        import keyring
        import keyring.errors
    except ImportError as error:
        raise KeyUnavailable(
            "The package keyring is not installed.", "pip install escher-playbook-service[keyring]"
        ) from error
    try:
        stored = keyring.get_password(_KEYRING_SERVICE, home)
        if stored is None and create:
            stored = _b64(os.urandom(KEY_BYTES))
            keyring.set_password(_KEYRING_SERVICE, home, stored)
    except keyring.errors.KeyringError as error:
        raise KeyUnavailable(
            f"The system keyring failed: {type(error).__name__}.",
            "Unlock it, or set encryption_key_source to file.",
        ) from error
    if stored is None:
        raise KeyUnavailable(f"The keyring holds no key for {home}.", "Restore it from a backup.")
    return MasterKey(_decode(stored, "the keyring's entry"))


def _split(sealed: bytes, what: str) -> tuple[dict[str, Any], bytes]:
    remedy = "Restore this version from a backup, or update the playbook with the right content."
    if not is_sealed(sealed):
        raise IntegrityError(f"{what} should be encrypted and is not.", remedy)
    start = len(MAGIC) + 4
    length = int.from_bytes(sealed[len(MAGIC) : start], "big")
    try:
        raw = read_object(sealed[start : start + length], depth=2, max_bytes=MAX_HEADER_BYTES)
        header = {
            name: base64.b64decode(raw[name], validate=True)
            for name in ("wrap_nonce", "wrapped_key", "nonce")
        }
        if {len(header["nonce"]), len(header["wrap_nonce"])} != {NONCE_BYTES}:
            raise ValueError("nonce length")
        fields = {**header, "kid": str(raw["kid"]), "generation": int(raw["generation"])}
        fields["aad"] = int(raw.get("aad", 1))
        if fields["aad"] not in {1, AAD_FORM}:
            raise ValueError("unknown form")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{what} has a damaged encryption header.", remedy) from error
    return fields, sealed[start + length :]


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _decode(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        raise KeyUnavailable(f"{where} is not base64.", "Give 32 random bytes in base64.") from None
