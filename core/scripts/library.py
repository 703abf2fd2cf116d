"""Keeps the metadata of the Escher Library's versions that were used here, so that it is found offline.

The server tells it with each answer about a version's scripts::

    cache/library/<id>-v<version>/metadata.json     as it was told last; replaced as a whole
    library_versions                                one row for each that can be shown and found

The file decides: one that is gone takes its row along, one without a row gets it, one with other
bytes than were kept is no longer trusted and goes. A version goes when none of its scripts is
cached any more and it was not used for `KEPT_TTLS` of the cache's TTLs.
"""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    NotFound,
    Refused,
    TransientError,
)
from core.files import atomic_write, make_private_dir, read_bytes, sha256_bytes
from core.journal import Journal
from core.journal.points import LibraryRow
from core.limits import METADATA_BYTES
from core.models import (
    METADATA_FILE,
    RESERVED_PREFIX,
    FileEntry,
    Ref,
    ScriptKey,
    canonical_json,
    parse_json_object,
    parse_metadata,
    parse_version,
)
from core.scripts.entries import folder_name, is_folder, listed, ref_of, remove
from core.scripts.integrity import check_pinned
from core.scripts.layout import CLOCK_TOLERANCE_SECONDS, DAY_SECONDS, CacheLayout
from core.server.answers import Script
from core.server.client import EscherServer
from core.settings import Settings

MAX_METADATA_BYTES = METADATA_BYTES
KEPT_TTLS = 4
FETCHED_AT_ONCE = 16  # versions a sync

log = logging.getLogger(__name__)


