"""The metadata of the Escher Library's playbooks that were used here, brought from the server.

Kept when a script of the version is downloaded, so that it can be found offline.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import (
    EscherError,
    NotEscherServer,
    NotFound,
    Refused,
    TransientError,
    storage_error,
)
from core.files import read_bytes
from core.journal import Journal
from core.models import METADATA_FILE, Ref
from core.scripts.pinned import check_pinned
from core.scripts.shelf import MAX_METADATA_BYTES, LibraryShelf, check_metadata
from core.server.answers import Script, ScriptFile
from core.server.client import EscherServer
from core.server.problems import CHECK_URL
from core.settings import Settings

LIBRARY_PATH = "s3://escher-library/playbooks"
MENDED_AT_ONCE = 16  # versions a sync

log = logging.getLogger(__name__)


class Library:
    """Fetches what the shelf (`core.scripts.shelf`) keeps; safe in threads and processes."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        server: EscherServer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shelf = LibraryShelf(settings, journal, clock=clock)
        self._server = server
        self._journal = journal

    def keep(self, ref: Ref) -> dict[str, Any]:
        """The metadata of a version that is used now, fetched unless it is here and fresh.

        Errors as of a download; none where an older one is here.
        """
        kept = self.shelf.get(ref)
        if kept is not None and self.shelf.is_fresh(ref):
            self.shelf.used(ref)
            return kept
        try:
            return self._fetched(ref)
        except EscherError as error:
            if kept is None:
                raise
            log.warning("the metadata of %s stays as it is: %s", ref, error)
            self.shelf.used(ref)
            return kept

    def try_keep(self, ref: Ref) -> None:
        """`keep` where it goes: a script is of use without its metadata, and this says so."""
        try:
            self.keep(ref)
        except EscherError as error:
            log.warning("the metadata of %s could not be kept: %s", ref, error)

    def mend(self) -> list[Ref]:
        """Fetch what is missing of versions whose scripts are cached, as far as the server answers.

        Returns those that came.
        """
        came = []
        for ref in self.shelf.missing()[:MENDED_AT_ONCE]:
            try:
                self.keep(ref)
                came.append(ref)
            except TransientError as error:
                log.warning("the metadata of %s is fetched later: %s", ref, error)
                break
            except EscherError as error:
                log.info("the metadata of %s can't be had: %s", ref, error)
        return came

    def _fetched(self, ref: Ref) -> dict[str, Any]:
        script, file = self._offer(ref)
        if file.size_bytes > MAX_METADATA_BYTES:
            raise Refused(f"{METADATA_FILE} of {ref} has {file.size_bytes} bytes.")
        content = self._fetch(ref, file)
        if script.manifest is not None:  # else nothing tells what it belongs to
            told = script.model_copy(
                update={"metadata": check_metadata(content, ref), "files": [], "format": None}
            )
            check_pinned(self._journal, ref, told, is_known=True)
        return self.shelf.put(ref, content)

    def _offer(self, ref: Ref) -> tuple[Script, ScriptFile]:
        path = f"{LIBRARY_PATH}/{ref.playbook_id}/v{ref.version}/{METADATA_FILE}"
        script = self._server.script(s3_path=path)
        if Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        for file in script.files:
            if file.path == METADATA_FILE:
                return script, file
        raise NotFound(f"The Escher Library has no {METADATA_FILE} of {ref}.")

    def _fetch(self, ref: Ref, file: ScriptFile) -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="escher-library-") as folder:
                target = Path(folder) / METADATA_FILE
                self._server.download(file, target, renew=lambda: self._offer(ref)[1])
                return read_bytes(target)
        except OSError as error:
            raise storage_error(error, f"Fetching the metadata of {ref}") from error
