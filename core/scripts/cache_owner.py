"""Check by a marker that a cache folder is this home's, so nothing of others is moved or removed.

::

    cache/.escher-cache      {"format_version": 1, "home_id", "home"}: whose cache this is

`cache_dir` may name any folder, and what is no entry of a cache goes into quarantine and from there
away. So a folder is taken when it is new or empty, and then gets its marker; one with the marker of
this home is ours; one without is refused, unless it looks exactly like a cache of before the
markers. Of two homes that are given the same folder the second is refused. Folders of the cache
that are links are refused as well: they lead out of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from core.bounded_json import read_object
from core.errors import EscherError, Refused, storage_error
from core.files import atomic_write, json_bytes, make_private_dir, read_bytes
from core.journal import Journal
from core.journal.scripts import FolderState
from core.models import FORMATS, ScriptKey
from core.scripts.manifest import read_manifest
from core.scripts.paths import CacheLayout, is_folder, listed, ref_of
from core.scripts.promotion import UNKNOWN
from core.settings import Settings

MARKER = ".escher-cache"
FORMAT_VERSION = 1
_FOLDERS = ("scripts", "staging", "quarantine", "trash", "library", "copies", "metadata")
_FILES = frozenset({"scripts.lock", MARKER})
_HEX = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# file managers and file systems leave these in any folder
_NOBODYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "lost+found"})
_NAMED = 3
_REMEDY = "Set cache_dir (ESCHER_CACHE_DIR) to a folder of its own, or move what is yours out of this one."


class CacheOwner:
    """Checks that the cache's folder is this home's; before each change, from memory mostly."""

    def __init__(self, settings: Settings, journal: Journal, layout: CacheLayout) -> None:
        self._home = settings.home
        self._is_default = settings.cache_dir is None
        self._journal = journal
        self._layout = layout
        self._marker = layout.root / MARKER
        self._known: tuple[int, int] | None = None  # the marker that was read and found ours

    def check(self) -> None:
        """Mark a new folder as ours; `Refused` for another's, and for links inside."""
        self._refuse_links()
        try:
            found = self._marker.lstat()
        except FileNotFoundError:
            self._claim()
            return
        except OSError as error:
            raise storage_error(error, f"Looking at {self._marker}") from error
        if self._known == (found.st_ino, found.st_mtime_ns):
            return
        self._read()
        self._known = (found.st_ino, found.st_mtime_ns)

    def _refuse_links(self) -> None:
        for name in _FOLDERS:
            path = f"{self._layout.root}/{name}"
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if not stat.S_ISDIR(found.st_mode):
                raise Refused(
                    f"{path} is no folder but a link or a file, and the cache would be led out of its own.",
                    "Remove it; cache_dir (ESCHER_CACHE_DIR) moves the whole cache.",
                )

    def _claim(self) -> None:
        strangers = list(self._strangers())
        if strangers:
            shown = ", ".join(strangers[:_NAMED]) + (", …" if len(strangers) > _NAMED else "")
            raise Refused(
                f"The cache's folder {self._layout.root} holds what is not the cache's ({shown}).",
                _REMEDY,
            )
        body = {
            "format_version": FORMAT_VERSION,
            "home_id": self._journal.facts.get("home_id"),
            "home": str(self._home),
        }
        make_private_dir(self._layout.root)
        atomic_write(self._marker, json_bytes(body))

    def _read(self) -> None:
        try:
            body = read_object(read_bytes(self._marker))
            home_id, home = body["home_id"], body["home"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(f"{self._marker} can't be understood.", _REMEDY) from error
        if home == str(self._home) or self._is_default:
            return  # the home may have been moved, or its journal begun anew
        if home_id is None or home_id != self._journal.facts.get("home_id"):
            raise Refused(
                f"The cache {self._layout.root} belongs to another home, {home!r}.", _REMEDY
            )

    # -- a folder without a marker ----------------------------------------------------------
    def _strangers(self) -> Iterator[str]:
        """What can't be of a cache of ours from before the markers; nothing of an empty folder."""
        root = self._layout.root
        for path in _of_somebody(listed(root)):
            if path.name in _FILES and path.is_file():
                continue
            if path.name not in _FOLDERS:
                yield path.name
            # a home's own cache that the journal knows: what strayed into it is quarantined as ever
            elif not (self._is_default and self._rows):
                yield from self._strangers_in(path)

    @cached_property
    def _rows(self) -> frozenset[ScriptKey]:
        rows = self._journal.cache_folders.of(FolderState.COMPLETE)
        return frozenset(row.key for row in rows)

    def _strangers_in(self, folder: Path) -> Iterator[str]:
        for path in _of_somebody(listed(folder)):
            if not self._is_ours(folder.name, path):
                yield f"{folder.name}/{path.name}"

    def _is_ours(self, folder: str, path: Path) -> bool:
        match folder:
            case "scripts":
                return self._is_version(path)
            case "staging" | "trash":
                return _HEX.fullmatch(path.name) is not None
            case "quarantine" | "library":
                return is_folder(path) and (path.name == UNKNOWN or ref_of(path.name) is not None)
            case "copies":  # made since the markers, so the marker was lost
                formats = {inner.name for inner in listed(path)} if is_folder(path) else {""}
                return bool(_DIGEST.fullmatch(path.name)) and formats <= set(FORMATS)
            case "metadata":
                return path.name == "last_sync.json" or path.name.startswith(".last_sync.json.")
        return False

    def _is_version(self, path: Path) -> bool:
        """Whether a folder's every part is an entry with a manifest, or one that the journal knows."""
        ref = ref_of(path.name)
        if ref is None or not is_folder(path):
            return False
        for inner in _of_somebody(listed(path)):
            format_ = inner.name[1:-5] if inner.name.startswith(".") else inner.name
            if format_ not in FORMATS:
                return False
            place = self._layout.place(ScriptKey(ref, format_))
            try:
                proven = read_manifest(place) is not None
            except EscherError:
                proven = False
            if not proven and place.key not in self._rows:
                return False
        return True


def _of_somebody(paths: list[Path]) -> Iterator[Path]:
    return (path for path in paths if path.name not in _NOBODYS and not path.name.startswith("._"))
