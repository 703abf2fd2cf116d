"""Look at a version's folder: its stats with one fingerprint of them, and how it stands to its rows.

::

    stat_folder  no content is read; a scan looks up the paths of a `FolderStat` again and compares
                 one digest of their stats (`core.playbooks.parallel_stat`)
    Comparer     where that digest moved, every byte against the rows: a `Comparison`

Folders count, too: a name that came or went changes its folder's ctime, so looking up the known
names again is enough to know that nothing changed. The parent (``<id>/``) is looked at with each of
its versions, which finds new versions beside known ones.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from core.content import KNOWN_FILES, is_leftover, is_leftover_link, is_program, left_out_name
from core.encryption import Envelope, is_sealed
from core.errors import EscherError, InvalidPlaybook, UnsafePath, faults_of, storage_error
from core.files import inner_file, is_executable, read_bytes, sha256_bytes
from core.journal import VersionRecord
from core.models import (
    FORMATS,
    METADATA_FILE,
    PARAMETERS_FILE,
    SERVER_OWNED_FIELDS,
    Area,
    FileEntry,
    parse_json_object,
)
from core.playbooks.parallel_stat import digest
from core.playbooks.paths import Layout
from core.playbooks.sealing import has_clear_defaults, published_form, to_clear
from core.playbooks.validation import Limits

PARENT = "/.."
# The coarsest clock of a file system in use (FAT); a change within it may show no new time.
CLOCK_NS = 2_000_000_000


@dataclass(frozen=True)
class FolderStat:
    """The stats of a folder's tracked paths, in one order; ``""`` is the folder itself."""

    stats: dict[str, os.stat_result]
    taken_at_ns: int  # before the first of them, by the clock

    @property
    def paths(self) -> str:
        """The tracked paths as `core.playbooks.parallel_stat` takes them."""
        return "\n".join(self.stats)

    @cached_property
    def fingerprint(self) -> bytes:
        return digest(self.stats.values())

    @cached_property
    def own_fingerprint(self) -> bytes:
        """As `fingerprint`, without the parent: versions beside this one may come and go."""
        return digest(found for path, found in self.stats.items() if path != PARENT)

    @cached_property
    def newest_ns(self) -> int:
        """The last change of the folder or anything in it: ctime, which nobody can set back."""
        return max(found.st_ctime_ns for path, found in self.stats.items() if path != PARENT)

    @cached_property
    def files(self) -> dict[str, os.stat_result]:
        """``{relative path: stat}`` of whatever is no folder, ``metadata.json`` too."""
        return {
            path[1:]: found
            for path, found in self.stats.items()
            if path not in {"", PARENT} and not stat.S_ISDIR(found.st_mode)
        }

    def content(self, known: Collection[str] = ()) -> set[str]:
        """The paths of the content; leftovers are none unless they are ``known``."""
        return {
            path
            for path, found in self.files.items()
            if path != METADATA_FILE and (path in known or not _is_left_out(path, found))
        }

    def left_out(self, known: Collection[str] = ()) -> list[str]:
        """What editors, tools and runs left, as a report names it."""
        left = {p for p, found in self.files.items() if p not in known and _is_left_out(p, found)}
        return sorted(set(map(left_out_name, left)))

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing of a playbook but ``metadata.json``, not even empty folders."""
        return set(self.stats) <= {"", PARENT, f"/{METADATA_FILE}"}

    def irregular(self, known: Collection[str] = ()) -> list[str]:
        """Paths of the content that are neither file nor folder: links, pipes, devices."""
        files = self.files
        return [
            path for path in sorted(self.content(known)) if not stat.S_ISREG(files[path].st_mode)
        ]

    @property
    def links(self) -> list[str]:
        """Paths of links."""
        return [path for path, found in self.files.items() if stat.S_ISLNK(found.st_mode)]

    @property
    def is_conclusive(self) -> bool:
        """Whether a later change must show in the stats.

        A change within one tick of a coarse clock shows no new time; git calls such an entry
        racily clean. And the paths must be such that `parallel_stat` can be told them.
        """
        last = max(found.st_ctime_ns for found in self.stats.values())
        return last + CLOCK_NS < self.taken_at_ns and all(map(_can_be_told, self.stats))


def _is_left_out(path: str, found: os.stat_result) -> bool:
    return is_leftover_link(path) if stat.S_ISLNK(found.st_mode) else is_leftover(path)


def _can_be_told(path: str) -> bool:
    """Whether a path has no line break and is UTF-8; joiners are fine, and not printable."""
    if path.isprintable():
        return True
    try:
        return "\n" not in path and bool(path.encode())
    except UnicodeEncodeError:
        return False


def stat_folder(folder: Path, now_ns: int, *, with_parent: bool) -> FolderStat | None:
    """The stats of a version's folder; None when there is no folder (a link is none).

    Raises `StorageError` for one that can't be read.
    """
    base = str(folder)
    try:
        stats = {"": os.lstat(base)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error
    if not stat.S_ISDIR(stats[""].st_mode):
        return None
    try:
        if with_parent:
            stats[PARENT] = os.lstat(base + PARENT)
        for name, found in _listed(base):
            is_format = name in FORMATS
            if is_format or name in KNOWN_FILES:
                stats["/" + name] = found
            if is_format and stat.S_ISDIR(found.st_mode):
                stats.update(_below(base, "/" + name))
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error
    return FolderStat(stats, now_ns)


def _below(base: str, path: str) -> Iterator[tuple[str, os.stat_result]]:
    stack = [path]
    while stack:
        parent = stack.pop()
        for name, found in _listed(base + parent):
            yield f"{parent}/{name}", found
            if stat.S_ISDIR(found.st_mode):
                stack.append(f"{parent}/{name}")


def _listed(folder: str) -> list[tuple[str, os.stat_result]]:
    """Names with their stats, by name; what goes away meanwhile is not there."""
    listed = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                listed.append((entry.name, entry.stat(follow_symlinks=False)))
    return sorted(listed)


class State(StrEnum):
    """How a folder stands to its rows."""

    SAME = "same"
    OWNED = "owned"  # published, and there is no edit in what was changed by hand
    BESIDE = "beside"  # published and unchanged, and other files stand beside the content
    CLEAR = "clear"  # the same content, but something that has to be sealed lies there in clear
    EDITED = "edited"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found; ``error`` says why the folder can't be read as a playbook (state EDITED)."""

    record: VersionRecord
    state: State
    seen: FolderStat | None = None
    beside: tuple[str, ...] = ()
    error: EscherError | None = None
    left_out: tuple[str, ...] = ()


