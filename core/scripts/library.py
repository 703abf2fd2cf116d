"""The metadata of the Escher Library's playbooks that were used here.

::

    cache/library/<id>-v<version>/metadata.json     as the library has it; replaced as a whole

Kept when a script of the version is downloaded, so that it can be shown, and found offline.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    NotEscherServer,
    NotFound,
    Refused,
    storage_error,
)
from core.files import atomic_write, make_private_dir, read_bytes
from core.models import METADATA_FILE, Ref, parse_json_object
from core.scripts.layout import CacheLayout, folder_name, is_folder, listed, ref_of
from core.server.answers import ScriptFile
from core.server.client import EscherServer
from core.server.problems import CHECK_URL
from core.settings import Settings
from core.versions import parse_version

LIBRARY_PATH = "s3://escher-library/playbooks"
MAX_METADATA_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Library:
    """``cache/library``; safe in threads and processes."""

    def __init__(self, settings: Settings, server: EscherServer) -> None:
        self._folder = CacheLayout(settings).library
        self._server = server

    def get(self, ref: Ref) -> dict[str, Any] | None:
        """The metadata that is kept of a version; None when there is none, or it is damaged."""
        try:
            return _check(read_bytes(self._path(ref)), ref)
        except EscherError:
            return None

    def kept(self) -> list[Ref]:
        """The versions of which metadata is kept, by id."""
        found = [ref_of(path.name) for path in listed(self._folder) if is_folder(path)]
        return sorted(ref for ref in found if ref is not None)

    def keep(self, ref: Ref, on_bytes: Callable[[int], None] | None = None) -> dict[str, Any]:
        """The metadata of a version, fetched unless it is here. Errors as of a download."""
        kept = self.get(ref)
        if kept is not None:
            return kept
        file = self._offer(ref)
        if file.size_bytes > MAX_METADATA_BYTES:
            raise Refused(f"{METADATA_FILE} of {ref} has {file.size_bytes} bytes.")
        content = self._fetch(ref, file, on_bytes)
        metadata = _check(content, ref)
        atomic_write(make_private_dir(self._path(ref).parent) / METADATA_FILE, content)
        return metadata

    def try_keep(self, ref: Ref, on_bytes: Callable[[int], None] | None = None) -> None:
        """`keep` where it goes: a script is of use without its metadata, and this says so."""
        try:
            self.keep(ref, on_bytes)
        except EscherError as error:
            log.warning("the metadata of %s could not be kept: %s", ref, error)

    def forget(self, ref: Ref) -> None:
        """Remove what is kept of a version."""
        shutil.rmtree(self._path(ref).parent, ignore_errors=True)

    def _path(self, ref: Ref) -> Path:
        return self._folder / folder_name(ref) / METADATA_FILE

    def _offer(self, ref: Ref) -> ScriptFile:
        path = f"{LIBRARY_PATH}/{ref.playbook_id}/v{ref.version}/{METADATA_FILE}"
        script = self._server.script(s3_path=path)
        if Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        for file in script.files:
            if file.path == METADATA_FILE:
                return file
        raise NotFound(f"The Escher Library has no {METADATA_FILE} of {ref}.")

    def _fetch(self, ref: Ref, file: ScriptFile, on_bytes: Callable[[int], None] | None) -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="escher-library-") as folder:
                target = Path(folder) / METADATA_FILE
                self._server.download(
                    file, target, renew=lambda: self._offer(ref), on_bytes=on_bytes
                )
                return read_bytes(target)
        except OSError as error:
            raise storage_error(error, f"Fetching the metadata of {ref}") from error


def _check(content: bytes, ref: Ref) -> dict[str, Any]:
    """The metadata as an object that is about ``ref``; an `IntegrityError` names what is wrong."""
    try:
        metadata = parse_json_object(content, f"{METADATA_FILE} of {ref}")
        parse_version(str(metadata.get("version")))
    except InvalidPlaybook as error:
        raise IntegrityError(error.detail, "Ask the library's operator.") from None
    if (metadata.get("playbook_id"), metadata.get("version")) != tuple(ref):
        raise IntegrityError(
            f"{METADATA_FILE} of {ref} is about another version.", "Ask the library's operator."
        )
    return metadata
