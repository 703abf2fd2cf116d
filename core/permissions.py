"""Keeps other users out of a home, and out of its places in folders that all users share.

In ``/tmp`` and the like names can be foreseen, so somebody else may stand under ours first. A folder
is ours when it is no link, belongs to us and nobody else may enter it; a server is ours when the
kernel says that it runs as us. Root is not kept out: it could do all of this anyway.

In a home what is open to others is closed, and links out are refused. At each start the home, what
stands directly in it and the folders of keys, sockets, logs and messages are looked at (some forty
stats). Everything below is walked where the home itself was found open, by `up`, and told by
`doctor`: others can't pass a closed home, so what is walked later was not in reach meanwhile. Links
are left alone: a mode belongs to what they lead to.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Refused, StorageError, storage_error
from core.files import PRIVATE_DIR, PRIVATE_FILE, make_private_dir

if TYPE_CHECKING:
    from core.settings import Settings

log = logging.getLogger(__name__)

_MACOS_SOL_LOCAL, _MACOS_PEERCRED = 0, 1
_MACOS_XUCRED = "=IIh2x16I"  # version, uid, number of groups, groups
CONNECT_SECONDS = 2
_FIND_OUT = "Find out who made it and have it removed; in a shared folder, a shorter ESCHER_HOME helps, too."

OTHERS = 0o077
_OTHERS_WRITE = 0o022
_LOOKED_INTO = (
    "", "keys", "run", "run/logs", "run/broker", "run/broker/appendonlydir", "server", "qdrant",
)  # fmt: skip
_SECRETS = frozenset({"keys", "api.token", "server.token", "flower.auth"})
_OURS = frozenset({
    "playbooks", "cache", "conflicts", "trash", "sealed", "keys", "qdrant", "run", "server",
})  # fmt: skip
_UNFINISHED = ".modes-unfinished"  # stands while a home that was open is walked
# links here would lead reading, writing and removing out of the home
_FOLDERS = (
    "conflicts",
    "trash",
    "sealed",
    "keys",
    "qdrant",
    "qdrant/collections",
    "run",
    "run/logs",
    "run/broker",
    "server",
)
_NAMED = 3


def why_not_ours(folder: Path) -> str | None:
    """Say what keeps ``folder`` from being a private folder of this user; None when it is one.

    Raises ``FileNotFoundError`` where nothing stands.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}"
    return None


