"""Playbooks of an archive, read once into drafts; nothing of it is extracted.

No name in an archive becomes a name on disk: the child of the sandbox sends members and bytes, the
bytes go into a temporary file without a name, and the names are shared out over playbooks here. What
is small waits in memory; the file is gone however this process ends.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, NamedTuple

from core import sandbox
from core.content import KNOWN_FILES, is_leftover, is_leftover_link, left_out_name
from core.errors import (
    EscherError,
    InvalidPlaybook,
    Unreadable,
    UnsafePath,
    UsageError,
    faults_of,
    storage_error,
)
from core.files import check_relative_path
from core.limits import METADATA_BYTES, MIB
from core.models import FORMATS, METADATA_FILE, PlaybookDraft, parse_json_object
from core.playbooks.archives.kinds import Damaged, EndMissing, Untrusted
from core.playbooks.archives.members import (
    DAMAGED,
    ENCRYPTED,
    FILE,
    FOLDER,
    HARD_LINK,
    LINKS,
    UNSUPPORTED,
    WITH_BYTES,
)
from core.playbooks.discovery import MAX_DEPTH, is_looked_into, is_of_collection, wrong_kind
from core.playbooks.validation import Limits

MAX_MEMBERS = 200_000
MAX_ARCHIVE_BYTES = 1024 * MIB  # uncompressed
STALL_SECONDS = 60.0  # the longest that a part of an archive may take
READING_SECONDS = 300.0  # of waiting for the whole archive
IN_MEMORY_BYTES = 32 * MIB  # of an archive's files; what has more waits on disk
MAX_LINKS = 40  # followed one after the other, as Linux does
_DAMAGE: Final = {kind.__name__: kind for kind in (Damaged, EndMissing, Untrusted)}
_BAD_MEMBER = "Make the archive anew from plain files."
_WHY = {
    ENCRYPTED: ("is encrypted", "Unpack it with its password and give the folder."),
    UNSUPPORTED: ("is packed by a method that is not read here", "Make the archive anew."),
    DAMAGED: ("is damaged: its checksum is wrong, or it breaks off", "Fetch the archive again."),
}
_ARCHIVE_NAMES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


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
        is_link, is_folder = member.kind in LINKS, member.kind == FOLDER
        beside = head not in KNOWN_FILES and head not in FORMATS
        left_out = not beside and (is_leftover_link if is_link else is_leftover)(path)
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
            wrong = wrong_kind(head, self.root or "the archive")
        elif member.kind in _WHY:
            why, remedy = _WHY[member.kind]
            wrong = InvalidPlaybook(f"{member.name!r} {why}.", remedy)
        elif (member.kind not in {FILE, FOLDER} and not is_link) or (is_link and not slash):
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
    path: Path, limits: Limits, temporary: Path | None, skipped: list[str]
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Yield each playbook's folder name in the archive with its draft or error.

    Of an archive that breaks off, the playbooks before the break are handed out, then the error;
    of one whose checksum is wrong, or that is beyond all limits, the error alone. Raises `UsageError`
    that says what ``path`` is, when it is no archive or holds no playbook.
    """
    try:
        folder = None if temporary is None else str(temporary)
        with SpooledTemporaryFile(IN_MEMORY_BYTES, dir=folder) as contents:
            members, damage = _read_members(path, contents)
            found: list[_Found] = []
            if not isinstance(damage, Untrusted):
                found, climbing = _share_out(members, contents, damage, skipped)
                yield from sorted(climbing.items())
                for playbook in found:
                    yield playbook.root or ".", _draft(playbook, contents, limits)
            if damage is not None:
                yield path.name, damage
            elif not found:
                _refuse_without_playbook(path, members)
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error


def is_archive_name(name: str) -> bool:
    """Whether a file is called like an archive."""
    return name.lower().endswith(_ARCHIVE_NAMES)


def _refuse_without_playbook(path: Path, members: list[_Member]) -> None:
    """Say what an archive holds that holds no playbook."""
    for member in members:
        if member.kind in _WHY and member.name.rpartition("/")[2] == METADATA_FILE:
            why, remedy = _WHY[member.kind]
            raise UsageError(f"{path}: {member.name!r} {why}.", remedy)
    names = [member.name for member in members if member.kind != FOLDER]
    if inner := list(filter(is_archive_name, names)):
        raise UsageError(
            f"{path} holds no playbook, but archives ({', '.join(sorted(inner)[:3])}).",
            "Unpack it and import each of them.",
        )
    office = "[Content_Types].xml" in names
    what = "an Office document" if office else "an archive" if names else "an empty archive"
    raise UsageError(
        f"{path} is {what} without a playbook: no {METADATA_FILE} up to {MAX_DEPTH} folders deep.",
        "Pack the folder above the playbooks' folders.",
    )


