"""Playbooks from outside, read into drafts: one folder, a folder of many, or a tar archive.

A folder that holds ``metadata.json`` is a playbook; what else is in it is taken when it is content
(`core.content`), else named in ``ignored``. An archive is read once, and nothing of it is extracted:
no name in it becomes a name on disk. ::

    a child of the sandbox (`core.playbooks.archive`)       here
    headers checked, members and bytes in order  ──►  bytes into a temporary file without a name
                                                      names shared out over playbooks, checked ──► drafts

What is small waits in memory; the file is gone however this process ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import IO, NamedTuple

from core import sandbox
from core.content import KNOWN_FILES, is_leftover, is_part, leftovers_but
from core.errors import (
    EscherError,
    InvalidPlaybook,
    NotFound,
    Unreadable,
    UnsafePath,
    UsageError,
    faults_of,
    storage_error,
)
from core.files import check_relative_path, walk_files
from core.models import (
    FORMATS,
    METADATA_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.archive import Damaged, Untrusted
from core.playbooks.validation import MAX_DEPTH, MIB, Limits

MAX_MEMBERS = 200_000
MAX_ARCHIVE_BYTES = 1024 * MIB  # uncompressed
STALL_SECONDS = 60.0  # the longest that a part of an archive may take
READING_SECONDS = 300.0  # of waiting for the whole archive
IN_MEMORY_BYTES = 32 * MIB  # of an archive's files; what has more waits on disk
_BAD_MEMBER = "Make the archive anew from plain files."


def iter_drafts(
    path: Path, limits: Limits | None = None, *, temporary: Path | None = None
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Yield each playbook in a folder or a ``.tar.gz``/``.tgz``/``.tar``: its name and draft or error.

    One that can't be read is an error in its place; the others follow. ``temporary``: the folder on
    whose disk a large archive's files wait, else the system's. Raises `NotFound` or `UsageError` when
    ``path`` itself is not there or holds no playbook at all.
    """
    limits = limits or Limits()
    if path.is_dir():
        found = _drafts_in_folder(path, limits)
    elif path.is_file():
        found = drafts_in_archive(path, limits, temporary)
    else:
        raise NotFound(f"{path} is not there.", "Give a folder of playbooks or a .tar.gz of them.")
    empty = True
    for item in found:
        empty = False
        yield item
    if empty:
        raise UsageError(
            f"{path} holds no playbook: no {METADATA_FILE} up to {MAX_DEPTH} folders deep.",
            "Give the folder above the playbooks' folders.",
        )


def draft_from_folder(
    path: Path,
    limits: Limits | None = None,
    known: Collection[str] = (),
    *,
    stored: bool = False,
) -> PlaybookDraft:
    """Read the folder of one playbook; nothing is followed out of it.

    Leftovers of editors, tools and runs are named in ``ignored``, unless they are ``known``.
    ``stored``: it stands in the home already, maybe since before the limits on JSON.

    Raises `InvalidPlaybook` (no or wrong ``metadata.json``, too large), `UnsafePath` (a symbolic
    link, a device) or `StorageError`.
    """
    limits = limits or Limits()
    if not path.is_dir():
        raise NotFound(f"{path} is not a folder.", f"Give the folder that holds {METADATA_FILE}.")
    try:
        sizes, ignored = _survey(path, known)
        if METADATA_FILE not in sizes:
            raise InvalidPlaybook(
                f"{path} holds no {METADATA_FILE}.", "Write one; see docs/file-structure.md."
            )
        limits.check(sizes.items(), path.name)
        files = {name: _read_capped(path / name, size) for name, size in sizes.items()}
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE, stored=stored)
    return PlaybookDraft(metadata, files, tuple(ignored))


def without_leftovers(draft: PlaybookDraft) -> PlaybookDraft:
    """Return the draft without what editors, tools and runs leave; that is named in ``ignored``."""
    is_left_out = leftovers_but(())
    left_out = [path for path in draft.files if is_left_out(path)]
    if not left_out:
        return draft
    files = {path: content for path, content in draft.files.items() if path not in left_out}
    return PlaybookDraft(draft.metadata, files, (*draft.ignored, *left_out))