def _is_own_folder(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def own_private_dir(path: Path) -> None:
    """Create ``path`` with mode 0700, or take one that is ours; raises `Refused` for another's.

    One of ours that others may enter is closed first.
    """
    try:
        path.mkdir(mode=PRIVATE_DIR)
    except FileExistsError:  # looked at below: somebody else may have been first
        if _is_own_folder(path.lstat()):
            path.chmod(PRIVATE_DIR)
    except OSError as error:
        raise storage_error(error, f"Creating the folder {path}") from error
    wrong = why_not_ours(path)
    if wrong:
        raise Refused(
            f"{path} is to be a folder of yours with mode 0700, and it {wrong}.",
            "Remove it (or have it removed), or set ESCHER_HOME to a shorter path.",
        )


def check_broker(settings: Settings) -> bool:
    """Whether this user's own server listens at the embedded broker's socket.

    False where nothing is there, or nobody listens. `Refused` when folder, socket or server are
    somebody else's: its answers would be forged results.
    """
    path = settings.broker_socket
    try:
        path.lstat()  # nothing there: nothing is sent, whatever its folder is like
        check_socket(path)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(str(path))
            check_peer(probe, path)
    except OSError:
        return False
    return True


def check_socket(path: Path) -> None:
    """Raise `Refused` unless ``path`` is a socket of ours in a private folder of ours.

    Raises ``OSError`` where it is not there.
    """
    wrong = why_not_ours(path.parent)
    if wrong:
        raise _strangers(path, f"its folder {wrong}", _remedy(path.parent))
    found = path.lstat()
    if not stat.S_ISSOCK(found.st_mode):
        raise _strangers(path, "it is no socket")
    if found.st_uid != os.geteuid():
        raise _strangers(path, f"it belongs to user {found.st_uid}")


def check_peer(connected: socket.socket, path: Path) -> None:
    """Raise `Refused` unless the server at the other end runs as this user (or root)."""
    uid = peer_uid(connected)
    if uid is not None and uid not in {0, os.geteuid()}:
        raise _strangers(path, f"its server runs as user {uid}")


def peer_uid(connected: socket.socket) -> int | None:
    """The user of the process at the other end; None where the system does not tell."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", found)[1])
    if sys.platform == "darwin":
        size = struct.calcsize(_MACOS_XUCRED)
        found = connected.getsockopt(_MACOS_SOL_LOCAL, _MACOS_PEERCRED, size)
        return int(struct.unpack_from("=II", found)[1])
    return None


def _remedy(folder: Path) -> str:
    if _is_own_folder(folder.lstat()):
        return f"chmod 700 {folder}, then `escher-playbooks down` and `up`: others could reach it."
    return _FIND_OUT


def _strangers(path: Path, why: str, remedy: str = _FIND_OUT) -> Refused:
    return Refused(
        f"The broker's socket {path} is not this user's alone: {why}. Nothing was sent there.",
        remedy,
    )


# -- a home -----------------------------------------------------------------------------------


def take_home(settings: Settings, *, whole: bool = False) -> None:
    """Make the home, or `mend` one that is there; `Refused` for links in it and for shared folders."""
    _refuse_shared(settings.home)
    make_private_dir(settings.home)
    refuse_links(settings)
    mend(settings, whole=whole)


def _refuse_shared(home: Path) -> None:
    """`Refused` for a folder like ``/tmp``, which to close would take away from all users.

    One that is mounted for us alone (a container's tmpfs) may look the same, and holds nothing else.
    """
    with suppress(OSError):
        sticky = home.stat().st_mode & stat.S_ISVTX
        if home.samefile("/") or (sticky and any(map(_is_strange, home.iterdir()))):
            raise Refused(
                f"{home} is a folder that all users of this machine share, and a home is one user's.",
                f"Set ESCHER_HOME to a folder of your own, such as {home / 'escher'}.",
            )


def _is_strange(path: Path) -> bool:
    """Whether nothing in a home has such a name."""
    from core.setting_files import CONFIG_FILE  # it brings pydantic, which `--help` does without

    ours = path.name in _OURS | _SECRETS | {CONFIG_FILE, _UNFINISHED, "lost+found"}
    return not ours and not path.name.startswith("journal.db")


def mend(settings: Settings, *, whole: bool = False) -> int:
    """Close the home to others; returns how many files and folders were open.

    ``whole``: look at everything in it. What another user owns can't be closed: a warning, and for
    keys and tokens `StorageError`.
    """
    home = settings.home
    mended: list[Path] = []
    stubborn: list[Path] = []
    try:
        was_open = _is_open(home.stat())  # the home itself may be a link, to another disk
    except FileNotFoundError:
        return 0
    unfinished = home / _UNFINISHED
    if was_open:
        with suppress(OSError):
            os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE))
        _close(home, home.stat().st_mode, home, mended, stubborn)
    walk = whole or os.path.lexists(unfinished)
    for path, found in _below(home) if walk else _nearby(home):
        if _is_open(found):
            _close(path, found.st_mode, home, mended, stubborn)
    with suppress(OSError):
        if walk:
            unfinished.unlink(missing_ok=True)
    for path in writable_by_others(settings):
        try:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS_WRITE)
        except OSError:
            stubborn.append(path)
        else:
            log.warning("%s could be changed by others: it can't any more.", path)
    if mended:
        log.warning("%s could be entered or read by others: closed %s.", home, _named(mended))
    if stubborn:
        log.warning("%s stay open to others, as they are not this user's.", _named(stubborn))
    return len(mended)


def refuse_links(settings: Settings) -> None:
    """Raise `Refused` for a link among the home's own folders and files.

    The home itself may be one: it is the user's choice where it stands, made before anything was in
    it. For playbooks and cache there are settings.
    """
    home = settings.home
    places = {home / name: "" for name in (*_FOLDERS, *_SECRETS, "journal.db")}
    places[home / "journal.db"] = "journal_url (ESCHER_JOURNAL_URL)"
    if settings.playbooks_dir is None:
        places[home / "playbooks"] = "playbooks_dir (ESCHER_PLAYBOOKS_DIR)"
    if settings.cache_dir is None:
        places[home / "cache"] = "cache_dir (ESCHER_CACHE_DIR)"
    for name in ("local", "synced", "ai-generated", ".staging"):
        places[settings.playbooks_path / name] = ""
    for path, setting in places.items():
        if path.is_symlink():
            remedy = "Put what it leads to in its place"
            if setting:
                remedy += f", or remove it and set {setting} to where it leads"
            raise Refused(
                f"{path} is a link, and a home's own folders and files are not looked for elsewhere.",
                f"{remedy}. The home as a whole may be a link.",
            )


def open_to_others(home: Path) -> list[Path]:
    """List everything in a home that others could enter, read or write; nothing is changed."""
    with suppress(FileNotFoundError):
        own = [home] if _is_open(home.stat()) else []
        return own + [path for path, found in _below(home) if _is_open(found)]
    return []


def writable_by_others(settings: Settings) -> list[Path]:
    """List those of the folders that settings name in which others could replace what is ours.

    Reading is no harm there: what we make in them is private. In a sticky folder ours stays ours.
    """
    found = []
    for path in (settings.playbooks_dir, settings.cache_dir):
        with suppress(OSError):
            mode = path.stat().st_mode if path is not None else 0
            if path is not None and mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
                found.append(path)
    return found


def _is_open(found: os.stat_result) -> bool:
    return bool(found.st_mode & OTHERS) and not stat.S_ISLNK(found.st_mode)


def _close(path: Path, mode: int, home: Path, mended: list[Path], stubborn: list[Path]) -> None:
    try:
        path.chmod(mode & PRIVATE_DIR)  # a script stays executable for its owner
    except FileNotFoundError:
        return
    except OSError as error:
        stubborn.append(path)
        parts = path.relative_to(home).parts
        if error.errno == errno.EPERM and parts and parts[0] in _SECRETS:
            raise StorageError(
                f"{path} is open to others (mode {stat.S_IMODE(mode):04o}) and belongs to another user.",
                "Make it your own with mode 0600 (chown, chmod), and change the secret in it.",
            ) from error
    else:
        mended.append(path)


def _nearby(home: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for name in _LOOKED_INTO:
        folder = home / name
        if not folder.is_symlink() or not name:
            yield from _entries(folder)


def _below(home: Path) -> Iterator[tuple[Path, os.stat_result]]:
    folders = [home]
    while folders:
        folder = folders.pop()
        for path, found in _entries(folder):
            # a home that was laid over a folder with other things closes these, and enters ours
            if stat.S_ISDIR(found.st_mode) and (folder != home or path.name in _OURS):
                folders.append(path)
            yield path, found


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):  # gone meanwhile
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
    except OSError:
        return  # not there, or not ours: its own mode has been looked at


def _named(paths: list[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:_NAMED])
    more = len(paths) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