class LibraryCache:
    """Keeps metadata of library versions, a file and a row for each; safe in threads and processes.

    ``server`` is asked by `fetch_missing` alone.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        server: Callable[[], EscherServer],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._rows = journal.library
        self._server = server
        self._layout = CacheLayout(settings, journal)
        self._ttl_seconds = settings.cache_ttl_days * DAY_SECONDS
        self._lease_seconds = settings.cache_lease_seconds
        self._clock = clock

    # -- looking ----------------------------------------------------------------------------
    def shown(self, ref: Ref) -> dict[str, Any] | None:
        """The metadata of a version as search and point show it; None when there is none to show."""
        content = self._read(ref)
        row = self._rows.get([ref]).get(ref)
        if content is None or (row is not None and sha256_bytes(content) != row.digest):
            return None
        return _presentable(_parsed(content, ref))

    def read(
        self, ref: Ref, max_bytes: int
    ) -> tuple[dict[str, Any], list[tuple[FileEntry, bytes | None]]]:
        """`shown`, and the files of the cached scripts, proven; what has other bytes is left out.

        The bytes of a file larger than ``max_bytes`` are None. Where the metadata is gone, the
        version is forgotten, and `NotFound` raised.
        """
        metadata = self.shown(ref)
        if metadata is None:
            self.forget([ref])
            raise NotFound(
                f"The metadata of {ref} is gone.",
                "The next download of it brings its metadata again.",
            )
        found: list[tuple[FileEntry, bytes | None]] = []
        for entry in self._journal.cache_folders.of_library():
            if entry.key.ref != ref:
                continue
            root = self._layout.place(ScriptKey(ref, entry.key.format)).root
            for file in entry.files:
                is_large = file.size_bytes > max_bytes
                content = None if is_large else _regular(root / file.path, max_bytes)
                if is_large or (content is not None and sha256_bytes(content) == file.checksum):
                    found.append((file, content))
        return metadata, found

    def has(self, ref: Ref) -> bool:
        """Whether there is a ``metadata.json``, whatever is in it."""
        return ref.playbook_id.startswith(RESERVED_PREFIX) and self._modified(ref) is not None

    def kept(self) -> list[Ref]:
        """The versions of which metadata is kept, by id."""
        names = (path.name for path in listed(self._layout.library) if is_folder(path))
        found = (ref_of(name) for name in names if name.startswith(RESERVED_PREFIX))
        return sorted(ref for ref in found if ref is not None)

    def missing(self) -> list[Ref]:
        """Versions with a script in the cache and no metadata here, by id."""
        cached = dict.fromkeys(entry.key.ref for entry in self._journal.cache_folders.of_library())
        return [ref for ref in cached if not self.has(ref)]

    def problems(self) -> list[tuple[Ref, str, str]]:
        """``(version, path, what is wrong)``; nothing is changed."""
        return [(ref, str(self._path(ref)), wrong) for ref, wrong in self._suspects().items()]

    # -- changing ---------------------------------------------------------------------------
    def put(self, ref: Ref, content: bytes) -> None:
        """Keep the ``metadata.json`` of a version, as used now.

        Raises `IntegrityError` when it is none of that version, `Refused` when it is too large.
        What breaks the contract's rules is kept, and not shown.
        """
        if len(content) > MAX_METADATA_BYTES:
            raise Refused(f"{METADATA_FILE} of {ref} has {len(content)} bytes.")
        is_shown = _presentable(check_metadata(content, ref)) is not None
        if not is_shown:
            log.warning("the library's %s of %s breaks rules: not searchable", METADATA_FILE, ref)
        with self._changing() as connection:
            atomic_write(make_private_dir(self._path(ref).parent) / METADATA_FILE, content)
            if is_shown:
                self._rows.put(ref, sha256_bytes(content), self._clock(), connection)
            else:
                self._rows.delete([ref], connection)

    def forget(self, refs: Sequence[Ref]) -> None:
        """Remove what is kept of versions."""
        with self._changing() as connection:
            self._forget(refs, connection)

    def reconcile(self) -> None:
        """Bring rows and files together, after a crash, a lost journal or somebody's hand."""
        suspects = self._suspects()
        if not suspects:
            return
        with self._changing() as connection:  # another process may have just put one
            rows = self._rows.get(list(suspects), connection)
            for ref in suspects:
                row, content = rows.get(ref), self._read(ref)
                if self._wrong(ref, row) is None:
                    continue
                if row is None and content is not None and _presentable(_parsed(content, ref)):
                    used_at = min(self._modified(ref) or 0.0, self._clock())
                    self._rows.put(ref, sha256_bytes(content), used_at, connection)
                    continue
                if content is not None:
                    log.warning("%s of %s was changed and is let go", METADATA_FILE, ref)
                self._forget([ref], connection)

    def note_use(self) -> None:
        """Write down when the cached scripts were used; to be called before they are evicted."""
        rows = self._rows.get()
        used = {ref: row.used_at for ref, row in rows.items()}
        for entry in self._journal.cache_folders.of_library():
            ref = entry.key.ref
            with suppress(OSError):  # gone by now
                at = min(self._layout.place(entry.key).folder.lstat().st_mtime, self._clock())
                if ref in used:
                    used[ref] = max(used[ref], at)
        self._rows.note_use({ref: at for ref, at in used.items() if at > rows[ref].used_at})

    def expire(self, *, clear: bool = False) -> list[Ref]:
        """Let go of versions that nobody uses any more (``clear``: nobody just now); which."""
        if not self.kept():
            return []
        limit = self._lease_seconds if clear else KEPT_TTLS * self._ttl_seconds
        now = self._clock()
        with self._changing() as connection:
            cached = {entry.key.ref for entry in self._journal.cache_folders.of_library(connection)}
            rows = self._rows.get(connection=connection)
            gone = []
            for ref in self.kept():
                at = rows[ref].used_at if ref in rows else self._modified(ref) or 0.0
                # a use to come is of a clock that was wrong: no reason to keep it for ever
                if ref not in cached and (now - at >= limit or at - now > CLOCK_TOLERANCE_SECONDS):
                    gone.append(ref)
            self._forget(gone, connection)
        return gone

    # -- from the server --------------------------------------------------------------------
    def take(self, ref: Ref, script: Script) -> None:
        """Keep the metadata that the server tells with the scripts of a version, as used now.

        A script is of use without it: what can't be kept is logged.
        """
        try:
            self._take(ref, script)
        except EscherError as error:
            log.warning("the metadata of %s could not be kept: %s", ref, error)

    def fetch_missing(self) -> list[Ref]:
        """Ask for what is missing of versions whose scripts are cached; returns those that came."""
        came = []
        for ref in self.missing()[:FETCHED_AT_ONCE]:
            try:
                script = self._server().script(ref)
                # no file of it is taken, and the library lists metadata.json among them
                told = script.model_copy(update={"files": []})
                check_pinned(self._journal, ref, told, is_known=False)
                self._take(ref, script)
                came.append(ref)
            except TransientError as error:
                log.warning("the metadata of %s is fetched later: %s", ref, error)
                break
            except EscherError as error:
                log.info("the metadata of %s can't be had: %s", ref, error)
        return came

    def _take(self, ref: Ref, script: Script) -> None:
        if script.metadata is None:
            raise NotFound(f"The server does not tell the metadata of {ref}.")
        self.put(ref, canonical_json(script.metadata))

    # -- inside -----------------------------------------------------------------------------
    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Rows and files change together; in the order of `core.scripts.layout`."""
        with self._journal.database.write() as connection, self._layout.lock.exclusive():
            yield connection

    def _forget(self, refs: Sequence[Ref], connection: Connection) -> None:
        self._rows.delete(refs, connection)
        for ref in refs:
            remove(self._path(ref).parent)

    def _suspects(self) -> dict[Ref, str]:
        """The versions whose file and row say different things, by id, and what is wrong."""
        rows = self._rows.get()
        found = {ref: self._wrong(ref, rows.get(ref)) for ref in sorted({*self.kept(), *rows})}
        return {ref: wrong for ref, wrong in found.items() if wrong is not None}

    def _wrong(self, ref: Ref, row: LibraryRow | None) -> str | None:
        content = self._read(ref)
        if content is None:
            return "is missing"
        if row is None:  # what can't be shown has none
            metadata = _parsed(content, ref)
            is_right = metadata is not None and _presentable(metadata) is None
        else:
            is_right = sha256_bytes(content) == row.digest
        return None if is_right else "is not what the journal knows"

    def _path(self, ref: Ref) -> Path:
        return self._layout.library / folder_name(ref) / METADATA_FILE

    def _read(self, ref: Ref) -> bytes | None:
        return _regular(self._path(ref), MAX_METADATA_BYTES)

    def _modified(self, ref: Ref) -> float | None:
        with suppress(OSError):
            found = self._path(ref).lstat()
            return found.st_mtime if stat.S_ISREG(found.st_mode) else None
        return None


def check_metadata(content: bytes, ref: Ref) -> dict[str, Any]:
    """The metadata as an object that is about ``ref``; an `IntegrityError` names what is wrong."""
    try:
        metadata = parse_json_object(content, f"{METADATA_FILE} of {ref}")
        parse_version(str(metadata.get("version")))
    except InvalidPlaybook as error:
        raise IntegrityError(error.detail, "Ask the library's operator.") from None
    if (metadata.get("playbook_id"), metadata.get("version")) != tuple(ref):
        raise IntegrityError(
            f"{METADATA_FILE} of {ref} is about another version.", "Ask the library's operator."
        )
    return metadata


def _parsed(content: bytes, ref: Ref) -> dict[str, Any] | None:
    """`check_metadata`, None where that raises."""
    with suppress(IntegrityError):
        return check_metadata(content, ref)
    return None


def _presentable(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metadata as the library's, with a status; None where it breaks the contract's rules."""
    if metadata is None:
        return None
    shown = {
        "cloud_provider": [],
        "created_at": 0,
        "updated_at": 0,
        "status": "approved",  # the library shows what was reviewed
        **metadata,
        "author": "escher_library",
        "storage_strategy": "using_default",
    }
    try:
        parse_metadata(shown)
    except InvalidPlaybook:
        return None
    return shown


def _regular(path: Path, max_bytes: int) -> bytes | None:
    """The bytes of a regular file of at most ``max_bytes``; None of anything else."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > max_bytes:
            return None
        return read_bytes(path)
    except (OSError, EscherError):
        return None
