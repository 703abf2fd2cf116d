"""What is kept of the Escher Library's versions that were used here, on disk and in the journal.

::

    cache/library/<id>-v<version>/metadata.json     as the library has it; replaced as a whole
    library_versions                                one row for each that can be shown and found

The file decides: one that is gone takes its row along, one without a row gets it, one with other
bytes than were kept is no longer trusted and goes. A version goes when none of its scripts is
cached any more and it was not used for `KEPT_TTLS` of the cache's TTLs.
"""

from __future__ import annotations

import logging
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    NotEscherServer,
    NotFound,
    Refused,
    TransientError,
    storage_error,
)
from core.files import atomic_write, make_private_dir, read_bytes, sha256_bytes
from core.journal import Journal
from core.journal.library import CachedFormat, LibraryRow
from core.models import METADATA_FILE, FileEntry, Ref, parse_json_object, parse_metadata
from core.scripts.cache_owner import CacheOwner
from core.scripts.eviction import CLOCK_TOLERANCE_SECONDS, DAY_SECONDS, CacheLock
from core.scripts.integrity import check_pinned
from core.scripts.models import LIBRARY_PREFIX, ScriptKey
from core.scripts.paths import CacheLayout, folder_name, is_folder, listed, ref_of, remove
from core.server.answers import Script, ScriptFile
from core.server.client import EscherServer
from core.server.problems import CHECK_URL
from core.settings import Settings
from core.versions import parse_version

MAX_METADATA_BYTES = 1 << 20
KEPT_TTLS = 4
USE_SECONDS = 60.0  # uses nearer to each other are one

log = logging.getLogger(__name__)


