"""Read-only copies of verified scripts by their content, under ``cache/copies/``.

::

    cache/copies/<hex of the listing's digest>/<format>/…     files 0400 or 0500, folders 0500;
                                                              the digest is of the modes, too
    a row of ``cache_folders`` each, in the state copy        written before the folder is made

For a caller who wants bytes that stay as they are while playbooks change under them, and where
tools have left things in the format's folder. The folder's mtime is its last use, as in the cache;
it counts towards the cache's size and goes when the cache needs room, but not within its lease.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from core.content import is_state
from core.errors import IntegrityError, Refused, StateBesideContent, storage_error
from core.files import fsync_dir, is_executable, make_private_dir, read_bytes, sha256_bytes
from core.journal import Journal
from core.journal.scripts import CacheFolder, FolderState
from core.scripts.entries import listed
from core.scripts.integrity import Proofs, prove
from core.scripts.layout import CacheLayout
from core.scripts.models import Listing, ResolvedScript, ResolveOptions
from core.settings import Settings

DAY_SECONDS = 86_400
MEBIBYTE = 1 << 20
_FOLDER, _FILE, _PROGRAM = 0o500, 0o400, 0o500
_BUILT_SECONDS = 3600.0  # what is being built for longer was left by a process that died


class Copies:
    """Makes copies and removes them; safe between threads and processes."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        layout: CacheLayout,
        proofs: Proofs,
        *,
        make_room: Callable[[int, Connection], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``make_room(size_bytes, connection)`` evicts from the cache; `CacheFull` where it can't."""
        self._journal = journal
        self._rows = journal.cache_folders
        self._root = layout.copies
        self._proofs = proofs
        self._make_room = make_room
        self._clock = clock
        self._lease_seconds = settings.cache_lease_seconds
        self._ttl_seconds = settings.cache_ttl_days * DAY_SECONDS
        self._max_bytes = int(settings.cache_max_size_mb * MEBIBYTE)

    def of(self, listing: Listing, source: Path) -> Path:
        """Copy ``listing`` from ``source`` unless there is such a copy; its folder.

        Raises `IntegrityError` when ``source`` has other bytes, `CacheFull` or `Refused` for want of room.
        """
        name = _name_of(listing)
        folder = self._root / name
        if self._is_there(folder, listing):
            return folder
        size = listing.size_bytes
        if size > self._max_bytes:
            raise Refused(
                f"A copy of {listing.key} takes {size} bytes, more than the whole cache.",
                "Raise cache_max_size_mb.",
            )
        make_private_dir(self._root)
        built = self._root / f".{uuid.uuid4().hex}"
        with self._journal.database.write() as connection:
            self._make_room(size, connection)
            made = CacheFolder(
                self._name(name), FolderState.COPY, size_bytes=size, since=time.time()
            )
            self._rows.put([made], connection)
        try:
            self._build(built, listing, source)
        except BaseException:
            self._remove(built)
            if not folder.exists():
                with self._journal.database.write() as connection:
                    self._rows.delete([self._name(name)], connection)
            raise
        try:
            self._remove(folder)  # one whose bytes are wrong
            built.rename(folder)
            fsync_dir(self._root)
        except OSError as error:
            if not self._is_there(folder, listing):  # another process was first
                raise storage_error(error, f"Copying {listing.key}") from error
        finally:
            self._remove(built)
        return folder

    def answer(
        self, script: ResolvedScript, beside: Sequence[str], options: ResolveOptions
    ) -> ResolvedScript:
        """Give ``script`` by a copy of exactly its content, without what lies ``beside`` it.

        `StateBesideContent` where that is the state of a run, and raises as `of`.
        """
        state = next((path for path in beside if is_state(path)), None)
        if state is not None and not options.ignore_state:
            raise StateBesideContent(
                f"{script.folder / state} lies beside the scripts of {script.ref}: what a run knows"
                " of the cloud, and no part of the playbook.",
                f"Run in a working folder of your own (`escher-playbooks export {script.ref} DIR`,"
                " and move the state there), or keep the state in Terraform's backend (a `backend`"
                " block, or `-backend-config`). --ignore-state resolves without it.",
            )
        return replace(script, folder=self.of(script.listing, script.folder), is_copy=True)

    def evict(self, needed: int | None, connection: Connection) -> int:
        """Remove copies that nobody uses, the least recently used first; the bytes freed.

        ``needed`` bytes at least, where there are as many; None: those that are too old.
        """
        now = self._clock()
        freed = 0
        rows = {row.name: row for row in self._rows.of(FolderState.COPY, connection=connection)}
        gone: list[str] = []
        for used, path in sorted((self._used(path), path) for path in listed(self._root)):
            idle = now - used
            if path.name.startswith("."):
                if idle > _BUILT_SECONDS:
                    self._remove(path)
                continue
            if idle < self._lease_seconds or (needed is None and idle < self._ttl_seconds):
                continue
            if needed is not None and freed >= needed:
                break
            self._remove(path)
            name = self._name(path.name)
            gone.append(name)
            freed += rows[name].size_bytes if name in rows else 0
        there = {self._name(path.name) for path in listed(self._root)}
        built = now - _BUILT_SECONDS  # one that is made later may be on its way
        gone += [name for name, row in rows.items() if name not in there and row.since < built]
        self._rows.delete(gone, connection)
        return freed

    # -- inside -----------------------------------------------------------------------------
    def _name(self, folder: str) -> str:
        return f"{self._root.name}/{folder}"

    def _is_there(self, folder: Path, listing: Listing) -> bool:
        used = int(self._clock() * 1e9)
        try:
            os.utime(folder, ns=(used, used), follow_symlinks=False)
        except OSError:
            return False
        return prove(folder, listing.key.format, listing.files, self._proofs) is None

    def _build(self, built: Path, listing: Listing, source: Path) -> None:
        built.mkdir(mode=0o700)
        folders = {built}
        for file in listing.files:
            content = read_bytes(source / file.path)
            if sha256_bytes(content) != file.checksum:
                raise IntegrityError(f"{listing.key} {file.path} changed while it was copied.")
            target = built / file.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.update(parent for parent in target.parents if built in parent.parents)
            known = is_executable((source / file.path).stat())  # of a version from before
            mode = _PROGRAM if file.executable or known else _FILE
            fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(fd, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)  # a proof of a large file outlives a power cut, so must its bytes
        for folder in sorted(folders, reverse=True):
            fsync_dir(folder)
        for folder in folders - {built}:  # the outermost is renamed, and renamed away again
            folder.chmod(_FOLDER)
        used = int(self._clock() * 1e9)
        os.utime(built, ns=(used, used))

    def _remove(self, folder: Path) -> None:
        """Folders can't be emptied while they may not be written to."""
        if not os.path.lexists(folder):
            return
        with suppress(OSError):
            for parent, _, _ in os.walk(folder):
                Path(parent).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)

    def _used(self, folder: Path) -> float:
        try:
            return min(folder.lstat().st_mtime, self._clock())
        except OSError:
            return 0.0


def _name_of(listing: Listing) -> str:
    """The folder of a copy: the listing's digest, and another one with other executable files."""
    marked = sorted(file.path for file in listing.files if file.executable)
    digest = (
        sha256_bytes("\0".join([listing.digest, *marked]).encode()) if marked else listing.digest
    )
    return digest.removeprefix("sha256:")
