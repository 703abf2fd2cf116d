"""Copy folders: what is set aside in ``conflicts/`` and ``trash/``, and extras that come along.

::

    conflicts/<playbook_id>/v<semver>-<12 hex>/   a version's folder as it stood; the digits are of
                                                  its content, so that it is kept once
    trash/<playbook_id>-v<semver>-<time>/         what a deletion of the other side took, for
                                                  ``trash_days``; the time is UTC
    …/.<name>.tmp                                 a copy that is being made

Nothing is overwritten or removed without such a copy. Sensitive content stays encrypted, under the
generation that a conflict's row names. `carry_extras` brings what stands beside a playbook (a
README, an editor's swap file, the state of a run) into the folder that takes its place.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.content import KNOWN_FILES, is_leftover, is_leftover_link, is_state
from core.errors import InvalidPlaybook, NotFound, UnsafePath, storage_error
from core.files import (
    PRIVATE_DIR,
    file_mode,
    fsync_dir,
    is_executable,
    make_private_dir,
    read_bytes,
    remove_tree,
    sha256_bytes,
    write_new_file,
)
from core.models import FORMATS, Ref, check_id, parse_version

DIGITS = 12
DAY_SECONDS = 86_400.0
AGAIN_SECONDS = 3600  # within which the same folder is the same deletion, done again after a crash
_TIME = "%Y%m%dT%H%M%SZ"
# an id holds no dot, so the last "-v" before the first dot parts it from the version
_NAME = re.compile(r"(?P<id>[^.]+)-v(?P<version>\d+\..+)-(?P<time>\d{8}T\d{6}Z)")


class ConflictCopies:
    """Keeps copies in ``conflicts/``; the caller holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, ref: Ref, folder: Path) -> Path:
        """Copy ``folder`` durably and return where to; a copy of the same content is there once."""
        place = self._root / check_id(ref.playbook_id)
        try:
            target = place / f"v{ref.version}-{_folder_digest(folder)[:DIGITS]}"
            if place.is_symlink() or target.is_symlink():
                raise UnsafePath(
                    f"{place} or {target.name} in it is a link, and copies are kept here only.",
                    "Remove the link.",
                )
            if target.is_dir():
                return target
            make_private_dir(place)
            _copy_whole(folder, target, strays=".v*-*.tmp")
            fsync_dir(self._root)
        except OSError as error:
            raise storage_error(error, f"Keeping a copy of {ref}") from error
        return target


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """One folder in the trash; ``deleted_at`` in Unix seconds."""

    ref: Ref
    path: Path
    deleted_at: int

    def as_json(self, days: float) -> dict[str, Any]:
        return {
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "folder": str(self.path),
            "deleted_at": self.deleted_at,
            "kept_until": int(self.deleted_at + days * DAY_SECONDS),
        }


