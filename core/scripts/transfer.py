"""Bring the bytes of scripts into staging: from the server, or handed in by a caller.

::

    claim ──► list ──► make room ──► fetch ──► verify, promote (`core.scripts.downloads`)
              threads  one           threads,
                       transaction   a file each

A claim keeps every other attempt off, and room is reserved before a byte is written. Each script
ends in its own result: `Staged`, a `CacheHit` (it was there, or is confirmed by the server), or its
error. When nothing at all answers any more, the rest is given up unasked.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from core.errors import (
    EscherError,
    IntegrityError,
    LeaseHeld,
    ServerUnreachable,
    TransferInterrupted,
    storage_error,
)
from core.files import PRIVATE_DIR, file_mode, write_tree
from core.journal import Journal
from core.journal.leases import Held
from core.journal.script_lookup import ToldStatus
from core.journal.scripts import LIBRARY, TENANT, CacheFolder, FolderState, Item
from core.models import FileEntry, Ref, ScriptKey, executables
from core.scripts.cache import ScriptCache
from core.scripts.entries import footprint, remove
from core.scripts.integrity import Offer, check_offer, check_pinned, difference, mismatch
from core.scripts.library import LibraryCache
from core.scripts.models import PARTIAL, CacheHit, Listing, Staged, in_words
from core.scripts.run_policy import told_by
from core.server.answers import Script, ScriptFile
from core.server.client import EscherServer
from core.settings import Settings

INTERRUPTED = "The attempt was interrupted. It is made again."

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Expected = Mapping[ScriptKey, tuple[FileEntry, ...] | None]

Result = Staged | CacheHit | EscherError


def in_threads(
    work: Callable[[K], T], items: Sequence[K], threads: int
) -> dict[K, T | BaseException]:
    """Do ``work`` on each item, ``threads`` at a time; what it gives or raises, by item."""

    def guarded(item: K) -> T | BaseException:
        try:
            return work(item)
        except Exception as error:  # noqa: BLE001 — any mistake is its item's, never its batch's
            return error

    if len(items) < 2 or threads < 2:  # noqa: PLR2004 — nothing to do at once
        return {item: guarded(item) for item in items}
    with ThreadPoolExecutor(min(threads, len(items)), "scripts") as pool:
        try:
            return dict(zip(items, pool.map(guarded, items), strict=True))
        except BaseException:  # this thread is interrupted: no more is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def source_of(key: ScriptKey) -> str:
    """Tell where a whole entry of ``key`` comes from: the Escher Library, or the tenant."""
    return LIBRARY if key.is_library else TENANT


class Claim:
    """Claims the scripts that are free of ``keys``; leaving the ``with`` gives back what was not settled.

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
                    left[key] = self._downloads.failed(TransferInterrupted.__name__, INTERRUPTED)
            self._write(left)
        except BaseException:  # the journal is away: what can't be written is free all the same
            self._journal.leases.give_back(self.lease)
            raise

    def staged(self) -> dict[ScriptKey, Staged]:
        """List the claimed ones whose bytes wait to be verified."""
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

    def reserve(self, cache: ScriptCache, listings: Sequence[Listing]) -> set[ScriptKey]:
        """Make room for scripts and reserve it, in one transaction; those that are still held.

        Raises `CacheFull` or `Refused`, and nothing is reserved.
        """
        sizes = {listing.key: footprint(listing) for listing in listings}
        with self._journal.database.write() as connection:
            # what an attempt that died had reserved: its folder is gone by now
            self._downloads.reserve(dict.fromkeys(sizes, 0), self.lease, connection)
            cache.make_room(sum(sizes.values()), connection)
            return self._downloads.reserve(sizes, self.lease, connection)

    def put_back(self, key: ScriptKey) -> None:
        """Leave a failed one as it was found, its time included: nothing has been tried since."""
        row = self.rows[key]
        failed = self._downloads.failed(row.error_type, row.reason)
        self._write({key: {**failed, "since": row.since}})

    def promote(self, cache: ScriptCache, items: Sequence[Staged]) -> list[CacheHit]:
        """Make entries of staged folders and give their room back, in one transaction."""
        done: dict[ScriptKey, None] = dict.fromkeys(item.listing.key for item in items)
        hits = cache.promote_many(
            items, settle=lambda opened: self._downloads.settle(done, self.lease, opened)
        )
        self._open.difference_update(done)
        return hits

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


