"""Whose a folder or a socket is, in places such as ``/tmp`` that all users of a machine share.

Names there can be foreseen, so somebody else may stand under ours first. A folder is ours when it
is no link, belongs to us and nobody else may enter it; a server is ours when the kernel says that
it runs as us. Root is not kept out: it could do all of this anyway.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Refused, storage_error
from core.files import PRIVATE_DIR

if TYPE_CHECKING:
    from core.settings import Settings

_MACOS_SOL_LOCAL, _MACOS_PEERCRED = 0, 1
_MACOS_XUCRED = "=IIh2x16I"  # version, uid, number of groups, groups
CONNECT_SECONDS = 2
_FIND_OUT = "Find out who made it and have it removed; in a shared folder, a shorter ESCHER_HOME helps, too."


def why_not_ours(folder: Path) -> str | None:
    """What keeps ``folder`` from being a private folder of this user; None when it is one.

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
    """`Refused` unless ``path`` is a socket of ours in a private folder of ours.

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
    """`Refused` unless the server at the other end runs as this user (or root)."""
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