class LibraryShelf:
    """``cache/library`` and its rows; safe in threads and processes. Works offline."""

    def __init__(
        self, settings: Settings, journal: Journal, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._cache_rows = journal.script_cache
        self._rows = journal.library
        self._layout = CacheLayout(settings)
        self._layout.check = CacheOwner(settings, journal, self._layout).check
        self._lock = CacheLock(self._layout.lock, self._layout.check)
        self._ttl_seconds = settings.cache_ttl_days * DAY_SECONDS
        self._lease_seconds = settings.cache_lease_seconds
        self._clock = clock

    # -- looking ----------------------------------------------------------------------------
    def get(self, ref: Ref) -> dict[str, Any] | None:
        """The metadata that is kept of a version; None when there is none, or it is damaged."""
        content = self._read(ref)
        row = self._rows.get_many([ref]).get(ref)
        if content is None or (row is not None and sha256_bytes(content) != row.digest):
            return None
        try:
            return check_metadata(content, ref)
        except IntegrityError:
            return None

    def shown(self, ref: Ref) -> dict[str, Any] | None:
        """`get` as search and point show it: valid, and marked as the library's."""
        metadata = self.get(ref)
        return None if metadata is None else _presentable(metadata)

    def has(self, ref: Ref) -> bool:
        """Whether there is a ``metadata.json``, whatever is in it."""
        return _is_library(ref) and self._modified(ref) is not None

    def is_fresh(self, ref: Ref) -> bool:
        """Whether the metadata came within the TTL."""
        modified = self._modified(ref)
        if modified is None:
            return False
        return -CLOCK_TOLERANCE_SECONDS <= self._clock() - modified < self._ttl_seconds

    def kept(self) -> list[Ref]:
        """The versions of which metadata is kept, by id."""
        found = [ref_of(path.name) for path in listed(self._layout.library) if is_folder(path)]
        return sorted(ref for ref in found if ref is not None and _is_library(ref))

    def missing(self) -> list[Ref]:
        """Versions with a script in the cache and no metadata here, by id."""
        cached = dict.fromkeys(entry.ref for entry in self._rows.cached())
        return [ref for ref in cached if not self.has(ref)]

    def scripts(
        self, formats: Iterable[CachedFormat], max_bytes: int
    ) -> list[tuple[FileEntry, bytes | None]]:
        """The files of cached formats, proven; None for one that is larger than ``max_bytes``.

        What was evicted meanwhile, or has other bytes, is left out.
        """
        found: list[tuple[FileEntry, bytes | None]] = []
        for entry in formats:
            root = self._layout.place(ScriptKey(entry.ref, entry.format)).root
            for file in entry.files:
                if file.size_bytes > max_bytes:
                    found.append((file, None))
                    continue
                content = _regular(root / file.path, max_bytes)
                if content is not None and sha256_bytes(content) == file.checksum:
                    found.append((file, content))
        return found

    def problems(self) -> list[tuple[Ref, str, str]]:
        """``(version, path, what is wrong)``; nothing is changed."""
        rows = {row.ref: row for row in self._rows.all()}
        return [
            (
                ref,
                str(self._path(ref)),
                "is missing" if self._read(ref) is None else "is not what the journal knows",
            )
            for ref in sorted({*self.kept(), *rows})
            if not self._agree(ref, rows.get(ref))
        ]

    # -- changing ---------------------------------------------------------------------------
    def put(self, ref: Ref, content: bytes) -> dict[str, Any]:
        """Keep the library's ``metadata.json`` of a version, as used now.

        `IntegrityError` when it is none. What breaks the contract's rules is kept, and not found.
        """
        metadata = check_metadata(content, ref)
        is_shown = _presentable(metadata) is not None
        if not is_shown:
            log.warning("the library's %s of %s breaks rules: not searchable", METADATA_FILE, ref)
        with self._changing() as connection:
            atomic_write(make_private_dir(self._path(ref).parent) / METADATA_FILE, content)
            if is_shown:
                self._rows.put(ref, sha256_bytes(content), self._clock(), connection)
            else:
                self._rows.forget([ref], connection)
        return metadata

    def used(self, ref: Ref) -> None:
        """Note a use of a version whose metadata is kept."""
        now = self._clock()
        row = self._rows.get_many([ref]).get(ref)
        if row is not None and abs(now - row.used_at) > USE_SECONDS:
            self._rows.used({ref: now})

    def forget(self, refs: Iterable[Ref]) -> None:
        """Remove what is kept of versions."""
        with self._changing() as connection:
            self._forget(refs, connection)

    def reconcile(self) -> None:
        """Bring rows and files together, after a crash, a lost journal or somebody's hand."""
        rows = {row.ref: row for row in self._rows.all()}
        suspects = [ref for ref in {*self.kept(), *rows} if not self._agree(ref, rows.get(ref))]
        if not suspects:
            return
        with self._changing() as connection:  # another process may have just put one
            rows = self._rows.get_many(suspects, connection)
            for ref in suspects:
                row = rows.get(ref)
                if self._agree(ref, row):
                    continue
                content = self._read(ref)
                if row is None and content is not None and _is_sound(content, ref):
                    used_at = min(self._modified(ref) or 0.0, self._clock())
                    self._rows.put(ref, sha256_bytes(content), used_at, connection)
                    continue
                if content is not None:
                    log.warning("%s of %s was changed and is let go", METADATA_FILE, ref)
                self._forget([ref], connection)

    def note_use(self) -> None:
        """Write down when the cached scripts were used; to be called before they are evicted."""
        known = {row.ref: row.used_at for row in self._rows.all()}
        seen: dict[Ref, float] = {}
        for entry in self._rows.cached():
            with suppress(OSError):  # gone by now
                folder = self._layout.place(ScriptKey(entry.ref, entry.format)).folder
                used = min(folder.lstat().st_mtime, self._clock())
                if used > max(known.get(entry.ref, used), seen.get(entry.ref, 0.0)):
                    seen[entry.ref] = used
        self._rows.used(seen)

    def expire(self, *, clear: bool = False) -> list[Ref]:
        """Let go of versions that nobody uses any more (``clear``: nobody just now); which."""
        if not self.kept():
            return []
        limit = self._lease_seconds if clear else KEPT_TTLS * self._ttl_seconds
        now = self._clock()
        with self._changing() as connection:
            cached = {entry.ref for entry in self._rows.cached(connection)}
            used = {row.ref: row.used_at for row in self._rows.all(connection)}
            gone = []
            for ref in self.kept():
                at = used.get(ref, self._modified(ref) or 0.0)
                # a use to come is of a clock that was wrong: no reason to keep it for ever
                if ref not in cached and (now - at >= limit or at - now > CLOCK_TOLERANCE_SECONDS):
                    gone.append(ref)
            self._forget(gone, connection)
        return gone

    # -- inside -----------------------------------------------------------------------------
    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Rows and files change together; the order of `CacheLock`."""
        with self._cache_rows.changing() as connection, self._lock.exclusive():
            yield connection

    def _forget(self, refs: Iterable[Ref], connection: Connection) -> None:
        gone = list(refs)
        self._rows.forget(gone, connection)
        for ref in gone:
            remove(self._path(ref).parent)

    def _agree(self, ref: Ref, row: LibraryRow | None) -> bool:
        content = self._read(ref)
        if content is None:
            return False
        if row is not None:
            return sha256_bytes(content) == row.digest
        return not _is_sound(content, ref) and _is_about(content, ref)

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


def _presentable(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """The metadata as the library's, with a status; None where it breaks the contract's rules."""
    shown = {
        "cloud_provider": [],
        "created_at": 0,
        "updated_at": 0,
        **metadata,
        "author": "escher_library",
        "storage_strategy": "using_default",
    }
    shown.setdefault("status", "approved")  # the library shows what was reviewed
    try:
        parse_metadata(shown)
    except InvalidPlaybook:
        return None
    return shown


def _is_about(content: bytes, ref: Ref) -> bool:
    try:
        check_metadata(content, ref)
    except IntegrityError:
        return False
    return True


def _is_sound(content: bytes, ref: Ref) -> bool:
    """Whether it can be shown."""
    return _is_about(content, ref) and _presentable(check_metadata(content, ref)) is not None


def _is_library(ref: Ref) -> bool:
    return ref.playbook_id.startswith(LIBRARY_PREFIX)


def _regular(path: Path, max_bytes: int) -> bytes | None:
    """The bytes of a regular file of at most ``max_bytes``; None of anything else."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > max_bytes:
            return None
        return read_bytes(path)
    except (OSError, EscherError):
        return None


# The metadata of the Escher Library's playbooks that were used here, brought from the server.
#
# Kept when a script of the version is downloaded, so that it can be found offline.


LIBRARY_PATH = "s3://escher-library/playbooks"
MENDED_AT_ONCE = 16  # versions a sync


class Library:
    """Fetches what the shelf (`core.scripts.library`) keeps; safe in threads and processes."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        server: EscherServer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shelf = LibraryShelf(settings, journal, clock=clock)
        self._server = server
        self._journal = journal

    def keep(self, ref: Ref) -> dict[str, Any]:
        """The metadata of a version that is used now, fetched unless it is here and fresh.

        Errors as of a download; none where an older one is here.
        """
        kept = self.shelf.get(ref)
        if kept is not None and self.shelf.is_fresh(ref):
            self.shelf.used(ref)
            return kept
        try:
            return self._fetched(ref)
        except EscherError as error:
            if kept is None:
                raise
            log.warning("the metadata of %s stays as it is: %s", ref, error)
            self.shelf.used(ref)
            return kept

    def try_keep(self, ref: Ref) -> None:
        """`keep` where it goes: a script is of use without its metadata, and this says so."""
        try:
            self.keep(ref)
        except EscherError as error:
            log.warning("the metadata of %s could not be kept: %s", ref, error)

    def mend(self) -> list[Ref]:
        """Fetch what is missing of versions whose scripts are cached, as far as the server answers.

        Returns those that came.
        """
        came = []
        for ref in self.shelf.missing()[:MENDED_AT_ONCE]:
            try:
                self.keep(ref)
                came.append(ref)
            except TransientError as error:
                log.warning("the metadata of %s is fetched later: %s", ref, error)
                break
            except EscherError as error:
                log.info("the metadata of %s can't be had: %s", ref, error)
        return came

    def _fetched(self, ref: Ref) -> dict[str, Any]:
        script, file = self._offer(ref)
        if file.size_bytes > MAX_METADATA_BYTES:
            raise Refused(f"{METADATA_FILE} of {ref} has {file.size_bytes} bytes.")
        content = self._fetch(ref, file)
        if script.manifest is not None:  # else nothing tells what it belongs to
            told = script.model_copy(
                update={"metadata": check_metadata(content, ref), "files": [], "format": None}
            )
            check_pinned(self._journal, ref, told, is_known=True)
        return self.shelf.put(ref, content)

    def _offer(self, ref: Ref) -> tuple[Script, ScriptFile]:
        path = f"{LIBRARY_PATH}/{ref.playbook_id}/v{ref.version}/{METADATA_FILE}"
        script = self._server.script(s3_path=path)
        if Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        for file in script.files:
            if file.path == METADATA_FILE:
                return script, file
        raise NotFound(f"The Escher Library has no {METADATA_FILE} of {ref}.")

    def _fetch(self, ref: Ref, file: ScriptFile) -> bytes:
        try:
            with tempfile.TemporaryDirectory(prefix="escher-library-") as folder:
                target = Path(folder) / METADATA_FILE
                self._server.download(file, target, renew=lambda: self._offer(ref)[1])
                return read_bytes(target)
        except OSError as error:
            raise storage_error(error, f"Fetching the metadata of {ref}") from error
