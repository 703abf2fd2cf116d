"""Clear text of sensitive scripts: private folders, in memory where there is some, removed in time.

::

    <root>/                        0700, one for each home and user; locked by its helper
    <root>/<end>-<kind>-<16 hex>/  0700, one a resolve; ``end`` in Unix seconds
    <root>/<lease>/shell/stop.sh   0600, or 0700 where it is executable

    kind t   handed out: the path was given away, so it stays to its end, whoever made it lives or not
         h   held: for a ``with`` of its maker, who keeps it locked; unlocked, nobody needs it

The root is in the first of ``$XDG_RUNTIME_DIR``, ``/run/user/<uid>`` and ``/dev/shm`` that is memory,
else ``<home>/run/clear``. A helper, one process a root, is started with its first lease, outlives its
makers and removes each lease at its end. The locks are the kernel's, so what a killed process held
is seen at once, in any PID namespace. Where the helper was killed too, the next start of the service
removes what has ended (`ClearText.recover`); ``down`` removes everything.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Refused, StorageError, storage_error
from core.files import PRIVATE_DIR, make_private_dir, remove_tree, write_tree
from core.permissions import own_private_dir

if TYPE_CHECKING:  # the helper imports this file without any other package
    from core.settings import Settings

LOOK_SECONDS = 1.0
HELPER_START_SECONDS = 10
_CODE = Path(__file__).parents[2]
# it forks first: who started it waits for this process only, and is left with no zombie
_HELPER = """
import os, sys
if os.fork(): os._exit(0)
code, root, most, lock = sys.argv[1:]
sys.path.append(code)
from core.scripts.clear_text import remove_in_time
remove_in_time(root, float(most), int(lock))
"""
# before 0.2.0 an owner stood behind it, and no lock told that it lives: such a one ends by its time
_NAME = re.compile(r"(\d{1,12})-(?:t|(h))-(?:\d{1,10}-\d{1,12}-)?[0-9a-f]{16}(@[^/@]+)?")
_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClearLease:
    """Clear text that stands in ``folder`` until ``ends_at`` (Unix seconds)."""

    folder: Path
    ends_at: int
    held: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or its maker, who held it, has."""
        if self.ends_at <= time.time():
            return True
        lock = _try_lock(self.folder) if self.held else None
        if lock is not None:
            os.close(lock)
        return lock is not None