class Comparer:
    """Compares folders with rows, byte by byte; the scan's fingerprints say which need it."""

    def __init__(self, layout: Layout, limits: Limits, envelope: Envelope) -> None:
        self._layout = layout
        self._limits = limits
        self._envelope = envelope

    def __call__(self, record: VersionRecord, rows: tuple[FileEntry, ...]) -> Comparison:
        """How the folder of ``record`` stands to it and its ``rows``; raises nothing."""
        folder = self._layout.folder(record.area, record.ref)
        try:
            seen = self.look(folder, record.area)
        except EscherError as error:
            return Comparison(record, State.EDITED, error=error)
        if seen is None:
            return Comparison(record, State.MISSING)
        try:
            with faults_of(str(folder)):
                known = {row.path for row in rows}
                metadata = self._metadata(folder, seen, rows)
                state = self._content(folder, record, rows, seen)
        except EscherError as error:
            return Comparison(record, State.EDITED, seen, error=error)
        if state is not State.EDITED:
            state = max(state, _metadata_state(metadata, record), key=list(State).index)
        beside = sorted(seen.content(known) - known) if state is State.BESIDE else ()
        left_out = tuple(seen.left_out(known))
        return Comparison(record, state, seen, tuple(beside), left_out=left_out)

    def look(self, folder: Path, area: Area) -> FolderStat | None:
        """The stats of a version's folder; None when it is not there."""
        # ai-generated/ itself is the parent there, and its listing is looked at anyway
        with_parent = area is not Area.AI_GENERATED
        return stat_folder(folder, time.time_ns(), with_parent=with_parent)

    def _metadata(
        self, folder: Path, seen: FolderStat, rows: tuple[FileEntry, ...]
    ) -> dict[str, Any]:
        if METADATA_FILE not in seen.files:
            raise InvalidPlaybook(f"{folder} holds no {METADATA_FILE}.", "Put it back.")
        files, known = seen.files, {row.path: row.size_bytes for row in rows}
        # what is listed already is no matter of today's limits
        sizes = {path: files[path].st_size for path in seen.content(known)}
        if sizes != known:
            self._limits.check(sizes.items())
        for path in seen.irregular(known):
            if stat.S_ISLNK(files[path].st_mode) and "/" in path:
                inner_file(folder / path.partition("/")[0], path.partition("/")[2])
            else:
                raise UnsafePath(f"{path!r} in {folder} is not a regular file.", "Replace it.")
        return read_metadata(folder)

    def _content(
        self,
        folder: Path,
        record: VersionRecord,
        rows: tuple[FileEntry, ...],
        seen: FolderStat,
    ) -> State:
        known = {row.path for row in rows}
        found = seen.content(known)
        if record.is_published and not found:
            # metadata alone: the content is not fetched; empty folders: it was removed here
            return State.SAME if seen.is_bare or not known else State.OWNED
        if found != known and not (record.is_published and found > known):
            return State.EDITED
        if any(path in known for path in seen.links):
            return State.EDITED  # a link in a file's place, whatever it leads to
        state = State.SAME if found == known else State.BESIDE
        for row in rows:
            content = read_bytes(folder / row.path)
            clear = self._in_clear(row.path, content, record)
            if published_digest(row.path, clear) != row.checksum:
                return State.EDITED
            if self._has_other_mode(row, clear, seen.files[row.path], record):
                return State.EDITED
            if _lies_clear(row.path, content, record):
                state = State.CLEAR
        return state

    @staticmethod
    def _has_other_mode(
        row: FileEntry, clear: bytes, found: os.stat_result, record: VersionRecord
    ) -> bool:
        """Whether somebody changed a mode that is content.

        Of what is published a mode alone is no edit: a share or a backup may have changed all of
        them, and `resolve` sets them. Of a version from before its modes say nothing.
        """
        if record.is_published or not record.modes_known:
            return False
        is_on_disk = is_executable(found)
        return is_on_disk != row.executable and is_program(clear)

    def _in_clear(self, path: str, content: bytes, record: VersionRecord) -> bytes:
        if not record.sensitive:
            return content
        return to_clear(
            {path: content},
            record.ref,
            record.generation,
            self._envelope,
            sensitive=True,
            edited=True,
        )[path]


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a version's ``metadata.json`` says on disk; raises what is wrong with it."""
    return parse_json_object(read_bytes(folder / METADATA_FILE), METADATA_FILE, stored=True)


def published_digest(path: str, clear: bytes) -> str:
    """The digest of a file in the form that is published, which the rows of files hold."""
    return sha256_bytes(published_form({path: clear})[path])


def without_owned(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without what the server owns once the version is published."""
    return {key: value for key, value in metadata.items() if key not in SERVER_OWNED_FIELDS}


def _metadata_state(disk: dict[str, Any], record: VersionRecord) -> State:
    if disk == record.metadata:
        return State.SAME
    if not record.is_published or without_owned(disk) != without_owned(record.metadata):
        return State.EDITED
    # between publishing and settling the row has the server's fields before the disk does
    return State.OWNED if record.area is Area.SYNCED else State.SAME


def _lies_clear(path: str, content: bytes, record: VersionRecord) -> bool:
    if record.sensitive:
        return not is_sealed(content)
    return path == PARAMETERS_FILE and has_clear_defaults(content)
