"""Where clear text may stand: memory of this user's, else a private folder of the home."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import Refused, StorageError, storage_error
from core.files import PRIVATE_DIR, make_private_dir, write_tree
from core.permissions import own_private_dir
from core.processes import OpenedHere, Owner, is_gone, this_process
from core.scripts import reaper
from core.scripts.reaper import LeaseName
from core.settings import Settings

_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def best_root(settings: Settings) -> Path:
    """Where new clear text goes; it need not be there yet.

    A root in a shared place under whose name somebody else stands is passed over.
    """
    return next(root for root in _roots(settings, writable=True) if _is_fit(root, settings))


def standing_roots(settings: Settings) -> list[Path]:
    """Roots that are there and ours; another process may have seen another environment."""
    found = []
    for root in _roots(settings, writable=False):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = root.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                found.append(root)
    return found


def new_folder(settings: Settings, name: str) -> Path:
    """An empty 0700 folder under the best root, which is made where it is not there.

    Raises `StorageError`, and `Refused` when even the home's own root is a link or somebody else's.
    """
    last = _last_root(settings)
    for root in _roots(settings, writable=True):
        if root == last:
            break
        try:
            return _new_folder(root, name)
        except (Refused, StorageError):
            continue  # somebody else's, or full: the next one, the home's at last
    return _new_folder(last, name)


def _new_folder(root: Path, name: str) -> Path:
    folder = root / name
    for last_try in (False, True):
        make_private_dir(root.parent)
        own_private_dir(root)
        try:
            folder.mkdir(mode=PRIVATE_DIR)
        except FileNotFoundError as error:  # `down` has just removed the root
            if last_try:
                raise storage_error(error, f"Creating {folder}") from error
        except OSError as error:
            raise storage_error(error, f"Creating {folder}") from error
        else:
            break
    return folder


def _is_fit(root: Path, settings: Settings) -> bool:
    if root == _last_root(settings):
        return True
    try:
        found = root.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _last_root(settings: Settings) -> Path:
    return settings.run_path / "clear"


def _roots(settings: Settings, *, writable: bool) -> Iterator[Path]:
    """The roots by preference; the last is always fit. ``writable``: only those that are fit."""
    home = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:16]
    name = f"escher-clear-{home}-{os.getuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path(runtime)] if runtime and runtime.startswith("/") else []
    places += [Path(f"/run/user/{os.getuid()}"), Path("/dev/shm")]  # noqa: S108  a private folder inside, checked
    for place in dict.fromkeys(places):
        if not writable or (is_memory(place) and os.access(place, os.W_OK | os.X_OK)):
            yield place / name
    yield _last_root(settings)


def is_memory(path: Path) -> bool:
    """Whether ``path`` is on a memory-backed file system (Linux; nothing else tells)."""
    if not path.is_dir():
        return False
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    real = str(path.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):  # of two on one point the later one is seen
            best, kind = mount, after.split()[0]
    return kind in _MEMORY


# Clear text of sensitive scripts: in memory-backed folders, private, and only for a while.
#
# ::
#
#     <root>/                       0700: the first of $XDG_RUNTIME_DIR, /run/user/<uid>, /dev/shm that
#                                   is a tmpfs of this user's or of all, with a folder named by home
#                                   and user; else <home>/run/clear
#     <root>/<lease>/               0700, one a resolve; the name says when it ends (`core.scripts.reaper`)
#     <root>/<lease>/shell/stop.sh  0600
#
# A lease ends with its context manager (*held*), or at its time (*handed out*: the path was given to
# somebody outside). A process keeps the time for what it handed out; when it closes, a reaper does.
# What a crash left is removed when the home is opened next, and `down` removes everything.


HANDED_OUT = "t"
HELD = "h"
REAPER_START_SECONDS = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClearLease:
    """Clear text that stands in ``folder`` until ``ends_at`` (Unix seconds)."""

    folder: Path
    ends_at: int


class ClearText:
    """Makes and removes leases of one home; safe for threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        spawn: Callable[[Path, float], None] | None = None,
    ) -> None:
        """``spawn(root, seconds)`` starts a reaper."""
        self._settings = settings
        self._clock = clock
        self._spawn = spawn or _spawn_reaper
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._mine: dict[Path, float] = {}  # this process' leases, and when each ends (monotonic)
        self._opened = OpenedHere("The service")

    # -- making -----------------------------------------------------------------------------
    def write(
        self, files: Mapping[str, bytes], *, held: bool = False, seconds: float | None = None
    ) -> ClearLease:
        """Write ``{path: clear bytes}``, paths as ``shell/stop.sh``, into a folder of its own.

        ``seconds`` defaults to ``clear_text_seconds``. Raises `StorageError`, and `Refused` when
        not even the home's own root is this user's.
        """
        self._opened.check()
        seconds = self._settings.clear_text_seconds if seconds is None else seconds
        ends_at = int(self._clock() + seconds) + 1
        folder = new_folder(self._settings, _name(ends_at, HELD if held else HANDED_OUT).text)
        try:
            for top in {path.partition("/")[0] for path in files}:
                below = {p.removeprefix(f"{top}/"): files[p] for p in files if p.startswith(top)}
                write_tree(folder / top, below)
        except BaseException:
            _remove(folder)
            raise
        self._watch(folder, ends_at - self._clock())
        return ClearLease(folder, ends_at)

    def release(self, lease: ClearLease) -> None:
        """End a lease before its time; one that has ended is fine."""
        _remove(lease.folder)
        with self._lock:
            self._mine.pop(lease.folder, None)

    @property
    def root(self) -> Path:
        """Where new leases go."""
        return best_root(self._settings)

    # -- removing ---------------------------------------------------------------------------
    def recover(self) -> int:
        """Remove what has ended, and what its dead maker held; how many. For the service's start."""
        removed = 0
        for root in standing_roots(self._settings):
            orphaned = False
            for lease in reaper.leases(str(root)):
                dead = _is_dead(lease)
                if lease.ends_at <= self._clock() or (dead and lease.kind == HELD):
                    _remove(root / lease.text)
                    removed += 1
                elif dead:
                    orphaned = True
            if orphaned and not _has_reaper(root):
                self._spawn(root, self._settings.clear_text_seconds)
        return removed

    def remove_all(self) -> int:
        """Remove every lease of this home, in use or not; how many. For `down`."""
        removed = 0
        for root in standing_roots(self._settings):
            for lease in reaper.leases(str(root)):
                _remove(root / lease.text)
                removed += 1
            with contextlib.suppress(OSError):  # its reaper sees that nothing is left, and ends
                (root / reaper.LOCK_NAME).unlink(missing_ok=True)
                root.rmdir()
        with self._lock:
            self._mine.clear()
        return removed

    def leases(self) -> list[LeaseName]:
        """What stands now, in every root."""
        return [
            lease for root in standing_roots(self._settings) for lease in reaper.leases(str(root))
        ]

    def close(self) -> None:
        """Leave what is handed out to a reaper; in a forked child, to its parent."""
        if not self._opened.is_so:
            return
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            roots = {path.parent for path in self._mine if _kind(path) == HANDED_OUT}
            self._mine.clear()
        for root in roots:
            self._spawn(root, self._settings.clear_text_seconds)

    # -- the clock of this process ------------------------------------------------------------
    def _watch(self, folder: Path, seconds: float) -> None:
        with self._lock:
            self._mine[folder] = time.monotonic() + seconds
            self._arm()

    def _arm(self) -> None:
        """Have one timer, for the first end (under the lock)."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._mine:
            wait = max(0.0, min(self._mine.values()) - time.monotonic())
            self._timer = threading.Timer(wait, self._sweep)
            self._timer.daemon = True
            self._timer.name = "clear-text"
            self._timer.start()

    def _sweep(self) -> None:
        with self._lock:
            ended = [path for path, end in self._mine.items() if end <= time.monotonic()]
            for folder in ended:
                del self._mine[folder]
            self._arm()
        for folder in ended:
            _remove(folder)


def _name(ends_at: int, kind: str) -> LeaseName:
    return LeaseName(ends_at, kind, secrets.token_hex(8), str(this_process()))


def _kind(folder: Path) -> str | None:
    lease = reaper.read_name(folder.name)
    return lease.kind if lease else None


def _is_dead(lease: LeaseName) -> bool:
    try:
        return is_gone(Owner.parse(lease.owner), one_kernel=True) is True
    except ValueError:  # of a version before this one: its time says when it ends
        return False


def _remove(folder: Path) -> None:
    lease = reaper.read_name(folder.name)
    assert lease is not None
    try:
        reaper.remove(str(folder.parent), lease)
    except OSError as error:
        _log.warning("clear text at %s could not be removed: %s", folder, error.strerror)


def _has_reaper(root: Path) -> bool:
    import fcntl

    try:
        fd = os.open(root / reaper.LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _spawn_reaper(root: Path, seconds: float) -> None:
    """Start a reaper that outlives this process and holds nothing of it."""
    program = [sys.executable, "-I", "-S", str(Path(reaper.__file__)), str(root), str(seconds)]
    try:
        subprocess.run(  # it forks and answers at once
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
            check=True,
            timeout=REAPER_START_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("no reaper for the clear text in %s: %s", root, type(error).__name__)
