"""Copies of what a conflict set aside: nothing is overwritten without one.

::

    conflicts/<playbook_id>/v<semver>-<12 hex>/…     a version's folder as it stood on disk
    conflicts/<playbook_id>/.v<semver>-….tmp         a copy that is being made

The hex digits are of the content, so that the same folder is kept once. Sensitive content stays
encrypted, under the generation that the journal's row of the conflict names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from core.errors import UnsafePath, storage_error
from core.files import (
    fsync_dir,
    make_private_dir,
    read_bytes,
    remove_tree,
    sha256_bytes,
    write_new_file,
)
from core.models import Ref, check_id

DIGITS = 12


class ConflictCopies:
    """The folder ``conflicts/``; the caller holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, ref: Ref, folder: Path) -> Path:
        """Copy ``folder`` durably and return where to; a copy of the same content is there once."""
        place = self._root / check_id(ref.playbook_id)
        try:
            target = place / f"v{ref.version}-{folder_digest(folder)[:DIGITS]}"
            if place.is_symlink() or target.is_symlink():
                raise UnsafePath(
                    f"{place} or {target.name} in it is a link, and copies are kept here only.",
                    "Remove the link.",
                )
            if target.is_dir():
                return target
            make_private_dir(place)
            for stray in place.glob(".v*-*.tmp"):
                remove_tree(stray)  # of a process that was killed
            temporary = place / f".{target.name}.tmp"
            copy_folder(folder, temporary)
            temporary.rename(target)
            fsync_dir(place)
            fsync_dir(self._root)
        except OSError as error:
            raise storage_error(error, f"Keeping a copy of {ref}") from error
        return target


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and links as ``(relative path, path)``, by name; what is neither is left out."""
    for current, names, files in os.walk(folder):
        names.sort()
        links = [name for name in names if (Path(current) / name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(current) / name
            if path.is_symlink() or path.is_file():
                yield path.relative_to(folder).as_posix(), path


def folder_digest(folder: Path) -> str:
    """Of the names and bytes of a folder, in hex."""
    digest = hashlib.sha256()
    for name, path in _walk(folder):
        target = str(path.readlink()) if path.is_symlink() else sha256_bytes(read_bytes(path))
        digest.update(f"{name}\0{target}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def copy_folder(folder: Path, target: Path) -> None:
    """Copy files and links durably into the new folder ``target``."""
    make_private_dir(target)
    folders = {target}
    for name, path in _walk(folder):
        place = target / name
        make_private_dir(place.parent)
        folders.update(parent for parent in place.parents if parent.is_relative_to(target))
        if path.is_symlink():
            place.symlink_to(path.readlink())
        else:
            write_new_file(place, read_bytes(path))
    for made in folders:
        fsync_dir(made)
