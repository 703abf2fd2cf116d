"""Scripts that one attempt has claimed, their folders in staging, and how they are given back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection

from core.errors import EscherError, LeaseHeld
from core.files import write_tree
from core.journal import Journal
from core.journal.leases import Held
from core.journal.scripts import CacheFolder, FolderState, Item
from core.models import FileEntry, ScriptKey
from core.scripts.cache import ScriptCache
from core.scripts.models import PARTIAL, CacheHit, Listing, Staged
from core.scripts.paths import remove
from core.scripts.transfer import LIBRARY, TENANT, Result

INTERRUPTED = ("TransferInterrupted", "The attempt was interrupted. It is made again.")


class Claim:
    """Takes what is free of ``keys``; leaving the ``with`` gives back what was not settled.

    ``rows`` are the claimed ones as they stood before, ``others`` those that were not to be had.
    ``fresh`` and ``staged`` as in `core.journal.scripts.Downloads.claim`.
    """

    def __init__(
        self,
        journal: Journal,
        staging: Path,
        keys: Sequence[ScriptKey],
        *,
        fresh: bool = True,
        staged: bool = False,
    ) -> None:
        self.lease: Held[Item]
        self.rows: dict[ScriptKey, CacheFolder] = {}
        self.others: dict[ScriptKey, CacheFolder] = {}
        self.folders: dict[ScriptKey, Path] = {}
        self._journal = journal
        self._downloads = journal.downloads
        self._staging = staging
        self._keys = keys
        self._fresh = fresh
        self._staged = staged
        self._open: set[ScriptKey] = set()

    def __enter__(self) -> Self:
        names = {key: f"{self._staging.name}/{uuid.uuid4().hex}" for key in self._keys}
        claimed = self._downloads.claim(names, fresh=self._fresh, staged=self._staged)
        self.lease, self.rows, self.others = claimed.lease, claimed.mine, claimed.others
        for key, row in self.rows.items():
            name = row.name if row.state is FolderState.STAGED else names[key]
            self.folders[key] = self._staging.parent / name
            self._open.add(key)
            if row.name != name:
                remove(self._staging.parent / row.name)  # of an attempt that died
        return self

    def __exit__(self, *_: object) -> None:
        left: dict[ScriptKey, dict[str, Any]] = {}
        try:
            for key in self._open:
                if self.rows[key].state is FolderState.STAGED:
                    left[key] = {}  # it waits to be verified, as before
                else:
                    remove(self.folders[key])
                    left[key] = self._downloads.failed(*INTERRUPTED)
            self._write(left)
        except BaseException:  # the journal is away: what can't be written is free all the same
            self._journal.leases.give_back(self.lease)
            raise

    def staged(self) -> dict[ScriptKey, Staged]:
        """Of the claimed ones, those whose bytes wait to be verified."""
        return {
            key: Staged(
                self.folders[key],
                Listing(key, row.files, row.entry_point),
                row.source or TENANT,
            )
            for key, row in self.rows.items()
            if row.state is FolderState.STAGED
        }

    def settle(self, results: Mapping[ScriptKey, Result]) -> None:
        """Write down what came of scripts, in one transaction; only what is staged keeps bytes."""
        open_ = {key: result for key, result in results.items() if key in self._open}
        for key, result in open_.items():
            if not isinstance(result, Staged):
                remove(self.folders[key])  # before its room is given to another
        written = self._write({key: self._ending(result) for key, result in open_.items()})
        for key, result in open_.items():
            if isinstance(result, Staged) and key not in written:
                remove(self.folders[key])  # another process took over: nobody knows this folder

    def put_back(self, key: ScriptKey) -> None:
        """Leave a failed one as it was found, its time included: nothing has been tried since."""
        row = self.rows[key]
        failed = self._downloads.failed(row.error_type, row.reason)
        self._write({key: {**failed, "since": row.since}})

    def done(self, keys: Iterable[ScriptKey], connection: Connection) -> None:
        """Give the room of ``keys`` back in the transaction that makes them entries."""
        self._downloads.settle(dict.fromkeys(keys), self.lease, connection)

    def close(self, keys: Iterable[ScriptKey]) -> None:
        """That transaction is through: nothing of them is left to settle."""
        self._open.difference_update(keys)

    def _ending(self, result: Result) -> dict[str, Any] | None:
        if isinstance(result, CacheHit):
            return None
        if isinstance(result, Staged):
            listing = result.listing
            return self._downloads.staged(listing.files, listing.entry_point, result.source)
        return self._downloads.failed(result.type, str(result))

    def _write(self, endings: Mapping[ScriptKey, dict[str, Any] | None]) -> set[ScriptKey]:
        if not endings:
            return set()
        written = self._downloads.settle(endings, self.lease)
        self._open.difference_update(endings)
        return written


# Bytes handed in by a caller, taken into the cache under the same rules as a download.
#
# A claim in the journal keeps downloads of the same script off, and room is reserved, before a byte
# is written.


def insert(
    journal: Journal,
    cache: ScriptCache,
    listing: Listing,
    files: Mapping[str, bytes],
    *,
    whole: bool = True,
) -> CacheHit:
    """Make ``{path: bytes}``, which are what ``listing`` says, the cached entry of its key.

    ``whole`` False: more files belong to it, and until they are there nobody runs it.

    Raises `LeaseHeld` while it is being downloaded, `CacheFull`, `Refused` (larger than the cache)
    or `StorageError`.
    """
    key = listing.key
    cache.layout.prepare()
    with Claim(journal, cache.layout.staging, [key]) as claim:
        if key not in claim.rows:
            raise LeaseHeld(f"{key} is just being downloaded.", "Try again in a moment.")
        try:
            hit = _insert(journal, cache, claim, listing, files, whole=whole)
        except EscherError as error:
            claim.settle({key: error})
            raise
    return hit


def _insert(
    journal: Journal,
    cache: ScriptCache,
    claim: Claim,
    listing: Listing,
    files: Mapping[str, bytes],
    *,
    whole: bool,
) -> CacheHit:
    key = listing.key
    size = cache.footprint(listing)
    with journal.database.write() as connection:
        journal.downloads.reserve({key: 0}, claim.lease, connection)
        cache.make_room(size, connection)
        journal.downloads.reserve({key: size}, claim.lease, connection)
    write_tree(claim.folders[key], dict(files))
    source = PARTIAL
    if whole:
        source = LIBRARY if key.is_library else TENANT
    hit = cache.promote(
        claim.folders[key], listing, source, settle=lambda opened: claim.done([key], opened)
    )
    claim.close([key])
    return hit


def with_file(
    cache: ScriptCache, key: ScriptKey, entry: FileEntry, content: bytes
) -> dict[str, bytes]:
    """The files of the cached entry of ``key``, proven, with ``entry`` among them or in its place."""
    hit = cache.find(key)
    held = {} if hit is None else {file.path: hit.folder for file in hit.listing.files}
    return {path: (folder / path).read_bytes() for path, folder in held.items()} | {
        entry.path: content
    }
