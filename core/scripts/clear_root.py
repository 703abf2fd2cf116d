"""Where clear text may stand: memory of this user's, else a private folder of the home."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from core.errors import Refused, StorageError, storage_error
from core.files import PRIVATE_DIR, make_private_dir
from core.settings import Settings
from core.shared_places import own_private_dir

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