class Trash:
    """Keeps, lists and removes copies in ``trash/``; who keeps one holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, ref: Ref, folder: Path) -> Path:
        """Copy ``folder`` durably and return where to; a crash in the middle makes no second one."""
        check_id(ref.playbook_id)
        parse_version(ref.version)
        try:
            digest = _folder_digest(folder)
            now = int(time.time())
            for entry in self._entries_of(ref):
                if now - entry.deleted_at < AGAIN_SECONDS and _folder_digest(entry.path) == digest:
                    return entry.path
            make_private_dir(self._root)
            while (target := self._root / _name(ref, now)).exists():
                now += 1
            _copy_whole(folder, target, strays=".*-v*-*Z.tmp")
            fsync_dir(self._root.parent)
        except OSError as error:
            raise storage_error(error, f"Keeping {ref} in the trash") from error
        return target

    def entries(self) -> list[TrashEntry]:
        """What is in the trash, the newest first."""
        try:
            names = [path.name for path in self._root.iterdir() if _is_folder(path)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, f"Reading {self._root}") from error
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        return sorted(found, key=lambda entry: (-entry.deleted_at, entry.ref))

    def find(self, ref: Ref) -> TrashEntry:
        """The newest entry of a version; `NotFound` when there is none."""
        for entry in self._entries_of(ref):
            return entry
        raise NotFound(f"{ref} is not in the trash.", "`escher-playbooks trash ls` lists it.")

    def purge(self, days: float) -> int:
        """Remove what is older than ``days``; how many folders that were."""
        oldest = time.time() - days * DAY_SECONDS
        old = [entry for entry in self.entries() if entry.deleted_at < oldest]
        for entry in old:
            self.remove(entry)
        return len(old)

    def remove(self, entry: TrashEntry) -> None:
        """Remove one folder for good."""
        try:
            remove_tree(entry.path)
        except OSError as error:
            raise storage_error(error, f"Removing {entry.path}") from error

    def _entries_of(self, ref: Ref) -> list[TrashEntry]:
        return [entry for entry in self.entries() if entry.ref == ref]

    def _entry(self, name: str) -> TrashEntry | None:
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        try:
            check_id(match["id"])
            parse_version(match["version"])
            at = calendar.timegm(time.strptime(match["time"], _TIME))
        except (InvalidPlaybook, ValueError):
            return None  # somebody else's
        return TrashEntry(Ref(match["id"], match["version"]), self._root / name, at)


def _name(ref: Ref, at: int) -> str:
    return f"{ref.playbook_id}-v{ref.version}-{time.strftime(_TIME, time.gmtime(at))}"


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and links as ``(relative path, path)``, by name; what is neither is left out."""
    for current, names, files in os.walk(folder):
        names.sort()
        links = [name for name in names if (Path(current) / name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(current) / name
            if path.is_symlink() or path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _folder_digest(folder: Path) -> str:
    """Of the names and bytes of a folder, in hex."""
    digest = hashlib.sha256()
    for name, path in _walk(folder):
        target = str(path.readlink()) if path.is_symlink() else sha256_bytes(read_bytes(path))
        digest.update(f"{name}\0{target}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _copy_whole(folder: Path, target: Path, *, strays: str) -> None:
    """Copy files and links durably to ``target``, which is there whole or not at all.

    ``strays``: what copies beside it are called that a killed process left.
    """
    for stray in target.parent.glob(strays):
        remove_tree(stray)
    staged = target.parent / f".{target.name}.tmp"
    make_private_dir(staged)
    folders = {staged}
    for name, path in _walk(folder):
        place = staged / name
        make_private_dir(place.parent)
        folders.update(parent for parent in place.parents if parent.is_relative_to(staged))
        if path.is_symlink():
            place.symlink_to(path.readlink())
        else:
            write_new_file(place, read_bytes(path), file_mode(is_executable(path.lstat())))
    for made in folders:
        fsync_dir(made)
    staged.rename(target)
    fsync_dir(target.parent)


# -- what comes along
_FORMAT_FOLDERS = {(name,) for name in FORMATS}


def carry_extras(
    folder: Path,
    staged: Path,
    content: Collection[str],
    *,
    leftovers: bool = True,
    beside: bool = False,
) -> None:
    """Bring into ``staged`` what is in ``folder`` besides the ``content`` (relative paths).

    The state of runs always comes along; ``leftovers``: what editors and tools left beside the
    scripts, too; ``beside``: whatever else is there. Pipes, sockets and devices stay behind. Raises
    `StorageError`.
    """

    def is_carried(path: str, *, link: bool) -> bool:
        if is_leftover_link(path) if link else is_leftover(path):
            return leftovers or is_state(path)
        return beside

    try:
        if folder.is_symlink() or not folder.is_dir():  # behind a link is nothing of ours
            return
        for parent, folders, files in os.walk(folder, onerror=_raise):  # links are not followed
            inside = Path(parent).relative_to(folder)
            in_format = inside.parts[:1] and inside.parts[0] in FORMATS
            links = {n for n in (*files, *folders) if (Path(parent) / n).is_symlink()}
            carried = [
                name
                for name in dict.fromkeys([*files, *links])
                if (inside / name).as_posix() not in content
                and (
                    is_carried((inside / name).as_posix(), link=name in links)
                    if in_format
                    else _is_foreign(inside / name)
                )
            ]
            target = staged / inside
            if (carried or not in_format) and not target.is_dir():
                target.mkdir(mode=PRIVATE_DIR, parents=True)
                fsync_dir(target.parent)
            for name in carried:
                _bring(Path(parent) / name, target / name)
            if carried:
                fsync_dir(target)
    except OSError as error:
        raise storage_error(error, f"Carrying along what stands in {folder}") from error


def has_extras(folder: Path) -> bool:
    """Whether something stands in ``folder`` that is neither the playbook's nor an editor's own.

    The state of a run is nobody's to lose.
    """
    try:
        for parent, _, files in os.walk(folder, onerror=_raise):
            inside = Path(parent).relative_to(folder)
            for path in (inside / name for name in files):
                if inside.parts[:1] in _FORMAT_FOLDERS:
                    if is_state(path.as_posix()):
                        return True
                elif _is_foreign(path) and not is_leftover(path.as_posix()):
                    return True
        return False
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error


def _is_foreign(path: Path) -> bool:
    return len(path.parts) > 1 or (path.name not in KNOWN_FILES and path.name not in FORMATS)


def _bring(source: Path, target: Path) -> None:
    if not (source.is_symlink() or source.is_file()):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _raise(error: OSError) -> None:
    raise error
