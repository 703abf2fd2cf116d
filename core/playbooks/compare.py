"""A version's folder against its rows: the same, edited, or gone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.encryption import Envelope, is_sealed
from core.errors import EscherError, InvalidPlaybook, UnsafePath, faults_of
from core.files import read_bytes, sha256_bytes
from core.journal import VersionRecord
from core.journal.versions import DiskFile
from core.models import METADATA_FILE, PARAMETERS_FILE, SERVER_OWNED_FIELDS, Area, parse_json_object
from core.playbooks.paths import Layout
from core.playbooks.sealing import has_clear_defaults, published_form, to_clear
from core.playbooks.stats import FolderStat, stat_folder
from core.playbooks.validation import Limits


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
    refreshed: tuple[DiskFile, ...] = ()
    beside: tuple[str, ...] = ()
    error: EscherError | None = None


class Comparer:
    """Compares folders with rows; reads a file only when its stat does not vouch for it."""

    def __init__(self, layout: Layout, limits: Limits, envelope: Envelope) -> None:
        self._layout = layout
        self._limits = limits
        self._envelope = envelope

    def __call__(
        self, record: VersionRecord, rows: tuple[DiskFile, ...], seen_at_ns: int | None = None
    ) -> Comparison:
        """``seen_at_ns``: when the folder was last found to hold what ``rows`` say, if ever."""
        folder = self._layout.folder(record.area, record.ref)
        try:
            seen = self.look(folder, record.area)
        except EscherError as error:
            return Comparison(record, State.EDITED, error=error)
        if seen is None:
            return Comparison(record, State.MISSING)
        try:
            with faults_of(str(folder)):
                known = {row.entry.path for row in rows}
                metadata = self._metadata(folder, seen, known)
                state, refreshed = self._content(folder, record, rows, seen, seen_at_ns)
        except EscherError as error:
            return Comparison(record, State.EDITED, seen, error=error)
        if state is not State.EDITED:
            state = max(state, _metadata_state(metadata, record), key=list(State).index)
        beside = sorted(seen.content(known) - known) if state is State.BESIDE else ()
        return Comparison(record, state, seen, refreshed, tuple(beside))

    def look(self, folder: Path, area: Area) -> FolderStat | None:
        """The stats of a version's folder; None when it is not there."""
        # ai-generated/ itself is the parent there, and its listing is looked at anyway
        with_parent = area is not Area.AI_GENERATED
        return stat_folder(folder, time.time_ns(), with_parent=with_parent)

    def _metadata(self, folder: Path, seen: FolderStat, known: set[str]) -> dict[str, Any]:
        if METADATA_FILE not in seen.files:
            raise InvalidPlaybook(f"{folder} holds no {METADATA_FILE}.", "Put it back.")
        files = seen.files
        content = {*seen.content(known), METADATA_FILE}
        self._limits.check((path, files[path].st_size) for path in content)
        if irregular := seen.irregular(known):
            raise UnsafePath(
                f"{irregular[0]!r} in {folder} is not a regular file.", "Replace it by a file."
            )
        return parse_json_object(read_bytes(folder / METADATA_FILE), METADATA_FILE, stored=True)

    def _content(
        self,
        folder: Path,
        record: VersionRecord,
        rows: tuple[DiskFile, ...],
        seen: FolderStat,
        seen_at_ns: int | None,
    ) -> tuple[State, tuple[DiskFile, ...]]:
        known = {row.entry.path for row in rows}
        found = seen.content(known)
        if record.is_published and not found:
            # metadata alone: the content is not fetched; empty folders: it was removed here
            return (State.SAME if seen.is_bare or not known else State.OWNED), ()
        if found != known and not (record.is_published and found > known):
            return State.EDITED, ()
        state, refreshed = State.SAME if found == known else State.BESIDE, []
        for row in rows:
            if seen.is_older(row, seen_at_ns):
                continue
            content = read_bytes(folder / row.entry.path)
            if self._digest(row.entry.path, content, record) != row.entry.checksum:
                return State.EDITED, ()
            if _lies_clear(row.entry.path, content, record):
                state = State.CLEAR
            if (current := _under_stat(row, seen)) != row:
                refreshed.append(current)
        return state, tuple(refreshed)

    def _digest(self, path: str, content: bytes, record: VersionRecord) -> str:
        if record.sensitive:
            content = to_clear(
                {path: content},
                record.ref,
                record.generation,
                self._envelope,
                sensitive=True,
                edited=True,
            )[path]
        return sha256_bytes(published_form({path: content})[path])


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


def _under_stat(row: DiskFile, seen: FolderStat) -> DiskFile:
    found = seen.files[row.entry.path]
    return DiskFile(row.entry, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
