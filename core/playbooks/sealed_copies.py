"""The last sealed content of every sensitive version, kept beside its folder.

::

    <home>/sealed/<playbook_id>-v<semver>/g<generation>/…   envelopes, as they stand in the folder

An editor that saves clear text over an envelope has destroyed what was in it, and no server has a
copy. These are what goes on being answered then. They are envelopes: nothing here is in clear.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from core.encryption import is_sealed
from core.errors import EscherError
from core.files import fsync_dir, make_private_dir, read_bytes, remove_tree, write_tree
from core.journal import VersionRecord
from core.models import Ref, check_id
from core.versions import parse_version

log = logging.getLogger(__name__)


class SealedCopies:
    """The folder ``sealed/``; who writes holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, record: VersionRecord) -> bool:
        """Whether the content of this generation is kept."""
        return self._folder(record).is_dir()

    def keep(self, record: VersionRecord, folder: Path, paths: Iterable[str]) -> bool:
        """Copy the envelopes of ``folder``, durably, and drop older ones; False when that failed.

        A failure costs no content now: the next sync tries again.
        """
        target = self._folder(record)
        staged = target.with_name(f".{target.name}.tmp")
        try:
            files = {path: read_bytes(folder / path) for path in paths}
            if target.is_dir() or not all(map(is_sealed, files.values())):
                return target.is_dir()
            remove_tree(staged)
            make_private_dir(target.parent)
            write_tree(staged, files)
            staged.rename(target)
            fsync_dir(target.parent)
            for other in target.parent.iterdir():
                if other != target:
                    remove_tree(other)
        except (EscherError, OSError) as error:
            log.warning("the sealed content of %s is not kept a second time: %s", record.ref, error)
            return False
        return True

    def read(self, record: VersionRecord, path: str) -> bytes | None:
        """The envelope of a file; None where there is no copy."""
        file = self._folder(record) / path
        return read_bytes(file) if file.is_file() else None

    def forget(self, refs: Iterable[Ref]) -> None:
        """Remove the copies of versions that are gone, or not sensitive any more."""
        for ref in refs:
            if (folder := self._version(ref)).is_dir():
                remove_tree(folder)

    def _folder(self, record: VersionRecord) -> Path:
        return self._version(record.ref) / f"g{record.generation}"

    def _version(self, ref: Ref) -> Path:
        check_id(ref.playbook_id)
        parse_version(ref.version)
        return self._root / f"{ref.playbook_id}-v{ref.version}"
