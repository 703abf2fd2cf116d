"""What a version's folder looks like from outside: the stats of its files, and one digest of them.

No content is read here. The folders count too: a name that came or went changes its folder's
ctime, so looking up the known names again is enough to know that nothing changed. The parent
(``<id>/``) is looked at with each of its versions, which finds new versions beside known ones.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from core.content import KNOWN_FILES, is_leftover
from core.errors import storage_error
from core.journal.versions import DiskFile
from core.models import FORMATS, METADATA_FILE
from core.playbooks.parallel_stat import digest

PARENT = "/.."
# The coarsest clock of a file system in use (FAT); a change within it may show no new time.
CLOCK_NS = 2_000_000_000


@dataclass(frozen=True)
class FolderStat:
    """The stats of a folder's tracked paths, in one order; ``""`` is the folder itself."""

    stats: dict[str, os.stat_result]
    taken_at_ns: int  # before the first of them, by the clock

    @property
    def paths(self) -> str:
        """What `statcheck` takes."""
        return "\n".join(self.stats)

    @cached_property
    def fingerprint(self) -> bytes:
        return digest(self.stats.values())

    @cached_property
    def own_fingerprint(self) -> bytes:
        """As `fingerprint`, without the parent: versions beside this one may come and go."""
        return digest(found for path, found in self.stats.items() if path != PARENT)

    @cached_property
    def newest_ns(self) -> int:
        """The last change of the folder or anything in it: ctime, which nobody can set back."""
        return max(found.st_ctime_ns for path, found in self.stats.items() if path != PARENT)

    @cached_property
    def files(self) -> dict[str, os.stat_result]:
        """``{relative path: stat}`` of whatever is no folder, ``metadata.json`` too."""
        return {
            path[1:]: found
            for path, found in self.stats.items()
            if path not in {"", PARENT} and not stat.S_ISDIR(found.st_mode)
        }

    def content(self, known: Collection[str] = ()) -> set[str]:
        """The paths of the content; leftovers are none unless they are ``known``."""
        return {
            path
            for path in self.files
            if path != METADATA_FILE and (path in known or not is_leftover(path))
        }

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing of a playbook but ``metadata.json``, not even empty folders."""
        return set(self.stats) <= {"", PARENT, f"/{METADATA_FILE}"}

    def irregular(self, known: Collection[str] = ()) -> list[str]:
        """Paths of the content that are neither file nor folder: links, pipes, devices."""
        files = self.files
        return [
            path for path in sorted(self.content(known)) if not stat.S_ISREG(files[path].st_mode)
        ]

    @property
    def proves(self) -> bool:
        """Whether a later change must show in the stats.

        A change within one tick of a coarse clock shows no new time; git calls such an entry
        racily clean. And the paths must be such that `statcheck` can be told them.
        """
        last = max(found.st_ctime_ns for found in self.stats.values())
        return last + CLOCK_NS < self.taken_at_ns and all(
            path.isprintable()
            for path in self.stats  # no "\n", and nothing that is not UTF-8
        )

    def is_older(self, row: DiskFile, seen_at_ns: int | None) -> bool:
        """Whether ``row``'s file still has the stat under which its bytes were compared."""
        found = self.stats.get("/" + row.entry.path)
        return (
            found is not None
            and seen_at_ns is not None
            and found.st_ctime_ns + CLOCK_NS < seen_at_ns
            and stat.S_ISREG(found.st_mode)
            and (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            == (row.disk_size, row.mtime_ns, row.ctime_ns, row.inode)
        )


def stat_folder(folder: Path, now_ns: int, *, with_parent: bool) -> FolderStat | None:
    """The stats of a version's folder; None when there is no folder (a link is none).

    Raises `StorageError` for one that can't be read.
    """
    base = str(folder)
    try:
        stats = {"": os.lstat(base)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error
    if not stat.S_ISDIR(stats[""].st_mode):
        return None
    try:
        if with_parent:
            stats[PARENT] = os.lstat(base + PARENT)
        for name, found in _listed(base):
            is_format = name in FORMATS
            if is_format or name in KNOWN_FILES:
                stats["/" + name] = found
            if is_format and stat.S_ISDIR(found.st_mode):
                stats.update(_below(base, "/" + name))
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error
    return FolderStat(stats, now_ns)


def _below(base: str, path: str) -> Iterator[tuple[str, os.stat_result]]:
    stack = [path]
    while stack:
        parent = stack.pop()
        for name, found in _listed(base + parent):
            yield f"{parent}/{name}", found
            if stat.S_ISDIR(found.st_mode):
                stack.append(f"{parent}/{name}")


def _listed(folder: str) -> list[tuple[str, os.stat_result]]:
    """Names with their stats, by name; what goes away meanwhile is not there."""
    listed = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                listed.append((entry.name, entry.stat(follow_symlinks=False)))
    return sorted(listed)
