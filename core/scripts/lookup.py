"""The fast half of the cache: an entry's manifest from memory, and the mark of its use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from core.errors import IntegrityError, storage_error
from core.scripts.cache_lock import CacheLock
from core.scripts.entries import ScriptKey
from core.scripts.layout import CacheLayout, Place
from core.scripts.manifest import Manifest, read_manifest

REMEMBERED = 4096  # manifests, each good while its file's stat is the same
# An entry is marked as used at most so often by a process: a script that is asked for a thousand
# times a second need not be written to the disk as often. The lease is much longer.
MARK_SECONDS = 1.0
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Known(NamedTuple):
    """A manifest, and its entry's paths as text: a look-up has no time for others."""

    signature: tuple[int, int, int, int]
    manifest_path: str
    folder: str
    root: str
    place: Place
    manifest: Manifest


class Lookup:
    """Reads what is in the cache; safe between threads."""

    def __init__(self, layout: CacheLayout, lock: CacheLock, clock: Callable[[], float]) -> None:
        self._layout = layout
        self._lock = lock
        self._clock = clock
        self._known: dict[ScriptKey, Known] = {}
        self._marked: dict[str, float] = {}

    def manifest(self, key: ScriptKey) -> Known | None:
        """The manifest of an entry, None where there is none; `IntegrityError` when damaged."""
        known = self._known.get(key)
        place = known.place if known is not None else self._layout.place(key)
        path = known.manifest_path if known is not None else place.manifest_path
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(key, None)
            return None
        except OSError as error:
            raise storage_error(error, f"Looking at {path}") from error
        signature = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        if known is not None and known.signature == signature:
            return known
        for folder in (place.root, place.root.parent):
            if folder.is_symlink():
                raise IntegrityError(f"{folder} is a link, which may lead anywhere.")
        manifest = read_manifest(place)
        if manifest is None:  # gone in between
            return None
        root = str(place.root)
        known = Known(signature, path, f"{root}/{key.format}", root, place, manifest)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = known
        return known

    def touch(self, folder: str) -> bool:
        """Mark the entry as used now, unless it was just marked; False when it is gone."""
        now = self._clock()
        if 0 <= now - self._marked.get(folder, now - MARK_SECONDS) < MARK_SECONDS:
            return True
        used = int(now * 1e9)
        try:
            with self._lock.shared():
                os.utime(folder, ns=(used, used), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise storage_error(error, f"Marking {folder} as used") from error
            # a home that can only be read: no process of ours evicts from it either
        if len(self._marked) >= REMEMBERED:
            self._marked.clear()
        self._marked[folder] = now
        return True
