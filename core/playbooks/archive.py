"""Playbooks out of a tar archive, read as a stream; nothing is extracted to disk.

A child of the sandbox reads (`tarstream`); here is decided what its members mean. Two readings. The first looks at names, types and sizes only, finds the playbooks (the folders that
hold ``metadata.json``) and refuses what is hostile. The second reads contents: a playbook is handed
out when its last file has been read. Playbooks whose files lie scattered over the archive are
shared out over further readings, so that no more than `SCATTERED_BYTES` (or one playbook) wait in
memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from core import sandbox
from core.content import is_leftover
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
from core.models import (
    FORMATS,
    METADATA_FILE,
    PARAMETERS_FILE,
    PLAN_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.tarstream import Damaged, Untrusted
from core.playbooks.validation import MAX_DEPTH, MIB, Limits

MAX_MEMBERS = 200_000
MAX_ARCHIVE_BYTES = 1024 * MIB  # uncompressed
STALL_SECONDS = 60.0  # the longest that a member, or a page of their names, may take
READING_SECONDS = 300.0  # of waiting for one reading of the whole archive
SCATTERED_BYTES = 64 * MIB
_ERRORS: dict[str, type[EscherError]] = {
    "Damaged": Damaged, "Untrusted": Untrusted, "UsageError": UsageError,
}  # fmt: skip
_BAD_MEMBER = "Make the archive anew from plain files."


@dataclass(slots=True)
class _Member:
    position: int
    path: str  # relative to its playbook
    size: int


@dataclass(slots=True)
class _Found:
    """A playbook of the archive, as its first reading shows it."""

    root: str  # its folder in the archive, "" for the archive itself
    members: dict[str, _Member] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    error: EscherError | None = None

    @property
    def name(self) -> str:
        return self.root or "."

    @property
    def first(self) -> int:
        return min((member.position for member in self.members.values()), default=0)

    @property
    def last(self) -> int:
        return max((member.position for member in self.members.values()), default=0)

    @property
    def size(self) -> int:
        return sum(member.size for member in self.members.values())


@dataclass(slots=True)
class _Listing:
    """Every member's name and kind, in order; names stand without a leading ``./``."""

    members: list[tuple[str, int, bool]] = field(default_factory=list)  # name, size, plain file
    bad: dict[str, UnsafePath] = field(default_factory=dict)
    climbing: set[str] = field(default_factory=set)  # those of `bad` that would leave their folder
    damage: Damaged | None = None


