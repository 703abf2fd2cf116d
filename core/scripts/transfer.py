"""One piece of work on many items, some at a time, each with an end of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.errors import (
    EscherError,
    IntegrityError,
    InvalidPlaybook,
    LeaseHeld,
    NotEscherServer,
    NotFound,
    Refused,
    ServerUnreachable,
    UnsafePath,
    storage_error,
)
from core.files import PRIVATE_DIR, check_distinct, check_relative_path
from core.journal import Journal
from core.journal.leases import Held
from core.journal.script_lookup import ToldStatus
from core.journal.scripts import Item
from core.models import FileEntry, Ref, ScriptKey, parse_version
from core.scripts.cache import ScriptCache
from core.scripts.integrity import check_pinned
from core.scripts.library import LibraryCache
from core.scripts.manifest import footprint
from core.scripts.models import CacheHit, Listing, Staged, in_words
from core.scripts.run_policy import told_by
from core.server.answers import CHECK_URL, Script, ScriptFile, clean_words
from core.server.client import EscherServer
from core.settings import Settings

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def in_threads(
    work: Callable[[K], T], items: Sequence[K], threads: int
) -> dict[K, T | BaseException]:
    """``work`` on each item, ``threads`` at a time; what it gives or raises, by item."""

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


# What the server says of a format folder, checked before anything of it touches the disk.
#
# Names from the server are labels: each must be a safe relative path inside the format's folder.

MAX_FILES = 2000
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked listing, with the URLs of its files by path."""

    listing: Listing
    files: dict[str, ScriptFile]


def check_offer(script: Script, key: ScriptKey, settings: Settings) -> Offer:
    """The server's answer for ``key`` as an `Offer`.

    `NotEscherServer` when it is about something else or names a path that is not safe, `Refused`
    when it is larger than the settings allow, `NotFound` when it has no files.
    """
    said = (script.playbook_id, script.version, script.format)
    if said != (*key.ref, key.format):
        asked = clean_words(" ".join(str(part) for part in said))
        raise NotEscherServer(f"The server was asked for {key} and answered {asked}.", CHECK_URL)
    if not script.files:
        raise NotFound(f"The server has no {key.format} script of {key.ref}.")
    if len(script.files) > MAX_FILES:
        raise Refused(f"{key} has {len(script.files)} files; at most {MAX_FILES} are fetched.")
    files = {file.path: file for file in script.files}
    _check_paths(key, [file.path for file in script.files])
    if script.entry_point not in files:
        raise NotEscherServer(
            f"The server names an entry point of {key} that is not among its files.", CHECK_URL
        )
    _check_sizes(key, script.files, settings)
    entries = tuple(
        FileEntry(file.path, file.size_bytes, file.checksum)
        for file in sorted(script.files, key=lambda file: file.path)
    )
    return Offer(Listing(key, entries, script.entry_point), files)


def difference(expected: Iterable[FileEntry], listed: Iterable[FileEntry]) -> str | None:
    """The first path by name that is not the same in both; None when all are."""
    here = {file.path: file for file in expected}
    there = {file.path: file for file in listed}
    return min(
        (path for path in here.keys() | there.keys() if here.get(path) != there.get(path)),
        default=None,
    )


def mismatch(key: ScriptKey, path: str) -> IntegrityError:
    """The server lists, for a published version, other files than were published."""
    return IntegrityError(
        f"The server lists {path} of {key.ref} otherwise than it was published.",
        "Nothing was downloaded: a published version never changes. Ask the server's operator.",
    )


def check_version(script: Script, playbook_id: str) -> Ref:
    """The version that the server calls the latest of ``playbook_id``."""
    try:
        parse_version(script.version)
    except InvalidPlaybook:
        raise NotEscherServer(
            f"The server names a latest version of {playbook_id} that is no version.", CHECK_URL
        ) from None
    if script.playbook_id != playbook_id:
        raise NotEscherServer(
            f"The server was asked for {playbook_id} and answered another playbook.", CHECK_URL
        )
    return Ref(playbook_id, script.version)


def _check_paths(key: ScriptKey, paths: list[str]) -> None:
    try:
        for path in paths:
            check_relative_path(path)
            if not path.startswith(f"{key.format}/"):
                raise UnsafePath(f"Path {path!r} is outside of {key.format}/.")
        check_distinct(paths)
    except UnsafePath as error:
        raise NotEscherServer(
            f"The server lists {key} with a name that is not safe: {clean_words(error.detail)}",
            CHECK_URL,
        ) from None
    names = {path.casefold() for path in paths}
    parents = {
        name[:end] for name in names for end in range(len(name)) if name[end] == "/"
    }  # fmt: skip
    if len(names) < len(paths) or names & parents:
        raise NotEscherServer(
            f"The server lists a name of {key} twice, or as a file and a folder.", CHECK_URL
        )


def _check_sizes(key: ScriptKey, files: Iterable[ScriptFile], settings: Settings) -> None:
    total = 0
    for file in files:
        total += file.size_bytes
        if file.size_bytes > settings.max_script_size_mb * MEBIBYTE:
            raise Refused(
                f"{file.path} of {key.ref} has {file.size_bytes} bytes, more than the "
                f"{settings.max_script_size_mb:g} MiB that are fetched.",
                "Raise max_script_size_mb.",
            )
    if total > settings.cache_max_size_mb * MEBIBYTE:
        raise Refused(
            f"{key} has {total} bytes, more than the whole cache's "
            f"{settings.cache_max_size_mb:g} MiB.",
            "Raise cache_max_size_mb.",
        )


# One attempt at bringing scripts into staging: list, make room, fetch.
#
# ::
#
#     list ──► make room ──► fetch            one transaction for the room of a whole batch;
#     threads                threads, a file each             nothing is written before it
#
# Each script ends in its own result: `Staged`, a `CacheHit` (it was there, or is confirmed by the
# server), or its error. When nothing at all answers any more, the rest is given up unasked.


LIBRARY, TENANT = "library", "tenant"

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
    library: LibraryCache
    traffic: Traffic


class StagingRun:
    """One attempt at scripts that are claimed by ``lease``, each into its own folder."""

    def __init__(
        self,
        means: Means,
        lease: Held[Item],
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
        self._of_library: dict[Ref, Script] = {}

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
        for ref, script in self._of_library.items():
            self._means.library.take(ref, script)
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
        if key.is_library:
            self._of_library[key.ref] = script
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
        sizes = {key: footprint(self._offers[key].listing) for key in keys}
        downloads = self._means.journal.downloads
        with self._means.journal.database.write() as connection:
            if self._reserved:  # the folder of that attempt is gone by now
                downloads.reserve(dict.fromkeys(sizes, 0), self._lease, connection)
            self._means.cache.make_room(sum(sizes.values()), connection)
            held = downloads.reserve(sizes, self._lease, connection)
        for key in keys:
            if key not in held:
                words = f"Another process took over the download of {key}."
                self._fail(key, LeaseHeld(words, "It goes on there."))

    # -- bytes ------------------------------------------------------------------------------
    def _fetch(self) -> None:
        tasks = [(key, path) for key, offer in self._offers.items() for path in offer.files]
        for (key, _), answer in in_threads(self._get, tasks, self._threads).items():
            if isinstance(answer, BaseException):
                self._fail(key, in_words(key, answer))

    def _get(self, task: tuple[ScriptKey, str]) -> None:
        key, path = task
        if key in self._failed:
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
