"""Prove that what the server offers, and what stands on disk, is what its name stands for.

An offer, before a byte of it touches the disk. Names are labels: each must be a safe relative path
inside the format's folder. Its content::

    the answer tells the whole version      its digest is computed: the pinned one, or nothing is
    (manifest and metadata)                 taken and a conflict waits; the first one is pinned
    it does not (an older server)           held against the journal's list of files, where the
                                            version is known; a pinned one that is not is refused,
                                            one that nothing is known of is taken unpinned

A folder, of the cache and of ``playbooks/``: exactly the files of a listing, byte for byte. Files up to
1 MiB are hashed every time. For a larger one its size, mtime, ctime and inode may stand in for a day,
once it has been hashed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from core.content import is_leftover, is_leftover_link
from core.entry_scripts import stored_entry
from core.errors import (
    EscherError,
    IntegrityError,
    NotEscherServer,
    NotFound,
    OtherContent,
    Refused,
    UnsafePath,
    storage_error,
)
from core.files import check_relative_path, file_mode, is_executable
from core.journal import Journal
from core.journal.pins import LIBRARY, SERVER
from core.journal.scripts import ProofRow, ProofRows
from core.limits import FILES, MIB
from core.models import (
    RESERVED_PREFIX,
    FileEntry,
    Ref,
    ScriptKey,
    content_digest,
    executables,
)
from core.scripts.models import Listing
from core.server.answers import CHECK_URL, ManifestEntry, Script, ScriptFile, clean_words
from core.settings import Settings

IMMUTABLE = "immutable"  # as `core.publishing.conflict_rules.Rule` has it
_NAMED = 19  # characters of a digest that tell it from another one
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


# -- an offer ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Offer:
    """A checked listing, with the URLs of its files by path."""

    listing: Listing
    files: dict[str, ScriptFile]

    def marked_as(self, known: Iterable[FileEntry]) -> Offer:
        """The same with the executable files that are known of the version."""
        marked = executables(known)
        files = (replace(file, executable=file.path in marked) for file in self.listing.files)
        return replace(self, listing=replace(self.listing, files=tuple(files)))


def check_offer(script: Script, key: ScriptKey, settings: Settings) -> Offer:
    """The server's answer for ``key`` as an `Offer`.

    `NotEscherServer` when it is about something else or names a path that is not safe, `Refused`
    when it is larger than the settings allow, `NotFound` when it has no files.
    """
    said = (script.playbook_id, script.version, script.format)
    if said != (*key.ref, key.format):
        asked = clean_words(" ".join(str(part) for part in said))
        raise NotEscherServer(f"The server was asked for {key} and answered {asked}.", CHECK_URL)
    if not script.files:
        raise NotFound(f"The server has no {key.format} script of {key.ref}.")
    if len(script.files) > FILES:
        raise Refused(f"{key} has {len(script.files)} files; at most {FILES} are fetched.")
    files = {file.path: file for file in script.files}
    _check_paths(key, [file.path for file in script.files])
    _check_sizes(key, script.files, settings)
    marked = {entry.path for entry in script.manifest or script.files if entry.executable}
    entries = tuple(
        FileEntry(file.path, file.size_bytes, file.checksum, file.path in marked)
        for file in sorted(script.files, key=lambda file: file.path)
    )
    return Offer(Listing(key, entries, _entry(script, key, files)), files)


def _entry(script: Script, key: ScriptKey, paths: Collection[str]) -> str:
    """The entry script: what the metadata says, which the digest covers, else the rule's.

    Of a version from before, the server's word tells that a file without a suffix is a script.
    `NotEscherServer` where it names none that is there, or none at all although there is one.
    """
    entries = (script.metadata or {}).get("entry_points")
    found = stored_entry(key.format, paths, entries, lambda path: path == script.entry_point)
    if script.entry_point not in {None, *paths} or (found.path and script.entry_point is None):
        raise NotEscherServer(
            f"The server names an entry point of {key} that is not among its files.", CHECK_URL
        )
    return found.path or ""


def difference(expected: Iterable[FileEntry], listed: Iterable[FileEntry]) -> str | None:
    """The first path by name that is not the same in both; None when all are."""
    here = {file.path: file for file in expected}
    there = {file.path: file for file in listed}
    return min(
        (path for path in here.keys() | there.keys() if here.get(path) != there.get(path)),
        default=None,
    )


def mismatch(key: ScriptKey, path: str) -> IntegrityError:
    """The server lists, for a published version, other files than were published."""
    return IntegrityError(
        f"The server lists {path} of {key.ref} otherwise than it was published.",
        "Nothing was downloaded: a published version never changes. Ask the server's operator.",
    )


def _check_paths(key: ScriptKey, paths: list[str]) -> None:
    try:
        for path in paths:
            check_relative_path(path)
            if not path.startswith(f"{key.format}/"):
                raise UnsafePath(f"Path {path!r} is outside of {key.format}/.")
    except UnsafePath as error:
        raise NotEscherServer(
            f"The server lists {key} with a name that is not safe: {clean_words(error.detail)}",
            CHECK_URL,
        ) from None
    # what is one name where case or Unicode form says nothing
    names = {unicodedata.normalize("NFC", path.casefold()) for path in paths}
    parents = {
        name[:end] for name in names for end in range(len(name)) if name[end] == "/"
    }  # fmt: skip
    if len(names) < len(paths) or names & parents:
        raise NotEscherServer(
            f"The server lists a name of {key} twice, or as a file and a folder.", CHECK_URL
        )


def _check_sizes(key: ScriptKey, files: Iterable[ScriptFile], settings: Settings) -> None:
    total = 0
    for file in files:
        total += file.size_bytes
        if file.size_bytes > settings.max_script_size_mb * MIB:
            raise Refused(
                f"{file.path} of {key.ref} has {file.size_bytes} bytes, more than the "
                f"{settings.max_script_size_mb:g} MiB that are fetched.",
                "Raise max_script_size_mb.",
            )
    if total > settings.cache_max_size_mb * MIB:
        raise Refused(
            f"{key} has {total} bytes, more than the whole cache's "
            f"{settings.cache_max_size_mb:g} MiB.",
            "Raise cache_max_size_mb.",
        )


def check_pinned(journal: Journal, ref: Ref, script: Script, *, is_known: bool) -> None:
    """Raise where ``script`` offers another content than ``ref`` names; pin it where it names none.

    ``is_known``: the journal lists the version's files, and they are compared. `OtherContent`, or
    `IntegrityError` for an answer that contradicts itself, `Refused` for a version of an id that is
    private here.
    """
    if not is_known and journal.pins.private_ids([ref.playbook_id]):
        raise Refused(
            f"{ref} is somebody else's: {ref.playbook_id} is private here.",
            "`escher-playbooks conflicts` lists what waits for your choice.",
        )
    pinned = journal.pins.get(ref)
    if script.manifest is None or script.metadata is None:
        if pinned is not None and not is_known:
            raise IntegrityError(
                f"The server does not tell the whole of {ref}, so it can't be compared with what"
                " that name stands for.",
                "Nothing was downloaded. Ask the server's operator.",
            )
        return
    _check_files(ref, script, script.manifest)
    digest = version_digest(script.metadata, script.manifest)
    if script.content_digest not in {None, digest}:
        raise IntegrityError(
            f"The server's account of {ref} does not make the digest that it names.", CHECK_URL
        )
    if pinned is None:
        is_library = ref.playbook_id.startswith(RESERVED_PREFIX)
        journal.pins.put([(ref, digest)], LIBRARY if is_library else SERVER)
        pinned = journal.pins.get(ref)  # another process may have been first
    if pinned != digest:
        words = (
            f"The server claims other content for {ref} than that name stands for"
            f" ({digest[:_NAMED]}…); nothing of it is taken."
        )
        journal.conflicts.open(ref, IMMUTABLE, words, server_digest=digest)
        raise OtherContent(
            words, "Choose with `escher-playbooks conflicts resolve`, or ask its operator."
        )


def version_digest(metadata: dict[str, object], manifest: Iterable[ManifestEntry]) -> str:
    """The content digest of a version as a script answer tells it."""
    return content_digest(
        metadata, [FileEntry(path, 0, checksum, is_x) for path, checksum, is_x in manifest]
    )


def _check_files(ref: Ref, script: Script, manifest: Iterable[ManifestEntry]) -> None:
    """The files that are offered are those of the manifest, in the format that was asked for."""
    listed = {entry.path: entry.checksum for entry in manifest}
    offered = {file.path: file.checksum for file in script.files}
    lacking = {
        path
        for path in listed
        if script.format is not None and path.startswith(f"{script.format}/")
    } - offered.keys()
    wrong = {path for path, checksum in offered.items() if listed.get(path) != checksum}
    if lacking or wrong:
        path = min(lacking | wrong)
        raise IntegrityError(
            f"The server offers {path[:200]!r} of {ref} otherwise than its own manifest says.",
            CHECK_URL,
        )


# -- a folder ---------------------------------------------------------------------------------
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


def set_modes(root: Path, files: Sequence[FileEntry]) -> None:
    """Make the executable ones of proven ``files`` below ``root`` executable for their owner.

    Where that can't be done (a share, a read-only home) they stay as they are, and it is logged.
    """
    base = os.fspath(root)
    for file in files:
        if not file.executable:
            continue
        path = f"{base}/{file.path}"
        try:
            if is_executable(os.lstat(path)):
                continue
            fd = os.open(path, _OPEN_FLAGS)
            try:
                os.fchmod(fd, file_mode(executable=True))
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("%s can't be made executable: %s", path, error.strerror)


def files_beside(root: Path | str, format_: str, files: Sequence[FileEntry]) -> list[str]:
    """List the paths in ``root/<format_>/`` that editors, tools and runs left beside ``files``."""
    wanted = {file.path for file in files}
    base = os.fspath(root)
    found = []
    for parent, folders, names in os.walk(f"{base}/{format_}"):  # links are not followed
        inside = parent[len(base) + 1 :]
        for name in (*names, *folders):
            path = f"{inside}/{name}"
            is_link = os.path.islink(f"{parent}/{name}")  # noqa: PTH114  text
            if name in folders and not is_link:
                continue
            if path not in wanted and (is_leftover_link if is_link else is_leftover)(path):
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
