"""One attempt at bringing scripts into staging: list, make room, fetch.

::

    list ──► make room ──► fetch            one transaction for the room of a whole batch;
    threads                threads, a file each             nothing is written before it

Each script ends in its own result: `Staged`, a `CacheHit` (it was there, or is confirmed by the
server), or its error. When nothing at all answers any more, the rest is given up unasked.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.errors import EscherError, IntegrityError, LeaseHeld, ServerUnreachable, storage_error
from core.files import PRIVATE_DIR
from core.journal import Journal
from core.journal.downloads import DownloadKey
from core.journal.leases import Held
from core.journal.script_rows import ToldStatus
from core.models import FileEntry, Ref
from core.scripts.cache import ScriptCache
from core.scripts.cached import CacheHit, Staged
from core.scripts.entries import Listing, ScriptKey
from core.scripts.library import Library
from core.scripts.listing import Offer, check_offer, difference, mismatch
from core.scripts.manifest import footprint
from core.scripts.outcomes import in_words
from core.scripts.pinned import check_pinned
from core.scripts.standing import told_by
from core.scripts.threads import in_threads
from core.server.answers import ScriptFile
from core.server.client import EscherServer
from core.settings import Settings

LIBRARY, TENANT = "library", "tenant"

T = TypeVar("T")
Expected = Mapping[ScriptKey, tuple[FileEntry, ...] | None]

Result = Staged | CacheHit | EscherError


class Traffic:
    """Bytes of bodies received, and how many of them had to come twice; for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0
        self.wasted = 0

    def add(self, received: int, wasted: int) -> None:
        with self._lock:
            self.received += received
            self.wasted += wasted


@dataclass(frozen=True, slots=True)
class Means:
    """What an attempt works with; one a process."""

    settings: Settings
    journal: Journal
    server: EscherServer
    cache: ScriptCache
    library: Library
    traffic: Traffic


def row_key(key: ScriptKey) -> DownloadKey:
    """The journal's key of a script."""
    return DownloadKey(*key.ref, key.format)


class StagingRun:
    """One attempt at scripts that are claimed by ``lease``, each into its own folder."""

    def __init__(
        self,
        means: Means,
        lease: Held[DownloadKey],
        folders: Mapping[ScriptKey, Path],
        expected: Expected,
        *,
        reserved: bool = True,
    ) -> None:
        """``reserved``: there may be room that an attempt which died has reserved for them."""
        self._means = means
        self._reserved = reserved
        self._lease = lease
        self._folders = folders
        self._expected = expected
        self._threads = means.settings.transfer_concurrency
        self._silent = 0
        self._unreachable: EscherError | None = None
        self._failed: dict[ScriptKey, EscherError] = {}
        self._offers: dict[ScriptKey, Offer] = {}
        self._made: set[str] = set()
        self._told: dict[Ref, ToldStatus] = {}

    def run(self) -> dict[ScriptKey, Result]:
        """Do it; no error is raised for a script's sake."""
        results: dict[ScriptKey, Result] = {}
        listed = in_threads(self._ask, list(self._folders), self._threads)
        for key, answer in listed.items():
            if isinstance(answer, Offer):
                self._offers[key] = answer
            elif isinstance(answer, CacheHit):
                results[key] = answer
            else:
                self._failed[key] = in_words(key, answer)
        self._means.journal.script_rows.note_told(
            {ref: told for ref, told in self._told.items() if told.status is not None}
        )
        self._make_room()
        if self._offers:
            self._means.cache.layout.prepare()
        self._fetch()
        for key, offer in self._offers.items():
            source = LIBRARY if key.is_library else TENANT
            results[key] = Staged(self._folders[key], offer.listing, source)
        return results | self._failed

    # -- listing ----------------------------------------------------------------------------
    def _ask(self, key: ScriptKey) -> Offer | CacheHit:
        """What the server offers, or what is in the cache already."""
        # under the claim now: another attempt may have ended just before it
        hit = self._means.cache.find(key)
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
            self._means.cache.refresh(key)
            confirmed = self._means.cache.find(key)
            if confirmed is not None:
                return confirmed
        return offer

    def _offer(self, key: ScriptKey) -> Offer:
        script = self._means.server.script(key.ref, key.format)
        if self._expected.get(key) is None:  # nobody here knows more of it than the server says
            self._told[key.ref] = told_by(script, time.time())
        offer = check_offer(script, key, self._means.settings)
        is_known = self._expected.get(key) is not None
        check_pinned(self._means.journal, key.ref, script, is_known=is_known)
        if script.manifest is None and not is_known:
            self._check_cached(key, offer)
        return offer

    def _check_cached(self, key: ScriptKey, offer: Offer) -> None:
        """Of a version that nothing else is known of, what was cached before says what it holds."""
        hit = self._means.cache.find(key)
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
        sizes = {row_key(key): footprint(self._offers[key].listing) for key in keys}
        downloads = self._means.journal.downloads
        with self._means.journal.database.write() as connection:
            if self._reserved:  # the folder of that attempt is gone by now
                downloads.reserve(dict.fromkeys(sizes, 0), self._lease, connection)
            self._means.cache.make_room(sum(sizes.values()), connection)
            held = downloads.reserve(sizes, self._lease, connection)
        for key in keys:
            if row_key(key) not in held:
                words = f"Another process took over the download of {key}."
                self._fail(key, LeaseHeld(words, "It goes on there."))

    # -- bytes ------------------------------------------------------------------------------
    def _fetch(self) -> None:
        tasks: list[tuple[ScriptKey, str | None]] = [
            (key, path) for key, offer in self._offers.items() for path in offer.files
        ]
        # the library's metadata once a version, whichever of its formats come
        wanted = self._folders.keys() - self._failed.keys()
        library = {key.ref: key for key in wanted if key.is_library}
        tasks += [(key, None) for key in library.values()]
        for (key, _), answer in in_threads(self._get, tasks, self._threads).items():
            if isinstance(answer, BaseException):
                self._fail(key, in_words(key, answer))

    def _get(self, task: tuple[ScriptKey, str | None]) -> None:
        key, path = task
        if key in self._failed:
            return
        if path is None:
            self._means.library.try_keep(key.ref)
            return
        offer = self._offers.get(key)
        if offer is None:
            return
        target = self._make_folders(key, path) / path
        try:
            count = self._watched(
                lambda: self._means.server.download(
                    offer.files[path],
                    target,
                    renew=lambda: self._renewed(key, path),
                    sync=False,  # `verification` does, while the next ones are downloaded
                )
            )
        except EscherError as error:
            self._failed.setdefault(key, error)  # the other files of it are not asked for
            raise
        self._means.traffic.add(count.received, count.wasted)

    def _make_folders(self, key: ScriptKey, path: str) -> Path:
        """The script's folder in staging, with those in it that ``path`` needs."""
        folder = self._folders[key]
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
    return one.entry_point == other.entry_point and not difference(one.files, other.files)
