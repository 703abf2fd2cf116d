"""Bring scripts from the server into the cache, once for however many ask (Flow 3).

::

    download ──► verify ──► (evict)       two steps over a batch, each safe to run again
    into          hash again,
    staging       promote

    row of the download   downloading ──► staged ──► none: it is in the cache
                               └─────────────┴─────► failed, with its reason

`ScriptDownloads.fetch` does both for one script, at once, for a caller who waits. A claim in the
journal makes all of them one attempt: across threads, processes and hosts. Each step reads the state
again first.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from core.backoff import outcome_of
from core.errors import (
    EscherError,
    InvalidPlaybook,
    NotEscherServer,
    TransferInterrupted,
    storage_error,
)
from core.journal import Journal
from core.journal.script_lookup import ToldStatus
from core.journal.scripts import FolderState
from core.models import DONE, FORMATS, FileEntry, Outcome, Ref, ScriptKey, parse_version
from core.scripts.cache import ScriptCache
from core.scripts.entries import remove
from core.scripts.integrity import check_offer, difference, prove, version_digest
from core.scripts.library import LibraryCache
from core.scripts.models import WAITING, CacheHit, Listing, Staged, error_of, in_words
from core.scripts.run_policy import told_by
from core.scripts.transfer import Claim, Expected, StagingRun, TransferContext, in_threads
from core.server.answers import CHECK_URL, Script
from core.server.client import LATEST, EscherServer
from core.settings import Settings

log = logging.getLogger(__name__)


def verify_staged(
    cache: ScriptCache, claim: Claim, staged: Mapping[ScriptKey, Staged], threads: int
) -> dict[ScriptKey, CacheHit | EscherError]:
    """Hash what is staged again; promote what is right, quarantine what is not.

    What was hashed on its way in says that the right bytes came; this says that the right bytes are
    on the disk, and that nothing else is. Each file is then synced, so that it is durable before the
    rename; what was only staged may be lost to a power cut, and is found wrong here. Names are not
    synced: an entry that lost one is no longer what its manifest says, which every look-up finds out,
    and is fetched again. Each script ends in its own result.

    `TransferInterrupted`: the staged bytes were not those that had been downloaded. What was
    promoted is settled; failures are the caller's to settle.
    """

    def work(key: ScriptKey) -> str | None:
        """What is wrong with the staged files; None of right ones, which are durable then."""
        files = staged[key].listing.files
        wrong = prove(staged[key].folder, key.format, files, None)
        if wrong is None:
            for file in files:
                _sync(f"{staged[key].folder}/{file.path}")
        return wrong

    results: dict[ScriptKey, CacheHit | EscherError] = {}
    right: list[ScriptKey] = []
    for key, wrong in in_threads(work, list(staged), threads).items():
        if wrong is None:
            right.append(key)
        elif isinstance(wrong, BaseException):
            results[key] = in_words(key, wrong)
        else:
            results[key] = _set_aside(cache, staged[key], wrong)
    return results | _promote(cache, claim, {key: staged[key] for key in right})


def _sync(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, f"Writing {path}") from error


def _promote(
    cache: ScriptCache, claim: Claim, right: Mapping[ScriptKey, Staged]
) -> dict[ScriptKey, CacheHit | EscherError]:
    """All in one transaction; where that fails, one by one to find what stops the others."""
    if not right:
        return {}
    items = list(right.values())
    try:
        hits = claim.promote(cache, items)
    except Exception as error:  # noqa: BLE001 — an item's mistake is its own, never its batch's
        if len(right) == 1:
            return {key: in_words(key, error) for key in right}
        results: dict[ScriptKey, CacheHit | EscherError] = {}
        for key, item in right.items():
            results |= _promote(cache, claim, {key: item})
        return results
    return dict(zip(right, hits, strict=True))


def _set_aside(cache: ScriptCache, item: Staged, wrong: str) -> EscherError:
    key = item.listing.key
    log.warning("the staged bytes of %s are not those that came: %s", key, wrong)
    try:
        cache.quarantine_staged(item.folder, key, wrong)
    except Exception as error:  # noqa: BLE001 — as above
        return in_words(key, error)
    return TransferInterrupted(
        f"The staged bytes of {key} are not those that were downloaded: {wrong}.",
        "They are fetched anew.",
    )


K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.2
GROWTH = 1.5


def pauses() -> Iterator[float]:
    """Seconds between looks at what another process is doing, from 20 ms to 200 ms."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * GROWTH, LONGEST_PAUSE_SECONDS)


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: T | None = None
        self.error: BaseException | None = None


