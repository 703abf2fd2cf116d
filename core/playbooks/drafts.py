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
import posixpath
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import IO, NamedTuple

from core import sandbox
from core.content import KNOWN_FILES, is_leftover, left_out_name, leftovers_but
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
from core.files import check_relative_path, inner_file, is_executable, walk_files
from core.limits import MIB
from core.models import (
    FORMATS,
    METADATA_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.archive import HARD_LINK, LINKS, Damaged, Untrusted
from core.playbooks.validation import MAX_DEPTH, Limits

MAX_MEMBERS = 200_000
MAX_ARCHIVE_BYTES = 1024 * MIB  # uncompressed
STALL_SECONDS = 60.0  # the longest that a part of an archive may take
READING_SECONDS = 300.0  # of waiting for the whole archive
MAX_LINKS = 40  # followed one after the other, as Linux does
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

    Leftovers of editors, tools and runs are named in ``ignored``, unless they are ``known``; a link
    to a file in the same format folder is that file. ``stored``: it stands in the home already,
    maybe since before the limits on JSON.

    Raises `InvalidPlaybook` (no or wrong ``metadata.json``, too large), `UnsafePath` (any other
    link, a device) or `StorageError`.
    """
    limits = limits or Limits()
    if not path.is_dir():
        raise NotFound(f"{path} is not a folder.", f"Give the folder that holds {METADATA_FILE}.")
    try:
        found, ignored = _survey(path, known)
        if METADATA_FILE not in found:
            raise InvalidPlaybook(
                f"{path} holds no {METADATA_FILE}.", "Write one; see docs/file-structure.md."
            )
        limits.check(((name, seen.st_size) for name, seen in found.items()), path.name)
        linked = [name for name in found if (path / name).is_symlink()]
        files = {name: _read_capped(path, name, seen) for name, seen in found.items()}
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE, stored=stored)
    marked = frozenset(name for name in files if is_executable(found[name]))
    return PlaybookDraft(
        metadata, files, tuple(ignored), executable=marked, linked=tuple(sorted(linked))
    )


def _survey(path: Path, known: Collection[str]) -> tuple[dict[str, os.stat_result], list[str]]:
    """Relative paths with the stats of their files, and the names that are left aside."""
    survey: dict[str, os.stat_result] = {}
    ignored: list[str] = []
    is_left_out = leftovers_but(known)

    def skip(prefix: str, inside: str) -> bool:
        left_out = is_left_out(prefix + inside)
        if left_out:
            ignored.append(left_out_name(prefix + inside))
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
            for name, found in walk_files(Path(entry.path), partial(skip, prefix), links=True):
                survey[prefix + name] = found
        elif entry.name in KNOWN_FILES and entry.is_file():
            survey[entry.name] = entry.stat()
        else:
            raise _wrong_kind(entry.name, str(path))
    return survey, ignored


def _wrong_kind(name: str, where: str) -> InvalidPlaybook:
    """The refusal of a file that is called like a format, or a folder like a known file."""
    kind = "a file, and a format is a folder" if name in FORMATS else "not a file"
    return InvalidPlaybook(f"{name!r} in {where} is {kind}.", "Rename or remove it.")


def _read_capped(root: Path, name: str, seen: os.stat_result) -> bytes:
    """Read the file that was ``seen`` a moment ago; a swap for a link or pipe is refused.

    A link to a file in the same format folder is read as that very file.
    """
    path, size = root / name, seen.st_size
    if path.is_symlink():
        format_, _, inside = name.partition("/")
        path = inner_file(root / format_, inside)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode):
            raise UnsafePath(f"{path} is not a regular file.", "Remove it.")
        content = file.read(size + 1)
    if len(content) != size or (now.st_ino, now.st_dev) != (seen.st_ino, seen.st_dev):
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
        names[:] = sorted(filter(_is_looked_into, names))


def _is_looked_into(folder: str) -> bool:
    """Whether playbooks are looked for in a folder of that name: not in hidden ones or tools' own."""
    return not folder.startswith(".") and not is_leftover(f"{folder}/")


# -- archives ---------------------------------------------------------------------------------


class _Member(NamedTuple):
    """What an archive says of a member; ``at``: where a file's bytes begin among all files'."""

    name: str  # without a leading ./
    size: int
    kind: str
    at: int
    executable: bool = False
    target: str = ""  # of a link


@dataclass(slots=True)
class _Found:
    """A playbook of an archive, as its members' names show it."""

    root: str  # its folder in the archive, "" for the archive itself
    members: dict[str, _Member] = field(default_factory=dict)  # by path in the folder
    links: dict[str, _Member] = field(default_factory=dict)
    left_out: dict[str, _Member] = field(default_factory=dict)  # files that a link may lead to
    ignored: set[str] = field(default_factory=set)
    error: EscherError | None = None

    def take(self, member: _Member, climbs: UnsafePath | None) -> None:
        """Count a member in; a hostile one makes the playbook an error."""
        path = member.name[len(self.root) :].lstrip("/")
        head, slash, _ = path.partition("/")
        is_link, is_folder = member.kind in LINKS, member.kind == "folder"
        beside = head not in KNOWN_FILES and head not in FORMATS
        left_out = not beside and is_leftover(f"{path}/" if is_link else path)
        wrong: EscherError | None = None
        if climbs is not None and (_leaves(member.name) or not (beside or left_out)):
            wrong = climbs
        elif beside or left_out:
            if member.kind == "file":
                self.left_out[path] = member
            if not is_folder:
                self.ignored.add(left_out_name(path) if left_out else head)
            return
        elif (slash or is_folder) if head in KNOWN_FILES else (not slash and member.kind == "file"):
            wrong = _wrong_kind(head, self.root or "the archive")
        elif member.kind == "other" or (is_link and not slash):
            text = f"{member.name!r} is a link, device or hole file."
            wrong = UnsafePath(text, _BAD_MEMBER)
        elif not is_folder and (path in self.members or path in self.links):
            text = f"{self.root or '.'} holds {path!r} twice in the archive."
            wrong = UnsafePath(text, _BAD_MEMBER)
        if wrong is not None:
            self.error = self.error or wrong
        elif is_link:
            self.links[path] = member
        elif member.kind == "file":
            self.members[path] = member

    def follow(self, path: str) -> _Member:
        """The file in the same format folder that the link at ``path`` leads to; else `UnsafePath`."""
        at, link = path, self.links[path]
        for _ in range(MAX_LINKS):
            member = self.links[at]
            at = self._aim(at, member)
            if at.partition("/")[0] != path.partition("/")[0]:
                break
            if (found := self.members.get(at) or self.left_out.get(at)) is not None:
                return found
            if at not in self.links:
                break
        raise UnsafePath(
            f"{link.name!r} is a link to {link.target!r}, which is no file in the same format folder"
            " of the archive.",
            "Replace the link by a file; only one to a file in the same format folder is taken.",
        )

    def _aim(self, path: str, link: _Member) -> str:
        """Where a link leads, as a path in the playbook's folder; "" for what is outside."""
        if link.target.startswith("/"):
            return ""
        if link.kind == HARD_LINK:
            name = link.target.removeprefix("./")
            inside = name.removeprefix(f"{self.root}/") if self.root else name
            return inside if inside != name or not self.root else ""
        aim = posixpath.normpath(posixpath.join(posixpath.dirname(path), link.target))
        return "" if aim.startswith("..") else aim


def _leaves(name: str) -> bool:
    """Whether a member's name climbs out of the archive's own folder."""
    return name.startswith("/") or ".." in name.replace("\\", "/").split("/")


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
            for called, size, kind_, runs, target in value["members"]:
                name = str(called).removeprefix("./")
                members.append(_Member(name, int(size), str(kind_), at, bool(runs), str(target)))
                at += int(size) if kind_ == "file" else 0
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
        is_near = folder.count("/") <= MAX_DEPTH and all(map(_is_looked_into, folder.split("/")))
        if member.kind == "file" and file == METADATA_FILE and is_near:
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
            members = playbook.members | {path: playbook.follow(path) for path in playbook.links}
            limits.check([(path, member.size) for path, member in members.items()], name)
            files = {path: _content(contents, member) for path, member in members.items()}
            metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE)
    except InvalidPlaybook as error:
        return error
    marked = frozenset(path for path in files if members[path].executable)
    return PlaybookDraft(
        metadata, files, tuple(sorted(playbook.ignored)), executable=marked,
        linked=tuple(sorted(playbook.links)),
    )  # fmt: skip


def _content(contents: IO[bytes], member: _Member) -> bytes:
    contents.seek(member.at)
    content = contents.read(max(member.size, 0))
    if len(content) != member.size:
        raise Damaged(f"{member.name} is not whole in the archive.", _BAD_MEMBER)
    return content