def _survey(path: Path, known: Collection[str]) -> tuple[dict[str, int], list[str]]:
    """Relative paths with sizes, and the names that are left aside."""
    sizes: dict[str, int] = {}
    ignored: list[str] = []
    is_left_out = leftovers_but(known)

    def skip(prefix: str, inside: str) -> bool:
        left_out = is_left_out(prefix + inside)
        if left_out:
            ignored.append(prefix + inside)
        return left_out

    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name not in KNOWN_FILES and entry.name not in FORMATS:
            ignored.append(entry.name)
        elif entry.is_symlink():
            raise UnsafePath(
                f"{entry.name!r} in {path} is a symbolic link.", "Replace the link by a file."
            )
        elif entry.name in FORMATS and entry.is_dir():
            prefix = f"{entry.name}/"
            for name, found in walk_files(Path(entry.path), partial(skip, prefix)):
                sizes[prefix + name] = found.st_size
        elif entry.name in KNOWN_FILES and entry.is_file():
            sizes[entry.name] = entry.stat().st_size
        else:
            kind = "a file, and a format is a folder" if entry.name in FORMATS else "not a file"
            raise InvalidPlaybook(f"{entry.name!r} in {path} is {kind}.", "Rename or remove it.")
    return sizes, ignored


def _read_capped(path: Path, size: int) -> bytes:
    """Read a file that was ``size`` bytes long a moment ago; a swap for a link or pipe is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsafePath(f"{path} is not a regular file.", "Remove it.")
        content = file.read(size + 1)
    if len(content) != size:
        raise InvalidPlaybook(f"{path} changed while it was read.", "Try again when it is quiet.")
    return content


def _drafts_in_folder(
    root: Path, limits: Limits
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    for path in _playbook_folders(root):
        name = path.relative_to(root).as_posix()
        found: PlaybookDraft | EscherError
        try:
            with faults_of(name):
                found = draft_from_folder(path, limits)
        except EscherError as error:
            found = error
        yield (root.name if name == "." else name), found


def _playbook_folders(root: Path) -> Iterator[Path]:
    """Folders with a ``metadata.json``, by name; a playbook's own sub-folders are not looked at."""
    for folder, names, files in os.walk(root):  # links are not followed
        if METADATA_FILE in files:
            names.clear()
            yield Path(folder)
        elif len(Path(folder).relative_to(root).parts) >= MAX_DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


# -- archives ---------------------------------------------------------------------------------


class _Member(NamedTuple):
    """What an archive says of a member; ``at``: where a file's bytes begin among all files'."""

    name: str  # without a leading ./
    size: int
    kind: str
    at: int


@dataclass(slots=True)
class _Found:
    """A playbook of an archive, as its members' names show it."""

    root: str  # its folder in the archive, "" for the archive itself
    members: dict[str, _Member] = field(default_factory=dict)  # by path in the folder
    ignored: set[str] = field(default_factory=set)
    error: EscherError | None = None

    def take(self, member: _Member, climbs: UnsafePath | None) -> None:
        """Count a member in; a hostile one makes the playbook an error."""
        path = member.name[len(self.root) :].lstrip("/")
        head, slash, _ = path.partition("/")
        left_out = bool(slash) and is_leftover(path)
        wrong = climbs
        if wrong is None and not left_out and member.kind not in {"file", "folder"}:
            text = f"{member.name!r} is a link, device or hole file."
            wrong = UnsafePath(text, _BAD_MEMBER)
        elif member.kind == "file" and path in self.members:
            text = f"{self.root or '.'} holds {path!r} twice in the archive."
            wrong = UnsafePath(text, _BAD_MEMBER)
        if wrong is not None:
            self.error = self.error or wrong
        elif member.kind == "file" and is_part(path) and not left_out:
            self.members[path] = member
        elif member.kind == "file":
            self.ignored.add(path if is_part(path) else head)


