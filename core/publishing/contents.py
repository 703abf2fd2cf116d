"""The published bytes of a version, from the server, for a folder that lost or never had them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from core.errors import IntegrityError, NotFound
from core.files import make_private_dir, read_bytes
from core.journal import Journal
from core.models import FileEntry, Ref
from core.server.answers import Script, ScriptFile
from core.server.client import EscherServer
from core.settings import Settings


class PublishedContents:
    """Fetches every file of a published version; each is held against the journal's checksum."""

    def __init__(self, settings: Settings, journal: Journal, server: EscherServer) -> None:
        self._journal = journal
        self._server = server
        self._run_path = settings.run_path

    def fetch(self, ref: Ref) -> Mapping[str, bytes]:
        """``{path: bytes}`` of the version in its published form.

        Raises `NotFound`, `IntegrityError` when the server has other files than were published,
        and `core.errors.TransientError` when it can't be reached.
        """
        wanted = {row.entry.path: row.entry for row in self._journal.versions.files(ref)}
        listed = _files(ref, self._server.script(ref), wanted)
        make_private_dir(self._run_path)
        contents: dict[str, bytes] = {}
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._run_path) as folder:
            for number, (path, file) in enumerate(sorted(listed.items())):
                target = Path(folder) / str(number)
                self._server.download(file, target, renew=self._renewer(ref, path, wanted))
                contents[path] = read_bytes(target) if file.size_bytes else b""
                target.unlink(missing_ok=True)
        return contents

    def _renewer(
        self, ref: Ref, path: str, wanted: Mapping[str, FileEntry]
    ) -> Callable[[], ScriptFile]:
        return lambda: _files(ref, self._server.script(ref), wanted)[path]


def _files(ref: Ref, script: Script, wanted: Mapping[str, FileEntry]) -> dict[str, ScriptFile]:
    """The server's files by path, when they are those that were published."""
    listed = {file.path: file for file in script.files if file.path in wanted}
    for path, entry in wanted.items():
        file = listed.get(path)
        if file is None:
            raise NotFound(f"The server has no {path} of {ref}.", "Tell the server's operator.")
        if (file.checksum, file.size_bytes) != (entry.checksum, entry.size_bytes):
            raise IntegrityError(
                f"The server lists other bytes for {path} of {ref} than were published.",
                "Sync again; if it stays, tell the server's operator.",
            )
    return listed
