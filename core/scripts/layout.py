"""Know the folders below ``cache/``, whose they are, and the lock under which they change.

::

    cache/scripts/<id>-v<version>/<format>/…              entries (`core.scripts.entries`)
    cache/staging/<hex>/<format>/…             a download under way, on the entries' file system
    cache/quarantine/<id>-v<version>/<format>-<hex>/…     bytes that were not what they claimed
    cache/trash/<hex>                          renamed here under the lock, then removed
    cache/copies/<hex>/<format>/…              a read-only copy (`core.scripts.copies`)
    cache/library/<id>-v<version>/metadata.json           Escher Library playbooks that were used
    cache/scripts.lock                         held shared by who marks an entry as used, exclusively
                                               by who takes one away
    cache/.escher-cache                        {"format_version": 1, "home_id", "home"}: whose it is

`cache_dir` may name any folder, and what is no entry of a cache goes into quarantine and from there
away. So a folder is taken when it is new or empty, and then gets its marker; one with the marker of
this home is ours; one without is refused, unless it looks exactly like a cache of before the
markers. Of two homes that are given the same folder the second is refused. Folders of the cache
that are links are refused as well: they lead out of it.

The lock: a resolver holds it shared for the instant in which it marks an entry as used. Whoever
evicts, replaces or quarantines holds it exclusively while looking at that mark and renaming, so what
was marked in time stays. Order: first a write transaction of the journal, of which there is one at a
time, in it this lock; never the other way round. The kernel releases it when its holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from core.bounded_json import read_object
from core.errors import EscherError, Refused, StorageError, storage_error
from core.files import atomic_write, json_bytes, make_private_dir, read_bytes
from core.journal import Journal
from core.journal.scripts import FolderState
from core.models import FORMATS, ScriptKey
from core.scripts.entries import (
    Place,
    is_folder,
    listed,
    place_of,
    read_manifest,
    ref_of,
    remove,
    size_on_disk,
)
from core.settings import Settings

MEBIBYTE = 1 << 20
DAY_SECONDS = 86_400
# Fetched later than this from now: the clock was wrong then, or is now, and the age is not known.
CLOCK_TOLERANCE_SECONDS = 300.0
# An entry is marked as used at most so often by a process: a script that is asked for a thousand
# times a second need not be written to the disk as often. The lease is much longer.
MARK_SECONDS = 1.0
REMEMBERED = 4096  # folders that were marked
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.001
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
MARKER = ".escher-cache"
FORMAT_VERSION = 1
UNKNOWN = "unknown"  # the folder in quarantine of what belonged to no entry
_LOCK = "scripts.lock"
_FOLDERS = ("scripts", "staging", "quarantine", "trash", "library", "copies", "metadata")
_FILES = frozenset({_LOCK, MARKER})
_HEX = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# file managers and file systems leave these in any folder
_NOBODYS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", "lost+found"})
_NAMED = 3
_REMEDY = "Set cache_dir (ESCHER_CACHE_DIR) to a folder of its own, or move what is yours out of this one."


class CacheLock:
    """An advisory lock on a file; it holds between threads and between processes."""

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        """``check`` is asked before each exclusive hold; it refuses a cache of somebody else's."""
        self._check = check
        self._path = str(path)
        self._folder = path.parent

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Raises ``OSError`` as it comes where the lock's file can't be opened."""
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            self._take(fd, fcntl.LOCK_SH)
            yield
        finally:
            _give_back(fd)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """`StorageError` when it can't be had, `Refused` where the cache is not this home's."""
        self._check()
        if not self._folder.is_dir():
            make_private_dir(self._folder)
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            raise storage_error(error, f"Taking the lock {self._path}") from error
        try:
            self._take(fd, fcntl.LOCK_EX)
            yield
        finally:
            _give_back(fd)

    def _take(self, fd: int, kind: int) -> None:
        deadline = None
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + LOCK_SECONDS
                if now > deadline:
                    raise StorageError(
                        f"The cache's lock {self._path} was held for {LOCK_SECONDS:.0f} s.",
                        "A process that evicts hangs; `escher-playbooks status` shows what runs.",
                    ) from None
                time.sleep(POLL_SECONDS)
            else:
                return


def _give_back(fd: int) -> None:
    # a child forked meanwhile has a copy of the descriptor: closing ours alone would not release
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


class CacheLayout:
    """Knows the paths below ``cache/``, moves things between them, and checks whose the cache is."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.root = settings.cache_path
        self.scripts = settings.script_cache_path
        self.staging = self.root / "staging"
        self.quarantine = self.root / "quarantine"
        self.trash = self.root / "trash"
        self.library = self.root / "library"
        self.copies = self.root / "copies"
        self.lock = CacheLock(self.root / _LOCK, self.check)
        self._home = settings.home
        self._is_default = settings.cache_dir is None
        self._journal = journal
        self._marker = self.root / MARKER
        self._known: tuple[int, int] | None = None  # the marker that was read and found ours

    def prepare(self) -> None:
        """Make the folders that a change needs; `Refused` where the cache is not this home's."""
        self.check()
        for folder in (self.scripts, self.staging, self.quarantine, self.trash):
            if not folder.is_dir():
                make_private_dir(folder)

    def place(self, key: ScriptKey) -> Place:
        """The place of ``key``, its parts checked: they become names on disk."""
        return place_of(self.scripts, key)

    # -- what is there ----------------------------------------------------------------------
    def found(self) -> tuple[dict[ScriptKey, Place], list[Path]]:
        """List every entry of which a folder or a manifest is there, and the paths of strays."""
        places: dict[ScriptKey, Place] = {}
        strays: list[Path] = []
        for path in listed(self.scripts):
            ref = ref_of(path.name)
            if ref is None or not is_folder(path):
                strays.append(path)
                continue
            for inner in listed(path):
                name = inner.name
                hidden = name.startswith(".") and name.endswith(".json")
                format_ = name[1:-5] if hidden else name
                if format_ not in FORMATS:
                    strays.append(inner)
                    continue
                key = ScriptKey(ref, format_)
                places[key] = self.place(key)
        return places, strays

    def quarantined(self) -> list[str]:
        """List what is in quarantine by name: ``quarantine/<id>-v<version>/<format>-<hex>``."""
        return [
            str(inner.relative_to(self.root))
            for path in listed(self.quarantine)
            for inner in (listed(path) if is_folder(path) else [path])
        ]

    # -- moves; the caller holds the exclusive lock -----------------------------------------
    def discard(self, path: Path) -> None:
        """Rename ``path`` into the trash; one that is gone is fine."""
        with suppress(FileNotFoundError):
            path.rename(self.trash / uuid.uuid4().hex)

    def remove_entry(self, place: Place) -> None:
        """Take an entry away: its folder first, since a manifest alone is no entry."""
        if self.drop_link(place):
            return
        self.discard(place.folder)
        self.remove_manifest(place)
        with suppress(OSError):  # other formats of the version stand there
            place.root.rmdir()

    def drop_link(self, place: Place) -> bool:
        """Remove a link that stands for a version's folder, and nothing of where it leads."""
        if not place.root.is_symlink():
            return False
        place.root.unlink(missing_ok=True)
        return True

    def remove_manifest(self, place: Place) -> None:
        """Take a manifest away, whatever stands in its place."""
        if is_folder(place.manifest):
            self.discard(place.manifest)
        else:
            place.manifest.unlink(missing_ok=True)

    def set_aside(self, path: Path, name: str) -> None:
        """Rename ``path`` into the quarantine; ``name`` as in `quarantined`."""
        target = self.root / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)

    def drop_quarantined(self, name: str) -> None:
        """Take away what is in quarantine; ``name`` as in `quarantined`."""
        path = self.root / name
        self.discard(path)
        if path.parent != self.quarantine:
            with suppress(OSError):  # more of the same version is there
                path.parent.rmdir()

    def sweep(self) -> int:
        """Empty the trash; the bytes that could not be removed (0, when all is well)."""
        left = 0
        for path in listed(self.trash):
            remove(path)
            left += size_on_disk(path)
        return left

    # -- whose it is ------------------------------------------------------------------------
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
            path = f"{self.root}/{name}"
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
                f"The cache's folder {self.root} holds what is not the cache's ({shown}).",
                _REMEDY,
            )
        body = {
            "format_version": FORMAT_VERSION,
            "home_id": self._journal.facts.get("home_id"),
            "home": str(self._home),
        }
        make_private_dir(self.root)
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
            raise Refused(f"The cache {self.root} belongs to another home, {home!r}.", _REMEDY)

    # -- a folder without a marker ----------------------------------------------------------
    def _strangers(self) -> Iterator[str]:
        """What can't be of a cache of ours from before the markers; nothing of an empty folder."""
        root = self.root
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
            place = self.place(ScriptKey(ref, format_))
            try:
                proven = read_manifest(place) is not None
            except EscherError:
                proven = False
            if not proven and place.key not in self._rows:
                return False
        return True


