"""Files written whole or not at all, names that stay in their folder, and digests.

Writes go to a temporary file in the same folder, are synced, and take their place by rename;
the folder is synced after it. Digests are written ``sha256:<64 hex>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import UnsafePath, storage_error
from core.limits import NAME_BYTES, PATH_BYTES

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
PRIVATE_PROGRAM = 0o700
UMASK = 0o077  # of every process of the service
CHUNK_BYTES = 1 << 20
DIGEST_RE = re.compile(r"^sha256:[0-9a-f]{64}$")
_PATH_REMEDY = "Use a relative path with / and plain names, such as shell/stop.sh."
# Control and format characters, line separators, lone surrogates (a name that is not UTF-8) …
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# … but for the joiners of Persian, Indic and emoji names, and for number signs that are seen.
_JOINERS = frozenset("\u200c\u200d")
_VISIBLE = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{1,8}\U000e007f")  # of a region: Scotland's


def sha256_bytes(content: bytes) -> str:
    """The digest of ``content``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """The digest of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)  # most playbooks name their files alike
def check_relative_path(path: str) -> str:
    """Return ``path`` when it is a safe relative POSIX path, else raise `UnsafePath`.

    Its Unicode form is no matter of safety: `core.content` changes it in what comes in anew.
    """
    if not path or path.startswith("/") or re.match(r"^[A-Za-z]:", path):
        raise UnsafePath(f"Path {path!r} is absolute or empty.", _PATH_REMEDY)
    if "\\" in path or (not (path.isascii() and path.isprintable()) and _has_control(path)):
        raise UnsafePath(f"Path {path!r} holds a backslash or control character.", _PATH_REMEDY)
    if len(path.encode()) > PATH_BYTES:
        raise UnsafePath(f"Path {path[:60]!r}… is longer than {PATH_BYTES} bytes.", "Shorten it.")
    for name in path.split("/"):
        if name in {"", ".", ".."}:
            raise UnsafePath(
                f"Path {path!r} climbs out of its folder or has an empty part.", _PATH_REMEDY
            )
        if len(name.encode()) > NAME_BYTES:
            raise UnsafePath(
                f"A name in {path[:60]!r}… is longer than {NAME_BYTES} bytes.", "Shorten it."
            )
        if name != name.strip() or name.endswith("."):
            raise UnsafePath(
                f"A name in {path!r} begins or ends with a space, or ends with a dot.", _PATH_REMEDY
            )
    return path


def _has_control(path: str) -> bool:
    """Whether a control or format character stands in it that no name needs."""
    return any(
        unicodedata.category(c) in _REFUSED_CATEGORIES and c not in _JOINERS and c not in _VISIBLE
        for c in _FLAG.sub("", path)
    )


def check_distinct(paths: list[str]) -> None:
    """Refuse two paths that are one where case or Unicode form says nothing: one would go."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", path.casefold()), path)
        if other != path:
            raise UnsafePath(
                f"Paths {other!r} and {path!r} differ only in case, or not even in that.",
                "Rename one of them.",
            )


def safe_join(root: Path, path: str) -> Path:
    """``root / path`` for a checked relative path that meets no symbolic link on its way."""
    check_relative_path(path)
    target = root
    for name in path.split("/"):
        target = target / name
        if target.is_symlink():
            raise UnsafePath(
                f"Path {path!r} goes through a symbolic link.", "Replace the link by a file."
            )
    return target


def find_program(name: str) -> str | None:
    """A program's whole path, from the absolute folders of PATH: never the current folder's."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(folder for folder in folders if folder.startswith("/"))
    return shutil.which(name, path=path) if path else None


def fsync_dir(path: Path) -> None:
    """Make renames and new names inside ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private_dir(path: Path) -> Path:
    """Create ``path`` and its parents; a folder that this call creates gets mode 0700."""
    try:
        # mkdir(parents=True) would give the parents the umask's mode
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True, mode=PRIVATE_DIR)
    except OSError as error:
        raise storage_error(error, f"Creating the folder {path}") from error
    return path


def file_mode(executable: bool) -> int:
    """The mode of a file of a home."""
    return PRIVATE_PROGRAM if executable else PRIVATE_FILE


