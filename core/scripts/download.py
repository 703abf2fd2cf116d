"""Scripts from the server into the cache, once for however many ask (Flow 3).

::

    download ──► verify ──► (evict)       two steps over a batch, each safe to run again
    into          hash again,
    staging       promote

    row in downloads   running ──► staged ──► none: it is in the cache
                          └──────────┴──────► failed, with its reason

`fetch` does both for one script, at once, for a caller who waits. A claim in the journal makes all
of them one attempt: across threads, processes and hosts. Each step reads the state again first.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from core.backoff import outcome_of
from core.errors import EscherError, NotEscherServer, TransferInterrupted
from core.journal import Journal
from core.journal.downloads import DownloadState
from core.journal.script_rows import ToldStatus
from core.models import DONE, FORMATS, FileEntry, Outcome, Ref
from core.scripts.cache import ScriptCache
from core.scripts.cached import CacheHit, Staged
from core.scripts.claim import Claim
from core.scripts.entries import LIBRARY_PREFIX, Listing, ScriptKey
from core.scripts.layout import CacheLayout, listed, remove
from core.scripts.library import Library
from core.scripts.listing import check_offer, check_version, difference
from core.scripts.outcomes import WAITING, error_of
from core.scripts.pinned import version_digest
from core.scripts.single_flight import SingleFlight, pauses
from core.scripts.staging import Expected, Means, StagingRun, Traffic, row_key
from core.scripts.standing import told_by
from core.scripts.verification import verify_staged
from core.server.answers import Script
from core.server.client import EscherServer
from core.server.problems import CHECK_URL
from core.settings import Settings

log = logging.getLogger(__name__)
LATEST = "latest"
BATCH = 128  # scripts; of `bring`. Between batches the connections idle while the journal commits
ROUNDS = 2  # of a fetch whose staged bytes change before they are verified
STAGED_SECONDS = 3600.0  # what waits longer to be verified has lost its job
FAILED_SECONDS = 86_400.0


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
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.library = Library(settings, journal, server, clock=clock)
        self.traffic = Traffic()
        self._settings = settings
        self._journal = journal
        self._server = server
        self._cache = cache
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._layout = CacheLayout(settings)
        self._threads = settings.transfer_concurrency
        self._means = Means(settings, journal, server, cache, self.library, self.traffic)
        self._flights: SingleFlight[ScriptKey, CacheHit] = SingleFlight()

    # -- what the server has ----------------------------------------------------------------
    def latest(self, playbook_id: str, format_: str | None = None) -> tuple[Ref, ToldStatus]:
        """The version that the server calls the latest, and what it says of it."""
        script = self._server.script(Ref(playbook_id, LATEST), format_)
        ref = check_version(script, playbook_id)
        return ref, self._note(ref, script)

    def tell(self, ref: Ref, format_: str | None = None) -> ToldStatus:
        """What the server says of a version; kept in the journal with the time of it."""
        script = self._server.script(ref, format_)
        if Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        return self._note(ref, script)

    def digest_of(self, ref: Ref) -> str:
        """The content digest of a version as the server tells it now, computed."""
        script = self._server.script(ref)
        if Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        if script.manifest is None or script.metadata is None:
            raise NotEscherServer(f"The server does not tell the whole of {ref}.", CHECK_URL)
        return version_digest(script.metadata, script.manifest)

    def _note(self, ref: Ref, script: Script) -> ToldStatus:
        told = told_by(script, self._clock())
        if told.status is None and ref.playbook_id.startswith(LIBRARY_PREFIX):
            try:
                told = told._replace(status=self.library.keep(ref).get("status"))
            except EscherError as error:
                log.info("the status of %s is taken for approved: %s", ref, error)
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
                outcomes[key] = DONE if row.state is DownloadState.STAGED else WAITING
            results = self._staging_run(claim, wanted).run()
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
            if row is not None and row.state is DownloadState.FAILED:
                attempts = max(0, row.fence - 1)
                outcomes[key] = outcome_of(error_of(row), attempts, self._clock(), self._random)
            else:
                outcomes[key] = WAITING
        return outcomes

    def bring(
        self, keys: Sequence[ScriptKey], expected: Expected | None = None
    ) -> dict[ScriptKey, Outcome]:
        """Both steps for many: each batch is verified while the next one is downloaded."""
        wanted = list(dict.fromkeys(keys))
        outcomes: dict[ScriptKey, Outcome] = {}
        with ThreadPoolExecutor(1, "verify") as pool:
            verified: list[Future[dict[ScriptKey, Outcome]]] = []
            for start in range(0, len(wanted), BATCH):
                part = wanted[start : start + BATCH]
                self.download(part, expected)
                verified.append(pool.submit(self.verify, part))
                if len(verified) > 1:  # what is staged takes room: no more than two batches of it
                    outcomes |= verified.pop(0).result()
            for batch in verified:
                outcomes |= batch.result()
        return outcomes

    def fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None = None) -> CacheHit:
        """The script, downloaded and verified now unless it is cached and fresh.

        Callers at the same time, anywhere, get what one attempt gives: its answer or its failure.
        """
        return self._flights.run(key, lambda: self._fetch(key, expected))

    def recover(self) -> int:
        """Remove what dead processes left in staging, and what nobody came back for.

        Returns the number of folders removed.
        """
        names = [path.name for path in listed(self._layout.staging)]  # before the rows are read
        if names:
            self._cache.layout.check()
        now = self._clock()
        downloads = self._journal.downloads
        old = {"staged_before": now - STAGED_SECONDS, "failed_before": now - FAILED_SECONDS}
        with downloads.abandoned(**old) as (lease, rows):
            left = {row.staged for row in rows if row.staged is not None}
            known = {row.staged for row in downloads.all()} - left
            gone = [name for name in names if name not in known]
            for name in gone:
                remove(self._layout.staging / name)
            downloads.settle({row.key: None for row in rows}, lease)
        return len(gone)

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
        return outcome_of(result, claim.rows[key].fence, self._clock(), self._random)

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
        if row.state is DownloadState.FAILED and began <= (row.ended_at or 0) <= self._clock():
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
                result = self._staging_run(claim, {key: expected}).run()[key]
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

    def _staging_run(self, claim: Claim, expected: Expected) -> StagingRun:
        reserved = any(row.reserved_bytes for row in claim.rows.values())
        return StagingRun(self._means, claim.lease, claim.folders, expected, reserved=reserved)

    def _wait(self, key: ScriptKey) -> None:
        """Until the attempt of another process is over; its failure is raised here too."""
        downloads = self._journal.downloads
        for pause in pauses():
            self._sleep(pause)
            row = downloads.get(row_key(key))
            if row is None:
                return
            if downloads.is_free(row):
                if row.state is DownloadState.FAILED:
                    raise error_of(row)
                return

    def _claim(
        self, keys: Sequence[ScriptKey], *, fresh: bool = True, staged: bool = False
    ) -> Claim:
        return Claim(self._journal, self._layout.staging, keys, fresh=fresh, staged=staged)