def drafts_in_archive(
    path: Path, limits: Limits
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Each playbook's folder name in the archive with its draft or error.

    Of an archive that breaks off, the playbooks before the break are handed out, then the error;
    of one whose checksum is wrong, or that is beyond all limits, the error alone.
    """
    try:
        listing = _list_members(path)
        if not isinstance(listing.damage, Untrusted):
            found = _sort_out(listing, limits)
            told = {name for name in listing.bad if _root_of(name, {p.root for p in found}) is None}
            for name in sorted(told & listing.climbing):
                yield name, listing.bad[name]
            for playbook in found:
                if playbook.error is not None:
                    yield playbook.name, playbook.error
            for share in _shares([playbook for playbook in found if playbook.error is None]):
                yield from _read_share(path, share)
        if listing.damage is not None:
            yield path.name, listing.damage
    except Damaged as error:  # it changed between the two readings
        yield path.name, error
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error


# -- first reading --------------------------------------------------------------------------


def _list_members(path: Path) -> _Listing:
    listing = _Listing()
    try:
        for value, _ in _read(path, "list_members", {"max_members": MAX_MEMBERS}):
            for name, size, kind in value["members"]:
                plain_name = str(name).removeprefix("./")
                plain = kind == "file"
                listing.members.append((plain_name, int(size), plain))
                if plain_name not in {"", "."}:
                    _check_member(plain_name, listing, ordinary=plain or kind == "folder")
    except Damaged as error:
        listing.damage = error
    return listing


def _read(path: Path, function: str, more: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    """What a child reads of the archive; what it says went wrong is raised."""
    kind: Any = None
    argument = {"path": str(path.absolute()), "max_bytes": MAX_ARCHIVE_BYTES, **more}
    try:
        for value, content in sandbox.stream(
            f"core.playbooks.tarstream:{function}",
            argument,
            seconds=STALL_SECONDS,
            total_seconds=READING_SECONDS,
        ):
            if "error" in value:  # raised below: a child that came to its end is used again
                kind, detail, remedy = value["error"]
            else:
                yield value, content
    except Unreadable as error:
        raise Untrusted(f"{path.name}: {error.detail}", error.remedy) from error
    except (KeyError, TypeError, ValueError) as error:
        raise Untrusted(f"{path.name} broke its reader.", _BAD_MEMBER) from error
    if kind == "OSError":
        raise OSError(int(detail), os.strerror(int(detail)), remedy)
    if kind is not None:
        raise _ERRORS.get(kind, Untrusted)(str(detail), str(remedy))


def _check_member(name: str, listing: _Listing, *, ordinary: bool) -> None:
    try:
        check_relative_path(name)
    except UnsafePath as error:
        listing.bad[name] = error
        listing.climbing.add(name)
        return
    if not ordinary:
        listing.bad[name] = UnsafePath(f"{name!r} is a link, device or hole file.", _BAD_MEMBER)


def _sort_out(listing: _Listing, limits: Limits) -> list[_Found]:
    """Share the members out over their playbooks; a hostile one makes its playbook an error."""
    roots = _roots(listing)
    found = {root: _Found(root) for root in sorted(roots)}
    last_touched: _Found | None = None
    for position, (name, size, plain) in enumerate(listing.members):
        root = _root_of(name, roots)
        last_touched = playbook = None if root is None else found[root]
        if playbook is None:
            continue
        path = name[len(playbook.root) :].lstrip("/")
        is_left_out = "/" in path and is_leftover(path) and name not in listing.climbing
        if name in listing.bad and not is_left_out:
            playbook.error = playbook.error or listing.bad[name]
        elif plain:
            _take(playbook, position, path, size)
    for playbook in found.values():
        try:
            limits.check([(m.path, m.size) for m in playbook.members.values()], playbook.name)
        except InvalidPlaybook as error:
            playbook.error = playbook.error or error
    if listing.damage is not None and last_touched is not None:
        last_touched.error = listing.damage  # its files may have been cut off
    return list(found.values())


def _take(playbook: _Found, position: int, path: str, size: int) -> None:
    head, slash, _ = path.partition("/")
    if path not in {METADATA_FILE, PARAMETERS_FILE, PLAN_FILE} and not (slash and head in FORMATS):
        playbook.ignored.add(head)
    elif slash and is_leftover(path):
        playbook.ignored.add(path)
    elif path in playbook.members:
        playbook.error = UnsafePath(
            f"{playbook.name} holds {path!r} twice in the archive.", _BAD_MEMBER
        )
    else:
        playbook.members[path] = _Member(position, path, size)


def _roots(listing: _Listing) -> set[str]:
    """Folders with a ``metadata.json``; inside of a playbook there is no other."""
    candidates = set()
    for name, _, plain in listing.members:
        folder, _, file = ("/" + name).rpartition("/")
        if plain and file == METADATA_FILE and folder.count("/") <= MAX_DEPTH:
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
    for parent in PurePosixPath(name).parents:
        if str(parent) in roots:
            return str(parent)
    return None


# -- second reading -------------------------------------------------------------------------


def _shares(playbooks: list[_Found]) -> Iterator[list[_Found]]:
    """Playbooks that one reading can hand out within the memory set aside for it."""
    in_order = sorted(playbooks, key=lambda playbook: playbook.first)
    together: list[_Found] = []
    scattered: list[_Found] = []
    for index, playbook in enumerate(in_order):
        following = in_order[index + 1].first if index + 1 < len(in_order) else playbook.last + 1
        (together if playbook.last < following else scattered).append(playbook)
    share, size = together, 0
    for playbook in scattered:
        if share and size + playbook.size > SCATTERED_BYTES:
            yield share
            share, size = [], 0
        share.append(playbook)
        size += playbook.size
    if share:
        yield share


def _read_share(
    path: Path, share: list[_Found]
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    wanted = {
        member.position: (playbook, member)
        for playbook in share
        for member in playbook.members.values()
    }
    contents: dict[str, dict[str, bytes]] = {}
    asked = [[position, wanted[position][1].size] for position in sorted(wanted)]
    content = bytearray()
    for position, piece in _pieces(path, asked):
        playbook, member = wanted[position]
        content += piece
        if len(content) < member.size:
            continue
        contents.setdefault(playbook.name, {})[member.path] = bytes(content)
        content.clear()
        if position == playbook.last:
            yield playbook.name, _draft(playbook, contents.pop(playbook.name))


def _pieces(path: Path, wanted: list[list[int]]) -> Iterator[tuple[int, memoryview]]:
    for value, content in _read(path, "read_members", {"wanted": wanted}):
        view = memoryview(content)
        for position, size in value["parts"]:
            yield position, view[:size]
            view = view[size:]


def _draft(playbook: _Found, files: dict[str, bytes]) -> PlaybookDraft | EscherError:
    try:
        with faults_of(playbook.name):
            metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE)
    except InvalidPlaybook as error:
        return error
    return PlaybookDraft(metadata, files, tuple(sorted(playbook.ignored)))
