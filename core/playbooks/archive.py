"""Playbooks out of a tar archive, read as a stream; nothing is extracted to disk.

Two readings. The first looks at names, types and sizes only, finds the playbooks (the folders that
hold ``metadata.json``) and refuses what is hostile. The second reads contents: a playbook is handed
out when its last file has been read. Playbooks whose files lie scattered over the archive are
shared out over further readings, so that no more than `SCATTERED_BYTES` (or one playbook) wait in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from core.errors import EscherError, InvalidPlaybook, UnsafePath, storage_error
from core.files import check_relative_path
from core.models import (
    FORMATS,
    METADATA_FILE,
    PARAMETERS_FILE,
    PLAN_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.limits import MAX_DEPTH, MIB, Limits
from core.playbooks.tarstream import Damaged, Untrusted, members_of, opened

MAX_MEMBERS = 200_000
SCATTERED_BYTES = 64 * MIB
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
        with opened(path) as (archive, stream):
            for info in members_of(archive):
                if len(listing.members) >= MAX_MEMBERS:
                    raise Untrusted(
                        f"{path.name} has more than {MAX_MEMBERS} members.", "Split the archive."
                    )
                name = info.name.removeprefix("./")
                plain = info.isreg() and not info.issparse()
                listing.members.append((name, info.size, plain))
                if name not in {"", "."}:
                    _check_member(name, listing, ordinary=plain or info.isdir())
            while stream.read(MIB):  # to the end: gzip proves its checksum there
                pass
    except Damaged as error:
        listing.damage = error
    return listing


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
        if name in listing.bad:
            playbook.error = playbook.error or listing.bad[name]
        elif plain:
            _take(playbook, position, name[len(playbook.root) :].lstrip("/"), size)
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
    end = max(wanted, default=-1)
    with opened(path) as (archive, _):
        for position, info in enumerate(members_of(archive)):
            if position in wanted:
                playbook, member = wanted[position]
                reader = archive.extractfile(info)
                content = reader.read() if reader is not None else b""
                if len(content) != member.size or info.size != member.size:
                    raise Damaged(f"{path.name} changed while it was read.", "Try again.")
                contents.setdefault(playbook.name, {})[member.path] = content
                if position == playbook.last:
                    yield playbook.name, _draft(playbook, contents.pop(playbook.name))
            if position >= end:
                break


def _draft(playbook: _Found, files: dict[str, bytes]) -> PlaybookDraft | EscherError:
    try:
        metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE)
    except InvalidPlaybook as error:
        return error
    return PlaybookDraft(metadata, files, tuple(sorted(playbook.ignored)))