class ClearText:
    """Makes and removes the clear text of one home; safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: dict[Path, int] = {}  # folders, and the descriptors that lock them

    def write(
        self,
        files: Mapping[str, bytes],
        executable: Collection[str] = (),
        *,
        held: bool = False,
        seconds: float | None = None,
    ) -> ClearLease:
        """Write ``{path: clear bytes}``, paths as ``shell/stop.sh``, into a folder of its own.

        ``executable``: the paths of those that are.
        ``held``: until `release`, at most ``seconds`` (default ``clear_text_seconds``). Raises
        `StorageError`, and `Refused` when even the home's own root is a link or somebody else's.
        """
        seconds = self._settings.clear_text_seconds if seconds is None else seconds
        ends_at = int(time.time() + seconds) + 1
        folder = self._new_folder(f"{ends_at}-t-{secrets.token_hex(8)}")
        try:
            if held:
                folder = self._hold(folder)
            self._have_helper(folder.parent)
            for top in {path.partition("/")[0] for path in files}:
                below = {
                    p.removeprefix(f"{top}/"): files[p] for p in files if p.startswith(f"{top}/")
                }
                marked = {path.removeprefix(f"{top}/") for path in executable}
                write_tree(folder / top, below, marked)
        except BaseException:
            self.release(folder)
            raise
        return ClearLease(folder, ends_at, held)

    def release(self, folder: Path) -> None:
        """End a lease before its time; one that has ended is fine."""
        _remove(folder)
        lock = self._held.pop(folder, None)
        if lock is not None:
            os.close(lock)

    def recover(self) -> int:
        """Remove what has ended, and what its dead maker held; how many. For the service's start."""
        removed = 0
        for root in self._roots_there():
            for lease in _leases(root):
                if lease.is_over:
                    _remove(lease.folder)
                    removed += 1
            if _leases(root):
                self._have_helper(root)
        return removed

    def remove_all(self) -> int:
        """Remove every lease of this home, in use or not; how many. For `down`."""
        leases = self.leases()
        for lease in leases:
            _remove(lease.folder)
        for root in self._roots_there():
            with suppress(OSError):  # the helper sees that nothing is left, and ends
                root.rmdir()
        return len(leases)

    def leases(self) -> list[ClearLease]:
        """What stands now, in every root."""
        return [lease for root in self._roots_there() for lease in _leases(root)]

    # -- where ------------------------------------------------------------------------------
    def _roots(self) -> list[Path]:
        """Where clear text may stand, the best first; another process may see another environment."""
        home = hashlib.sha256(os.fsencode(self._settings.home)).hexdigest()[:16]
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        places = [Path(runtime)] if runtime.startswith("/") else []
        # containers and cron jobs have no XDG_RUNTIME_DIR, and no secret goes to a disk for that
        places += [Path(f"/run/user/{os.getuid()}"), Path("/dev/shm")]  # noqa: S108  a private folder inside, checked
        name = f"escher-clear-{home}-{os.getuid()}"
        return [
            *(place / name for place in dict.fromkeys(places)),
            self._settings.run_path / "clear",
        ]

    def _roots_there(self) -> Iterator[Path]:
        """Roots that are there and ours."""
        for root in self._roots():
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                found = root.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                    yield root

    def _new_folder(self, name: str) -> Path:
        *shared, own = self._roots()
        for root in shared:
            with suppress(Refused, StorageError):  # somebody else's, or full: the next one
                if is_memory(root.parent):
                    return _new_folder(root, name)
        return _new_folder(own, name)

    def _hold(self, folder: Path) -> Path:
        """Lock a lease, and then say so in its name."""
        lock = _try_lock(folder)
        try:
            held = folder.rename(folder.with_name(folder.name.replace("-t-", "-h-")))
        except OSError as error:
            raise storage_error(error, f"Holding {folder}") from error
        if lock is not None:
            self._held[held] = lock
        return held

    def _have_helper(self, root: Path) -> None:
        """Start the root's helper, unless it runs; where there can be none, a thread does its work."""
        lock = _try_lock(root)
        if lock is None:
            return
        most = self._settings.clear_text_seconds
        program = [sys.executable, "-I", "-S", "-c", _HELPER]
        try:
            subprocess.run(
                [*program, str(_CODE), str(root), str(most), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                pass_fds=[lock],  # the lock is the helper's from now on
                start_new_session=True,
                check=True,
                timeout=HELPER_START_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("no helper for the clear text in %s: %s", root, type(error).__name__)
            arguments = (str(root), most, lock)
            threading.Thread(target=remove_in_time, args=arguments, daemon=True).start()
        else:
            os.close(lock)


def remove_in_time(root: str, most_seconds: float, lock: int) -> None:
    """Remove each lease under ``root`` when it is over, until none is left: the helper's work.

    ``lock`` is the descriptor that locks ``root``. ``most_seconds`` bounds the stay of what was
    handed out by our own clock: the wall clock can be set back.
    """
    since: dict[Path, float] = {}
    tried: set[Path] = set()  # what can't be removed keeps no helper
    while _is_locked_by(lock, Path(root)):
        left = [lease for lease in _leases(Path(root)) if lease.folder not in tried]
        for lease in left:
            seen = since.setdefault(lease.folder, time.monotonic())
            too_long = not lease.held and time.monotonic() - seen >= most_seconds
            if (too_long or lease.is_over) and not _remove(lease.folder):
                tried.add(lease.folder)
        if not left:
            fcntl.flock(lock, fcntl.LOCK_UN)  # from now on a new lease gets a helper of its own
            if not {lease.folder for lease in _leases(Path(root))} - tried:
                with suppress(OSError):  # it is not empty
                    Path(root).rmdir()
                break
            try:  # one that came just before
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
        time.sleep(LOOK_SECONDS)
    os.close(lock)


def _is_locked_by(lock: int, root: Path) -> bool:
    """Whether it is still that folder: `down` may have removed it, and anybody have come there."""
    try:
        return os.path.samestat(root.lstat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def is_memory(path: Path) -> bool:
    """Whether ``path`` is on a memory-backed file system (Linux; nothing else tells)."""
    try:
        device = path.stat().st_dev
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = (line.partition(" - ") for line in lines)
    return any(
        before.split()[2] == number and after.split()[0] in _MEMORY for before, _, after in mounts
    )


def _leases(root: Path) -> list[ClearLease]:
    """The leases under ``root``; none when it is not there."""
    try:
        found = [(path, _NAME.fullmatch(path.name)) for path in root.iterdir()]
    except FileNotFoundError:
        return []
    return [
        ClearLease(path, int(name[1]), held=bool(name[2] and not name[3]))
        for path, name in found
        if name is not None
    ]


def _new_folder(root: Path, name: str) -> Path:
    folder = root / name
    for last_try in (False, True):
        make_private_dir(root.parent)
        own_private_dir(root)
        try:
            folder.mkdir(mode=PRIVATE_DIR)
        except FileNotFoundError as error:  # `down`, or a helper at its end, just removed the root
            if last_try:
                raise storage_error(error, f"Creating {folder}") from error
        except OSError as error:
            raise storage_error(error, f"Creating {folder}") from error
        else:
            break
    return folder


def _try_lock(folder: Path) -> int | None:
    """A descriptor that locks ``folder``; None where somebody has it locked, or there is none."""
    fd = None
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if fd is not None:
            os.close(fd)
        if isinstance(error, FileNotFoundError | NotADirectoryError | BlockingIOError):
            return None
        raise storage_error(error, f"Locking {folder}") from error
    return fd


def _remove(folder: Path) -> bool:
    """Whether the folder is gone."""
    # twice: of two that remove at once, each trips over what the other has taken away
    for _ in range(2):
        with suppress(OSError):
            remove_tree(folder)
        with suppress(OSError):  # a script may have closed its own
            for inside, _, _ in os.walk(folder):
                Path(inside).chmod(PRIVATE_DIR)
    if os.path.lexists(folder):
        _log.warning("clear text at %s could not be removed", folder)
        return False
    return True