@dataclass(frozen=True, slots=True)
class TransferContext:
    """Holds what an attempt works with; one a process."""

    settings: Settings
    journal: Journal
    server: EscherServer
    cache: ScriptCache
    library: LibraryCache


class StagingRun:
    """Brings claimed scripts into staging in one attempt, each into its own folder of the claim."""

    def __init__(self, context: TransferContext, claim: Claim, expected: Expected) -> None:
        self._context = context
        self._claim = claim
        self._expected = expected
        self._threads = context.settings.transfer_concurrency
        self._silent = 0
        self._unreachable: EscherError | None = None
        self._failed: dict[ScriptKey, EscherError] = {}
        self._offers: dict[ScriptKey, Offer] = {}
        self._made: set[str] = set()
        self._told: dict[Ref, ToldStatus] = {}
        self._of_library: dict[Ref, Script] = {}

    def run(self) -> dict[ScriptKey, Result]:
        """List, make room and fetch; no error is raised for a script's sake."""
        results: dict[ScriptKey, Result] = {}
        listed = in_threads(self._ask, list(self._claim.folders), self._threads)
        for key, answer in listed.items():
            if isinstance(answer, Offer):
                self._offers[key] = answer
            elif isinstance(answer, CacheHit):
                results[key] = answer
            else:
                self._failed[key] = in_words(key, answer)
        self._context.journal.script_rows.note_told(
            {ref: told for ref, told in self._told.items() if told.status is not None}
        )
        for ref, script in self._of_library.items():
            self._context.library.take(ref, script)
        self._make_room()
        if self._offers:
            self._context.cache.layout.prepare()
        self._fetch()
        for key, offer in self._offers.items():
            results[key] = Staged(self._claim.folders[key], offer.listing, source_of(key))
        return results | self._failed

    # -- listing ----------------------------------------------------------------------------
    def _ask(self, key: ScriptKey) -> Offer | CacheHit:
        """What the server offers, or what is in the cache already."""
        # under the claim now: another attempt may have ended just before it
        hit = self._context.cache.find(key)
        expected = self._expected.get(key)
        if hit is not None and expected is not None and difference(expected, hit.listing.files):
            hit = None
        if hit is not None and hit.fresh:
            return hit
        try:
            offer = self._watched(lambda: self._offer(key))
        except IntegrityError:
            offer = self._offer(key)  # once more: the network may have lied
        if expected is not None and difference(expected, offer.listing.files):
            offer = self._offer(key)  # once more: the network may have lied
            path = difference(expected, offer.listing.files)
            if path is not None:
                raise mismatch(key, path)
        if hit is not None and _is_same(hit.listing, offer.listing):
            self._context.cache.refresh(key)
            confirmed = self._context.cache.find(key)
            if confirmed is not None:
                return confirmed
        return offer

    def _offer(self, key: ScriptKey) -> Offer:
        script = self._context.server.script(key.ref, key.format)
        if self._expected.get(key) is None:  # nobody here knows more of it than the server says
            self._told[key.ref] = told_by(script, time.time())
        offer = check_offer(script, key, self._context.settings)
        expected = self._expected.get(key)
        is_known = expected is not None
        if expected is not None:
            offer = offer.marked_as(expected)
        check_pinned(self._context.journal, key.ref, script, is_known=is_known)
        if key.is_library:
            self._of_library[key.ref] = script
        if script.manifest is None and not is_known:
            self._check_cached(key, offer)
        return offer

    def _check_cached(self, key: ScriptKey, offer: Offer) -> None:
        """Of a version that nothing else is known of, what was cached before says what it holds."""
        hit = self._context.cache.find(key)
        path = difference(hit.listing.files, offer.listing.files) if hit is not None else None
        if path is not None:
            raise mismatch(key, path)

    def _watched(self, call: Callable[[], T]) -> T:
        """``call()``, or without it the error that all calls end in by now."""
        if self._unreachable is not None and self._silent >= self._threads:
            raise self._unreachable
        try:
            answer = call()
        except ServerUnreachable as error:
            self._silent += 1
            self._unreachable = error
            raise
        self._silent = 0
        return answer

    # -- room -------------------------------------------------------------------------------
    def _make_room(self) -> None:
        """Reserve what the offers take; those for which there is no room fail."""
        if not self._offers:
            return
        try:
            self._reserve(list(self._offers))
            return
        except EscherError as error:
            if len(self._offers) == 1:
                self._fail(next(iter(self._offers)), error)
                return
        for key in list(self._offers):  # not all of them together: as many as go
            try:
                self._reserve([key])
            except EscherError as error:
                self._fail(key, error)

    def _reserve(self, keys: Sequence[ScriptKey]) -> None:
        listings = [self._offers[key].listing for key in keys]
        held = self._claim.reserve(self._context.cache, listings)
        for key in keys:
            if key not in held:
                words = f"Another process took over the download of {key}."
                self._fail(key, LeaseHeld(words, "It goes on there."))

    # -- bytes ------------------------------------------------------------------------------
    def _fetch(self) -> None:
        tasks = [(key, file) for key, offer in self._offers.items() for file in offer.listing.files]
        for (key, _), answer in in_threads(self._get, tasks, self._threads).items():
            if isinstance(answer, BaseException):
                self._fail(key, in_words(key, answer))

    def _get(self, task: tuple[ScriptKey, FileEntry]) -> None:
        key, file = task
        path = file.path
        if key in self._failed:
            return
        offer = self._offers.get(key)
        if offer is None:
            return
        target = self._make_folders(key, path) / path
        try:
            self._watched(
                lambda: self._context.server.download(
                    offer.files[path],
                    target,
                    renew=lambda: self._renewed(key, path),
                    sync=False,  # `verification` does, while the next ones are downloaded
                )
            )
            if file.executable:
                target.chmod(file_mode(executable=True))
        except OSError as error:
            raise storage_error(error, f"Writing {target}") from error
        except EscherError as error:
            self._failed.setdefault(key, error)  # the other files of it are not asked for
            raise

    def _make_folders(self, key: ScriptKey, path: str) -> Path:
        """The script's folder in staging, with those in it that ``path`` needs."""
        folder = self._claim.folders[key]
        inner = str(folder)
        try:
            for name in ["", *path.split("/")[:-1]]:
                inner = f"{inner}/{name}" if name else inner
                if inner not in self._made:
                    with suppress(FileExistsError):  # made by the thread of another file
                        os.mkdir(inner, PRIVATE_DIR)  # noqa: PTH102 — in a loop over all files
                    self._made.add(inner)
        except OSError as error:
            raise storage_error(error, f"Creating the folder {inner}") from error
        return folder

    def _renewed(self, key: ScriptKey, path: str) -> ScriptFile:
        """The file with a new URL, from a listing that says the same as before."""
        offer = self._offer(key)
        changed = difference(self._offers[key].listing.files, offer.listing.files)
        if changed is not None:
            raise mismatch(key, changed)
        return offer.files[path]

    def _fail(self, key: ScriptKey, error: EscherError) -> None:
        self._failed.setdefault(key, error)
        self._offers.pop(key, None)


def _is_same(one: Listing, other: Listing) -> bool:
    return (
        one.entry_point == other.entry_point
        and not difference(one.files, other.files)
        and executables(one.files) == executables(other.files)
    )


def insert(
    journal: Journal,
    cache: ScriptCache,
    listing: Listing,
    files: Mapping[str, bytes],
    *,
    whole: bool = True,
) -> CacheHit:
    """Store ``{path: bytes}``, which are what ``listing`` says, as a cache entry.

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
            claim.reserve(cache, [listing])
            write_tree(claim.folders[key], files, executables(listing.files))
            item = Staged(claim.folders[key], listing, source_of(key) if whole else PARTIAL)
            [hit] = claim.promote(cache, [item])
        except EscherError as error:
            claim.settle({key: error})
            raise
    return hit


def with_file(
    cache: ScriptCache, key: ScriptKey, entry: FileEntry, content: bytes
) -> dict[str, bytes]:
    """Return the files of a cached entry, proven, with ``entry`` among them or in its place."""
    hit = cache.find(key)
    held = {} if hit is None else {file.path: hit.folder for file in hit.listing.files}
    return {path: (folder / path).read_bytes() for path, folder in held.items()} | {
        entry.path: content
    }