class SingleFlight(Generic[K, T]):
    """Makes calls with the same key that overlap in this process one call.

    The first to ask makes the attempt, the others get what came of it: the answer, or the failure.
    A failure is shared with those who waited for it and with nobody else: who asks later tries anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[T]] = {}

    def run(self, key: K, call: Callable[[], T]) -> T:
        """Return what ``call`` answers, made by the first who asks for ``key``; the others wait."""
        with self._lock:
            flight = self._flights.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if is_first:
            return self._lead(key, flight, call)
        flight.over.wait()
        if flight.error is not None:
            raise _copy(flight.error)
        return flight.answer  # type: ignore[return-value]  # an answer of None is one too

    def _lead(self, key: K, flight: _Flight[T], call: Callable[[], T]) -> T:
        try:
            flight.answer = call()
            return flight.answer
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.over.set()


def _copy(error: BaseException) -> BaseException:
    """An exception of its own for each who waited: a traceback belongs to one thread."""
    if not isinstance(error, Exception):  # the first one was interrupted, not those who waited
        return TransferInterrupted("The attempt was interrupted.", "Ask again.")
    try:
        return type(error)(*error.args)
    except TypeError:  # one that can't be rebuilt from its arguments is shared as it is
        return error


ROUNDS = 2  # of a fetch whose staged bytes change before they are verified


class ScriptDownloads:
    """Brings scripts into the cache; one a process, for all its threads.

    ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        server: EscherServer,
        cache: ScriptCache,
        library: LibraryCache,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._server = server
        self._cache = cache
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._threads = settings.transfer_concurrency
        self._context = TransferContext(settings, journal, server, cache, library)
        self._flights: SingleFlight[ScriptKey, CacheHit] = SingleFlight()

    # -- what the server has ----------------------------------------------------------------
    def latest(self, playbook_id: str, format_: str | None = None) -> tuple[Ref, ToldStatus]:
        """The version that the server calls the latest, and what it says of it."""
        script = self._server.script(Ref(playbook_id, LATEST), format_)
        ref = check_version(script, playbook_id)
        return ref, self._note(ref, script)

    def tell(self, ref: Ref, format_: str | None = None) -> ToldStatus:
        """What the server says of a version; kept in the journal with the time of it."""
        return self._note(ref, self._server.script(ref, format_))

    def digest_of(self, ref: Ref) -> str:
        """The content digest of a version as the server tells it now, computed."""
        script = self._server.script(ref)
        if script.manifest is None or script.metadata is None:
            raise NotEscherServer(f"The server does not tell the whole of {ref}.", CHECK_URL)
        return version_digest(script.metadata, script.manifest)

    def _note(self, ref: Ref, script: Script) -> ToldStatus:
        told = told_by(script, self._clock())
        self._journal.script_rows.note_told({ref: told})
        return told

    def listing(self, key: ScriptKey) -> Listing:
        """What the server has under ``key``, without a byte of it."""
        return check_offer(self._server.script(key.ref, key.format), key, self._settings).listing

    def formats_of(self, ref: Ref) -> list[str]:
        """The formats that the server has of a version."""
        script = self._server.script(ref)
        there = {file.path.partition("/")[0] for file in script.files if "/" in file.path}
        return [format_ for format_ in FORMATS if format_ in there]

    # -- the steps --------------------------------------------------------------------------
    def download(
        self, keys: Sequence[ScriptKey], expected: Expected | None = None
    ) -> dict[ScriptKey, Outcome]:
        """Bring scripts into staging; what is cached, staged or under way is left as it is.

        ``expected`` has the files that a published version must have, where they are known.
        """
        wanted = expected or {}
        outcomes, todo = self._known(keys, wanted)
        if not todo:
            return outcomes
        with self._claim(todo) as claim:
            for key, row in claim.others.items():
                outcomes[key] = DONE if row.state is FolderState.STAGED else WAITING
            results = StagingRun(self._context, claim, wanted).run()
            for key, result in results.items():
                outcomes[key] = self._outcome(claim, key, result)
            claim.settle(results)
        return outcomes

    def verify(self, keys: Sequence[ScriptKey]) -> dict[ScriptKey, Outcome]:
        """Hash what is staged again and promote it; a wrong byte is set aside and fetched anew.

        What was never staged keeps the outcome of its download.
        """
        outcomes: dict[ScriptKey, Outcome] = {}
        with self._claim(list(dict.fromkeys(keys)), fresh=False, staged=True) as claim:
            results = verify_staged(self._cache, claim, claim.staged(), self._threads)
            for key, result in results.items():
                outcomes[key] = self._outcome(claim, key, result)
            claim.settle(results)
        rest = [key for key in keys if key not in outcomes]
        known, unknown = self._known(rest, {})
        outcomes |= known
        for key in unknown:
            row = claim.others.get(key)
            if row is not None and row.state is FolderState.FAILED:
                attempts = max(0, row.attempts - 1)
                outcomes[key] = outcome_of(error_of(row), attempts, self._clock(), self._random)
            else:
                outcomes[key] = WAITING
        return outcomes

    def fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None = None) -> CacheHit:
        """Return the script, downloaded and verified now unless it is cached and fresh.

        Callers at the same time, anywhere, get what one attempt gives: its answer or its failure.
        """
        return self._flights.run(key, lambda: self._fetch(key, expected))

    # -- inside -----------------------------------------------------------------------------
    def _known(
        self, keys: Sequence[ScriptKey], expected: Expected
    ) -> tuple[dict[ScriptKey, Outcome], list[ScriptKey]]:
        """The outcomes of those that are in the cache, or can't be; the others."""
        outcomes: dict[ScriptKey, Outcome] = {}
        todo = []
        for key in dict.fromkeys(keys):
            try:
                if self._cached(key, expected.get(key)) is None:
                    todo.append(key)
                else:
                    outcomes[key] = DONE
            except EscherError as error:
                outcomes[key] = outcome_of(error, 0, self._clock(), self._random)
        return outcomes, todo

    def _cached(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None) -> CacheHit | None:
        hit = self._cache.find(key)
        if hit is None or not hit.fresh:
            return None
        if expected is not None and difference(expected, hit.listing.files):
            return None
        return hit

    def _outcome(
        self, claim: Claim, key: ScriptKey, result: Staged | CacheHit | EscherError
    ) -> Outcome:
        if not isinstance(result, EscherError):
            return DONE
        return outcome_of(result, claim.rows[key].attempts, self._clock(), self._random)

    def _fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None) -> CacheHit:
        began = self._clock()
        while True:
            hit = self._cached(key, expected)
            if hit is not None:
                return hit
            with self._claim([key], staged=True) as claim:
                if key in claim.rows:
                    return self._attempt(claim, key, expected, began)
            self._wait(key)

    def _attempt(
        self, claim: Claim, key: ScriptKey, expected: tuple[FileEntry, ...] | None, began: float
    ) -> CacheHit:
        row = claim.rows[key]
        if row.state is FolderState.FAILED and began <= row.since <= self._clock():
            # it failed while this one was on its way here: that is this one's answer too
            claim.put_back(key)
            raise error_of(row)
        staged = claim.staged().get(key)
        if (
            staged is not None
            and expected is not None
            and difference(expected, staged.listing.files)
        ):
            remove(staged.folder)
            staged = None
        result: Staged | CacheHit | EscherError
        for _ in range(ROUNDS):
            if staged is None:
                result = StagingRun(self._context, claim, {key: expected}).run()[key]
                if not isinstance(result, Staged):
                    break
                staged = result
            result = verify_staged(self._cache, claim, {key: staged}, self._threads)[key]
            if not isinstance(result, TransferInterrupted):
                break
            staged = None
        claim.settle({key: result})
        if isinstance(result, EscherError):
            raise result
        assert isinstance(result, CacheHit)
        return result

    def _wait(self, key: ScriptKey) -> None:
        """Until the attempt of another process is over; its failure is raised here too."""
        downloads = self._journal.downloads
        for pause in pauses():
            self._sleep(pause)
            row = downloads.get(key)
            if row is None:
                return
            if downloads.is_free(key):
                if row.state is FolderState.FAILED:
                    raise error_of(row)
                return

    def _claim(
        self, keys: Sequence[ScriptKey], *, fresh: bool = True, staged: bool = False
    ) -> Claim:
        return Claim(self._journal, self._cache.layout.staging, keys, fresh=fresh, staged=staged)


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