def _read_members(path: Path, contents: IO[bytes]) -> tuple[list[_Member], Damaged | None]:
    """All members, with their bytes written to ``contents``, and what ended the reading early."""
    members: list[_Member] = []
    argument = {
        "path": str(path.absolute()), "max_bytes": MAX_ARCHIVE_BYTES, "max_members": MAX_MEMBERS,
    }  # fmt: skip
    at, kind, detail, remedy = 0, "", "", ""
    try:
        for value, content in sandbox.stream(
            "core.playbooks.archives.members:members",
            argument,
            seconds=STALL_SECONDS,
            total_seconds=READING_SECONDS,
        ):
            if "error" in value:  # told below: a child that came to its end is used again
                kind, detail, remedy = map(str, value["error"])
                continue
            for said in value["members"]:
                member = _member(said, at)
                members.append(member)
                at += member.size if member.kind in WITH_BYTES else 0
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
        return members, _DAMAGE.get(kind, Untrusted)(detail, remedy)
    return members, None


def _member(said: Any, at: int) -> _Member:
    """A member as the child tells of it, which is as little believed as the archive is."""
    name, size, kind, executable, target = said
    return _Member(
        str(name).removeprefix("./"), int(size), str(kind), at, bool(executable), str(target)
    )


def _share_out(
    members: list[_Member], contents: IO[bytes], damage: Damaged | None, skipped: list[str]
) -> tuple[list[_Found], dict[str, UnsafePath]]:
    """The archive's playbooks in its order, and names outside of them that would climb out."""
    roots = _roots(members, contents, skipped)
    found: dict[str, _Found] = {}
    climbing: dict[str, UnsafePath] = {}
    last: _Found | None = None
    scattered = False
    for member in members:
        root = _root_of(member.name, roots)
        climbs = _climbs_in(root or "", member.name)
        before = last
        last = None if root is None else found.setdefault(root, _Found(root))
        if last is not None:
            scattered |= last is not before and bool(last.members or last.links)
            last.take(member, climbs)
        elif climbs is not None:
            climbing[member.name] = climbs
    if damage is not None and not isinstance(damage, EndMissing):
        for playbook in found.values():
            # what lies beyond the break is not known: of a playbook whose files lie together, nothing
            lacks = scattered or playbook is last or not any("/" in p for p in playbook.members)
            playbook.error = playbook.error or (damage if lacks else None)
    return list(found.values()), climbing


def _climbs_in(root: str, name: str) -> UnsafePath | None:
    """As `_climbs`, of the playbook's folder and of what is below: each may have its full length."""
    inside = name.removeprefix(f"{root}/") if root else name
    return _climbs(root) or _climbs(inside)


def _climbs(name: str) -> UnsafePath | None:
    if name in {"", "."}:  # the archive's own folder
        return None
    try:
        check_relative_path(name)
    except UnsafePath as error:
        return error
    return None


def _roots(members: list[_Member], contents: IO[bytes], skipped: list[str]) -> set[str]:
    """Folders with a ``metadata.json`` of a playbook's; inside of a playbook there is no other."""
    candidates: dict[str, _Member] = {}
    for member in members:
        folder, _, file = ("/" + member.name).rpartition("/")
        if member.kind != FILE or file != METADATA_FILE:
            continue
        parts = folder.split("/")
        if len(parts) <= MAX_DEPTH + 1 and all(map(is_looked_into, parts)):
            candidates[folder[1:]] = member
    above = {
        "" if str(p) == "." else str(p) for name in candidates for p in PurePosixPath(name).parents
    }
    roots: set[str] = set()
    for root in sorted(candidates, key=lambda name: (name.count("/"), name)):
        if _root_of(root, roots) is not None:
            continue
        if root in above and _is_of_collection(root, candidates, members, contents):
            skipped.append(candidates[root].name)
        else:
            roots.add(root)
    return roots


def _is_of_collection(
    root: str, candidates: dict[str, _Member], members: list[_Member], contents: IO[bytes]
) -> bool:
    """Whether the ``metadata.json`` in ``root`` is that of the playbooks below, and of none itself."""
    prefix = f"{root}/" if root else ""
    below = (other[len(prefix) :] for other in candidates if other.startswith(prefix))
    inner = {path.partition("/")[0] for path in below if path}
    said = candidates[root]
    contents.seek(said.at)
    inside = (member.name[len(prefix) :] for member in members if member.name.startswith(prefix))
    folders = {path.partition("/")[0] for path in inside if "/" in path}
    return is_of_collection(contents.read(min(said.size, METADATA_BYTES)), folders, inner)


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