def _of_somebody(paths: list[Path]) -> Iterator[Path]:
    return (path for path in paths if path.name not in _NOBODYS and not path.name.startswith("._"))


@dataclass(frozen=True, slots=True)
class CacheContext:
    """Holds what all who change the cache work with; times in seconds, ``clock`` gives Unix time."""

    journal: Journal
    layout: CacheLayout
    clock: Callable[[], float]
    max_bytes: int
    ttl_seconds: float
    lease_seconds: float
    marked: dict[str, float] = field(default_factory=dict)  # folders, and when

    def is_fresh(self, fetched_at: float) -> bool:
        """Tell whether what was fetched then is within the TTL; a time to come is none to trust."""
        return -CLOCK_TOLERANCE_SECONDS <= self.clock() - fetched_at < self.ttl_seconds

    def is_in_use(self, used: float) -> bool:
        return self.clock() - used < self.lease_seconds

    def last_use(self, folder: Path) -> float | None:
        """Tell when an entry was used last, as its folder's mtime has it; None when it is gone.

        A use in the future is of a clock that was set back since: it counts as one of this instant,
        and is written down as one, so that the lease ends. The caller holds the exclusive lock.
        """
        now = self.clock()
        try:
            used = folder.lstat().st_mtime_ns / 1e9
            if used > now:
                os.utime(folder, (now, now), follow_symlinks=False)
                used = now
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"Looking at {folder}") from error
        return used

    def mark_used(self, folder: str) -> bool:
        """Mark the entry as used now, unless it was just marked; False when it is gone."""
        now = self.clock()
        if 0 <= now - self.marked.get(folder, now - MARK_SECONDS) < MARK_SECONDS:
            return True
        used = int(now * 1e9)
        try:
            with self.layout.lock.shared():
                os.utime(folder, ns=(used, used), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise storage_error(error, f"Marking {folder} as used") from error
            # a home that can only be read: no process of ours evicts from it either
        if len(self.marked) >= REMEMBERED:
            self.marked.clear()
        self.marked[folder] = now
        return True