def is_executable(found: os.stat_result) -> bool:
    """Whether a file's mode lets its owner execute it."""
    return bool(found.st_mode & stat.S_IXUSR)


def write_new_file(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Write a file that must not exist yet (in a staging folder) and sync it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as file:
        if mode != PRIVATE_FILE:
            os.fchmod(fd, mode)  # whatever the umask is
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def temporary_pattern(path: Path) -> str:
    """What the temporary files of `atomic_write` for ``path`` are called, for ``glob``."""
    return f".{path.name[:40]}.*.tmp"


def atomic_write(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace ``path`` by ``content``: the old bytes or the new ones are there, never a mix."""
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # also on a signal: no temporary file stays behind
            temporary.unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)
    except OSError as error:
        raise storage_error(error, f"Writing {path}") from error


def write_tree(root: Path, files: Mapping[str, bytes], executable: Collection[str] = ()) -> None:
    """Write ``{relative path: content}`` under the new folder ``root`` and sync all of it.

    Files are 0600, those that are ``executable`` 0700. On failure the folder is removed again; one
    that was there already is left as it is.
    """
    try:
        root.mkdir(parents=True, mode=PRIVATE_DIR)
    except OSError as error:
        raise storage_error(error, f"Creating the folder {root}") from error
    try:
        folders = {root}
        for path, content in files.items():
            target = safe_join(root, path)
            for parent in reversed(target.relative_to(root).parents[:-1]):
                (root / parent).mkdir(mode=PRIVATE_DIR, exist_ok=True)
                folders.add(root / parent)
            write_new_file(target, content, file_mode(path in executable))
        for folder in folders:
            fsync_dir(folder)
    except BaseException as error:
        shutil.rmtree(root, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(error, f"Writing to {root}") from error
        raise


def read_bytes(path: Path) -> bytes:
    """A file's bytes, never through a symbolic link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    with os.fdopen(fd, "rb") as file:
        return file.read()


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, or a link and nothing behind it; gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def json_bytes(value: Any) -> bytes:
    """JSON as the service writes it for people: two spaces, UTF-8, a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def walk_files(
    root: Path, skip: Callable[[str], bool] = lambda _path: False, *, links: bool = False
) -> Iterator[tuple[str, os.stat_result]]:
    """Files below ``root`` as ``(relative path, stat)``, by name; what is neither raises `UnsafePath`.

    ``skip(path)`` of a file, or of a folder, then ending with ``/``, or of a link, either way: it is
    not looked at.
    ``links``: a link to a file below ``root`` is that file; any other one, and without it every one,
    raises.
    """
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            path = prefix + entry.name
            is_link = entry.is_symlink()
            is_folder = entry.is_dir(follow_symlinks=False)
            if (not is_folder and skip(path)) or ((is_link or is_folder) and skip(f"{path}/")):
                continue
            if is_link:
                if not links:
                    raise UnsafePath(
                        f"{path!r} in {root} is a symbolic link.", "Replace the link by a file."
                    )
                yield path, inner_file(root, path).lstat()
            elif is_folder:
                stack.append((Path(entry.path), path + "/"))
            elif entry.is_file(follow_symlinks=False):
                yield path, entry.stat(follow_symlinks=False)
            else:
                raise UnsafePath(f"{path!r} in {root} is not a regular file.", "Remove it.")


def inner_file(root: Path, path: str) -> Path:
    """The file below ``root`` that the link at ``path`` leads to; any other link is `UnsafePath`."""
    link = root / path
    try:
        target = Path(os.path.realpath(link, strict=True))
        inside = target.is_relative_to(os.path.realpath(root, strict=True))
        if inside and stat.S_ISREG(target.lstat().st_mode):
            return target
        why = "is no file" if inside else f"is not in {root.name}/"
    except OSError:  # a loop, or nothing there
        why = "is not there"
    name, aim = f"{root.name}/{path}", str(link.readlink())
    raise UnsafePath(
        f"{name!r} in {root.parent} is a symbolic link to {aim!r}, which {why}.",
        "Replace the link by a file; only one to a file in the same format folder is taken.",
    )
