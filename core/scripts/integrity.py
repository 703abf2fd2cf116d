"""Prove that a folder holds exactly the files of a listing, byte for byte.

Files up to 1 MiB are hashed every time. For a larger one its size, mtime, ctime and inode may stand
in for a day, once it has been hashed. Used for the cache and for the folders in ``playbooks/``.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from core.content import is_leftover
from core.errors import EscherError, storage_error
from core.journal.scripts import ProofRow, ProofRows
from core.models import FileEntry

HASHED_BYTES = 1 << 20  # up to here a stat never stands in for the hash
PROOF_SECONDS = 86_400.0
# A change within the file system's clock tick of the hashing would leave the same ctime behind.
SETTLED_SECONDS = 2.0
_REMEMBERED = 4096
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# a pipe that took a file's place must not be waited on
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# What one bad file can answer; anything else (no descriptors left, no memory) is no verdict on it.
FILE_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ENXIO})

log = logging.getLogger(__name__)


class Proofs:
    """Remembers which large files were hashed and not changed since, for all processes of a home."""

    def __init__(
        self, rows: ProofRows, clock: Callable[[], float] = time.time, *, writes: bool = True
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._writes = writes
        self._memory: dict[str, ProofRow] = {}

    def without_writes(self) -> Proofs:
        """The same proofs, for use inside a write transaction; new ones stay in memory."""
        other = Proofs(self._rows, self._clock, writes=False)
        other._memory = self._memory
        return other

    def holds(self, path: str, found: os.stat_result, checksum: str) -> bool:
        """Whether the file at ``path`` with this stat was proven to have ``checksum`` lately."""
        row = self._memory.get(path)
        if row is None or not self._fits(row, found, checksum):
            row = self._rows.get(path)
            if row is None or not self._fits(row, found, checksum):
                return False
            self._keep(row)
        return True

    def remember(self, path: str, found: os.stat_result, checksum: str) -> None:
        """The file with this stat has just been hashed to ``checksum``."""
        if time.time() - found.st_ctime <= SETTLED_SECONDS:
            return  # the next call hashes it once more
        row = ProofRow(
            path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino,
            checksum, self._clock(),
        )  # fmt: skip
        self._keep(row)
        if not self._writes:
            return
        try:
            self._rows.put(row)
        except EscherError as error:  # a read-only home: this process remembers it all the same
            log.debug("the proof of %s was not kept: %s", path, error.detail)

    def _fits(self, row: ProofRow, found: os.stat_result, checksum: str) -> bool:
        return (
            row.checksum == checksum
            and row.size == found.st_size
            and row.mtime_ns == found.st_mtime_ns
            and row.ctime_ns == found.st_ctime_ns
            and row.inode == found.st_ino
            and 0 <= self._clock() - row.verified_at < PROOF_SECONDS
        )

    def _keep(self, row: ProofRow) -> None:
        if len(self._memory) >= _REMEMBERED:
            self._memory.clear()
        self._memory[row.path] = row


def files_beside(root: Path | str, format_: str, files: Sequence[FileEntry]) -> list[str]:
    """List the paths in ``root/<format_>/`` that editors, tools and runs left beside ``files``."""
    wanted = {file.path for file in files}
    base = os.fspath(root)
    found = []
    for parent, folders, names in os.walk(f"{base}/{format_}"):  # links are not followed
        inside = parent[len(base) + 1 :]
        links = [name for name in folders if os.path.islink(f"{parent}/{name}")]  # noqa: PTH114  text
        for name in (*names, *links):
            path = f"{inside}/{name}"
            if path not in wanted and is_leftover(path):
                found.append(path)
    return sorted(found)


def prove(
    root: Path | str,
    format_: str,
    files: Sequence[FileEntry],
    proofs: Proofs | None,
    beside: Collection[str] = (),
) -> str | None:
    """Return None when ``root/<format_>/`` holds exactly ``files``, else what is wrong.

    ``files`` are paths relative to ``root`` (``shell/stop.sh``). ``proofs`` None: hash everything.
    ``beside``: what else may stand there, for who takes a copy without it.
    A link, a file too many or too few, and a changed byte are all wrong; an empty folder is not.
    Raises `StorageError` where the system, not the file, failed.
    """
    base = f"{os.fspath(root)}/"
    if _holds_plainly(base + format_, len(format_) + 1, files):
        return None
    wanted = {file.path: file for file in files}
    missing = set(wanted)
    try:
        if stat.S_ISLNK(os.lstat(base + format_).st_mode):
            return f"{format_} is a symbolic link"
        folders = [format_]
        while folders:
            folder = folders.pop()
            with os.scandir(base + folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}"
                    if path in beside:
                        continue
                    if entry.is_symlink():
                        return f"{path!r} is a symbolic link"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif path not in wanted:
                        return f"{path!r} does not belong there"
                    elif not entry.is_file(follow_symlinks=False):
                        return f"{path!r} is not a regular file"
                    else:
                        missing.discard(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{format_} is missing"
    except OSError as error:
        return _verdict(error, format_)
    if missing:
        return f"{min(missing)!r} is missing"
    for file in files:
        if (wrong := prove_file(base + file.path, file, proofs)) is not None:
            return wrong
    return None


def _holds_plainly(folder: str, cut: int, files: Sequence[FileEntry]) -> bool:
    """`prove`'s yes for what most scripts are, small files side by side, in few system calls.

    ``cut``: how much of each path is the folder's name. False says nothing: the rest of `prove`
    finds out. As many names as files, each opened by its name in this very folder and no link, is
    the exact set.
    """
    try:
        opened = os.open(folder, _FOLDER_FLAGS)
    except OSError:
        return False
    try:
        if len(os.listdir(opened)) != len(files):  # noqa: PTH208  pathlib knows no descriptors
            return False
        for file in files:
            name, size = file.path[cut:], file.size_bytes
            if "/" in name or not 0 < size <= HASHED_BYTES:
                return False
            fd = os.open(name, _FILE_FLAGS, dir_fd=opened)
            try:
                content = os.read(fd, size + 1)
            finally:
                os.close(fd)
            if len(content) != size or file.checksum != f"sha256:{sha256(content).hexdigest()}":
                return False
    except OSError:
        return False
    finally:
        os.close(opened)
    return True


def prove_file(path: str, file: FileEntry, proofs: Proofs | None) -> str | None:
    """Return None when the file at ``path`` has the size and checksum of ``file``, else what is wrong."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        return f"{file.path!r} is missing"
    except OSError as error:
        return _verdict(error, file.path)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return f"{file.path!r} is not a regular file"
        if found.st_size != file.size_bytes:
            return f"{file.path!r} has {found.st_size} bytes instead of {file.size_bytes}"
        if found.st_size <= HASHED_BYTES:
            checksum = _hash_small(fd, found.st_size)
        elif proofs is not None and proofs.holds(path, found, file.checksum):
            return None
        else:
            checksum = _hash_large(fd)
        if checksum != file.checksum:
            return f"{file.path!r} has other bytes than its checksum says"
        if found.st_size > HASHED_BYTES and proofs is not None:
            _settle(fd, path, found, file.checksum, proofs)
    except OSError as error:
        return _verdict(error, file.path)
    finally:
        os.close(fd)
    return None


def _hash_small(fd: int, size: int) -> str:
    content = os.read(fd, size + 1)
    while len(content) < size and (more := os.read(fd, size + 1 - len(content))):
        content += more
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _hash_large(fd: int) -> str:
    with os.fdopen(fd, "rb", closefd=False) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _settle(fd: int, path: str, found: os.stat_result, checksum: str, proofs: Proofs) -> None:
    after = os.fstat(fd)
    if (after.st_mtime_ns, after.st_ctime_ns) != (found.st_mtime_ns, found.st_ctime_ns):
        return  # it was written to while it was read
    # the proof must not outlive a power cut that the bytes did not
    with suppress(OSError):  # a file system that can't sync is read-only
        os.fsync(fd)
    proofs.remember(path, found, checksum)


def _verdict(error: OSError, path: str) -> str:
    if error.errno == errno.ELOOP:
        return f"{path!r} is a symbolic link"
    if error.errno in FILE_ERRNOS:
        return f"{path!r} can't be read: {error.strerror}"
    raise storage_error(error, f"Reading {path!r}") from error