def drafts_in_archive(
    path: Path, limits: Limits, temporary: Path | None
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Yield each playbook's folder name in the archive with its draft or error.

    Of an archive that breaks off, the playbooks before the break are handed out, then the error;
    of one whose checksum is wrong, or that is beyond all limits, the error alone.
    """
    try:
        folder = None if temporary is None else str(temporary)
        with SpooledTemporaryFile(IN_MEMORY_BYTES, dir=folder) as contents:
            members, damage = _read_members(path, contents)
            if not isinstance(damage, Untrusted):
                found, climbing = _share_out(members, damage)
                yield from sorted(climbing.items())
                for playbook in found:
                    yield playbook.root or ".", _draft(playbook, contents, limits)
            if damage is not None:
                yield path.name, damage
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error


def _read_members(path: Path, contents: IO[bytes]) -> tuple[list[_Member], Damaged | None]:
    """All members, with the files' bytes written to ``contents``, and what ended the reading early."""
    members: list[_Member] = []
    argument = {
        "path": str(path.absolute()), "max_bytes": MAX_ARCHIVE_BYTES, "max_members": MAX_MEMBERS,
    }  # fmt: skip
    at, kind, detail, remedy = 0, "", "", ""
    try:
        for value, content in sandbox.stream(
            "core.playbooks.archive:members",
            argument,
            seconds=STALL_SECONDS,
            total_seconds=READING_SECONDS,
        ):
            if "error" in value:  # told below: a child that came to its end is used again
                kind, detail, remedy = map(str, value["error"])
                continue
            for name, size, what in value["members"]:
                members.append(_Member(str(name).removeprefix("./"), int(size), str(what), at))
                at += int(size) if what == "file" else 0
            contents.write(content)
            if contents.tell() > MAX_ARCHIVE_BYTES:  # which the child had to see to
                raise ValueError
    except Unreadable as error:
        return members, Untrusted(f"{path.name}: {error.detail}", error.remedy)
    except (KeyError, TypeError, ValueError):
        return members, Untrusted(f"{path.name} broke its reader.", _BAD_MEMBER)
    if kind == "OSError":
        raise OSError(int(detail), os.strerror(int(detail)), remedy)
    if kind == "UsageError":
        raise UsageError(detail, remedy)
    if kind:
        return members, (Damaged if kind == "Damaged" else Untrusted)(detail, remedy)
    return members, None


def _share_out(
    members: list[_Member], damage: Damaged | None
) -> tuple[list[_Found], dict[str, UnsafePath]]:
    """The archive's playbooks in its order, and names outside of them that would climb out."""
    roots = _roots(members)
    found: dict[str, _Found] = {}
    climbing: dict[str, UnsafePath] = {}
    last: _Found | None = None
    for member in members:
        climbs = _climbs(member.name)
        root = _root_of(member.name, roots)
        last = None if root is None else found.setdefault(root, _Found(root))
        if last is not None:
            last.take(member, climbs)
        elif climbs is not None:
            climbing[member.name] = climbs
    if damage is not None and last is not None:
        last.error = damage  # its files may have been cut off
    return list(found.values()), climbing


def _climbs(name: str) -> UnsafePath | None:
    if name in {"", "."}:  # the archive's own folder
        return None
    try:
        check_relative_path(name)
    except UnsafePath as error:
        return error
    return None


def _roots(members: list[_Member]) -> set[str]:
    """Folders with a ``metadata.json``; inside of a playbook there is no other."""
    candidates = set()
    for member in members:
        folder, _, file = ("/" + member.name).rpartition("/")
        if member.kind == "file" and file == METADATA_FILE and folder.count("/") <= MAX_DEPTH:
            candidates.add(folder[1:])
    roots: set[str] = set()
    for root in sorted(candidates, key=lambda name: (name.count("/"), name)):
        if _root_of(root, roots) is None:
            roots.add(root)
    return roots


def _root_of(name: str, roots: set[str]) -> str | None:
    """The playbook folder in which ``name`` textually stands."""
    if "" in roots:
        return ""
    return next((str(p) for p in PurePosixPath(name).parents if str(p) in roots), None)


def _draft(playbook: _Found, contents: IO[bytes], limits: Limits) -> PlaybookDraft | EscherError:
    name = playbook.root or "."
    if playbook.error is not None:
        return playbook.error
    try:
        with faults_of(name):
            limits.check([(path, member.size) for path, member in playbook.members.items()], name)
            files = {path: _content(contents, member) for path, member in playbook.members.items()}
            metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE)
    except InvalidPlaybook as error:
        return error
    return PlaybookDraft(metadata, files, tuple(sorted(playbook.ignored)))


def _content(contents: IO[bytes], member: _Member) -> bytes:
    contents.seek(member.at)
    content = contents.read(max(member.size, 0))
    if len(content) != member.size:
        raise Damaged(f"{member.name} is not whole in the archive.", _BAD_MEMBER)
    return content
