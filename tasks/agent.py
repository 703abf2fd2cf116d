"""What the agent link asks of this home: search answers that may leave it, and syncs on change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import EscherError
from core.journal import JobState, VersionRecord
from core.models import Ref, SyncState
from core.rag.search import MAX_LIMIT
from core.service import PlaybookService
from tasks import jobs

QUIET_SECONDS = 0.25  # an approval changes several versions: one sync for all of them
FOLLOW_SECONDS = 60.0
POLL_SECONDS = 0.1
LOST_SECONDS = 5.0  # after which the message of a sync that was asked for may have been lost
MAX_NOTICES = 10_000  # more of them say no more than "sync"
_log = logging.getLogger(__name__)


class LocalSearch:
    """Searches the home for the server: published versions, the private ones only if shared."""

    def __init__(self, service: PlaybookService) -> None:
        self._service = service

    def __call__(
        self, query: str, filters: Mapping[str, Any], limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """At most ``limit`` results, best first: metadata and scores."""
        shared = self._service.settings.share_private_with_agent
        # private ones among the best take no other's place
        asked = limit if shared else MAX_LIMIT
        if jobs.is_running(self._service.settings):
            answer = jobs.search(self._service, query, filters, asked)
        else:  # the collection may be open once, so a process that stays leaves it alone
            answer = self._service.indexing.search_by_keywords(query, dict(filters), asked)
        refs = [Ref(result.playbook_id, result.version) for result in answer.results]
        records = self._service.journal.versions.get_many(refs)
        allowed = {ref for ref, record in records.items() if may_leave(record, shared=shared)}
        found = zip(refs, answer.results, strict=True)
        return [result.as_json() for ref, result in found if ref in allowed][:limit]


def may_leave(record: VersionRecord, *, shared: bool) -> bool:
    """Whether the server may hear of a version: published, or shared, and never a sensitive one."""
    return not (record.deleting or record.sensitive) and (record.is_published or shared)


class SyncOnChange:
    """Turns change notices into syncs, one at a time, from a thread of its own.

    What the journal knows already, as after a publish of this home's own, needs none. A sync that
    was under way may have read the feed too early: what it did not bring is asked for once more,
    and then left to the next tick of beat.
    """

    def __init__(self, service: PlaybookService, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._service = service
        self._quiet_seconds = quiet_seconds
        self._lock = threading.Lock()
        self._noted: dict[Ref, int] = {}
        self._all = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sync-on-change", daemon=True)

    def changed(self, playbook_id: str, version: str, revision: int) -> None:
        """Note a change; returns at once."""
        ref = Ref(playbook_id, version)
        with self._lock:
            if len(self._noted) < MAX_NOTICES:
                self._noted[ref] = max(revision, self._noted.get(ref, 0))
            else:
                self._all = True
        self._wake.set()

    def missed(self) -> None:
        """The link was away: anything may have changed; returns at once."""
        with self._lock:
            self._all = True
        self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the wait at hand."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._stopping.wait(self._quiet_seconds):
                return
            self._wake.clear()
            with self._lock:
                noted, self._noted = self._noted, {}
                everything, self._all = self._all, False
            try:
                self._catch_up(noted, everything=everything)
            except EscherError as error:
                _log.warning("no sync for a change on the server: %s", error)
            except Exception:  # noqa: BLE001 — a mistake of ours must not end the following for good
                _log.exception("no sync for a change on the server")

    def _catch_up(self, noted: Mapping[Ref, int], *, everything: bool) -> None:
        began = time.monotonic()
        unknown = self._unknown(noted)
        if not unknown and not everything:
            return
        self._sync()
        if self._unknown(unknown):
            self._sync()
        # notices without end get half of the time at most
        self._stopping.wait(min(FOLLOW_SECONDS, time.monotonic() - began))

    def _unknown(self, noted: Mapping[Ref, int]) -> dict[Ref, int]:
        """The notices that say something new to the journal."""
        records = self._service.journal.versions.get_many(sorted(noted))
        return {
            ref: revision for ref, revision in noted.items() if _is_news(records.get(ref), revision)
        }

    def _sync(self) -> None:
        """Have one sync begin after this moment, and wait until it has ended or can't."""
        service = self._service
        queued = [
            job
            for job in service.journal.jobs.unfinished()
            if job.kind == "sync" and job.state is JobState.QUEUED
        ]
        job = queued[0] if queued else jobs.submit(service, "sync")
        if job.created_at < time.time() - LOST_SECONDS and jobs.is_running(service.settings):
            jobs.dispatch(service, job, [], inline=False)  # nobody may be coming for it
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline and not self._stopping.wait(POLL_SECONDS):
            if service.journal.jobs.summary(job.job_id).is_finished:
                return
            if not jobs.is_running(service.settings):
                return  # journalled: `up` goes on with it


def _is_news(record: VersionRecord | None, revision: int) -> bool:
    if record is None:
        return True
    if record.deleting or record.sync_state in {SyncState.PENDING, SyncState.DEFERRED}:
        return False  # this home is at it, and will hear what the server holds
    return record.revision is None or record.revision < revision
