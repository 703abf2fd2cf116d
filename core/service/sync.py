"""One sync of a home: look at both sides, then say what is to be done about the difference.

::

    what changed here       what changed there        what is to be done         what came of it
    scan ► edits taken in   changes feed ► pulled     publish, embed, delete     SyncReport
         (disk only)             (one server call)    executions sent

Each part stands without the others: with the server away the disk is still looked at, with a broken
playbook the feed is still read. Nothing here is remembered but in the journal, so a sync that was
killed is simply done again. It leaves its report in ``cache/metadata/last_sync.json``, for people
to read.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.bounded_json import BadJson, read_stored_object
from core.errors import (
    EscherError,
    LeaseHeld,
    Refused,
    ServerRejected,
    ServerUnreachable,
    TransientError,
)
from core.files import atomic_write, json_bytes, make_private_dir
from core.journal import Journal
from core.models import Ref, SyncState
from core.playbooks.edits import EditReport, Edits
from core.playbooks.folder_copies import Trash
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.scan import Scan, ScanResult
from core.publishing.publisher import OnFindings, Publisher
from core.publishing.pull import PublishedContents, Puller, PullReport
from core.rag.indexing import Indexing
from core.scripts.library import LibraryCache
from core.secrets import findings_json
from core.server.client import EscherServer
from core.service.executions import Executions, ExecutionsSent
from core.settings import Settings

OFFLINE_SINCE = "offline_since"  # in the journal's facts: Unix seconds
GIVE_UP_AFTER = 3  # contents in a row that a troubled server can't give

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SyncPlan:
    """What a sync found, and the versions that each workflow is to be queued for."""

    started_at: float
    scan: ScanResult = field(default_factory=ScanResult)
    edits: EditReport = field(default_factory=EditReport)
    pull: PullReport = field(default_factory=PullReport)
    executions: ExecutionsSent = field(default_factory=ExecutionsSent)
    fetched: list[Ref] = field(default_factory=list)
    deferred: dict[str, str] = field(default_factory=dict)  # of the sync's own parts
    failed: dict[str, str] = field(default_factory=dict)  # of the sync's own parts
    offline: str | None = None  # why the server could not be read
    is_shut: bool = False  # nobody answers there, or not to us: nothing else is asked of it
    publish: list[Ref] = field(default_factory=list)
    embed: list[Ref] = field(default_factory=list)
    delete: list[Ref] = field(default_factory=list)
    unindex: list[Ref] = field(default_factory=list)


class Sync:
    """Looks at both sides; who does what is found (workers, or this process) is the caller's."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        scan: Scan,
        edits: Edits,
        puller: Puller,
        folders: RemoteVersions,
        contents: PublishedContents,
        server: EscherServer,
        publisher: Publisher,
        indexing: Indexing,
        executions: Executions,
        library: LibraryCache,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._scan = scan
        self._edits = edits
        self._puller = puller
        self._folders = folders
        self._contents = contents
        self._server = server
        self._publisher = publisher
        self._indexing = indexing
        self._executions = executions
        self._library = library
        self.on_findings: OnFindings | None = None
        """Told what looks like a secret in the edits that were taken in, before an upload."""

    def run(
        self,
        under_way: Collection[Ref] = (),
        *,
        accept_deletions: bool = False,
    ) -> SyncPlan:
        """Look, take in, and plan. ``under_way``: versions whose messages stand in the broker.

        ``accept_deletions``: the deletions of the server that wait are carried out.

        Raises `StorageError` when the home can't be read or written; everything else is in the plan.
        """
        plan = SyncPlan(started_at=time.time())
        self._look_here(plan)
        if plan.edits.findings and self.on_findings is not None:
            self.on_findings(plan.edits.findings)
        self._look_there(plan, accept_deletions=accept_deletions)
        self._fetch_contents(plan)
        self._look_at_library(plan)
        plan.executions = self._send_executions(plan)
        return self.difference(plan, under_way)

    # -- here -------------------------------------------------------------------------------
    def _look_here(self, plan: SyncPlan) -> None:
        """Find what people did to the folders and take it in."""
        try:
            self._publisher.settle_waiting()
        except EscherError as error:
            plan.deferred["synced"] = str(error)
        plan.scan = self._scan.run()
        plan.edits = self._edits.take(plan.scan, _Asked(self._contents))

    # -- there ------------------------------------------------------------------------------
    def _look_there(self, plan: SyncPlan, *, accept_deletions: bool) -> None:
        try:
            plan.pull = self._puller.pull(accept_deletions=accept_deletions)
        except (TransientError, ServerRejected, Refused) as error:
            plan.offline = str(error)
            busy = isinstance(error, TransientError) and not isinstance(error, ServerUnreachable)
            plan.is_shut = not busy
            self._journal.facts.set_once(OFFLINE_SINCE, str(int(plan.started_at)))
            log.warning("the server can't be read: %s", error)
        else:
            self._journal.facts.remove(OFFLINE_SINCE)
            if plan.pull.stopped is not None:
                plan.failed["changes feed"] = plan.pull.stopped
        try:
            Trash(self._settings.trash_path).purge(self._settings.trash_days)
        except EscherError as error:
            plan.failed["trash"] = str(error)

    def _send_executions(self, plan: SyncPlan) -> ExecutionsSent:
        """Not asked of a server that has just not answered."""
        return ExecutionsSent() if plan.offline else self._executions.send(self._server)

    def _fetch_contents(self, plan: SyncPlan) -> None:
        """The scripts of versions that came in, where they are wanted at once."""
        if not self._settings.sync_pull_scripts or plan.offline:
            return
        wanted = self._journal.versions.unfetched()
        random.shuffle(wanted)  # so that some which never come don't stand before all others
        in_a_row = 0
        for ref in wanted:
            try:
                if self._folders.fetch_contents(ref, self._contents.fetch(ref)):
                    plan.fetched.append(ref)
                in_a_row = 0
            except LeaseHeld as error:
                plan.deferred[str(ref)] = str(error)
            except TransientError as error:
                plan.deferred[str(ref)] = str(error)
                in_a_row += 1
                if isinstance(error, ServerUnreachable) or in_a_row == GIVE_UP_AFTER:
                    log.warning("the contents of other machines' versions come later: %s", error)
                    break
            except EscherError as error:
                plan.failed[str(ref)] = str(error)
                in_a_row = 0

    def _look_at_library(self, plan: SyncPlan) -> None:
        """The metadata of library versions that were used: gone here, or to be had there."""
        try:
            self._library.reconcile()
            if not plan.offline:
                self._library.fetch_missing()
        except EscherError as error:
            plan.failed["cache/library"] = str(error)

    # -- the difference ---------------------------------------------------------------------
    def difference(self, plan: SyncPlan | None = None, under_way: Collection[Ref] = ()) -> SyncPlan:
        """Fill in what each workflow is to be queued for; nothing is changed.

        A server that just now let nobody in is asked for nothing: what waits for it waits in its
        place, and goes out at the first sync that gets through, whatever the time that took.
        """
        now = time.time()
        plan = plan or SyncPlan(started_at=now)
        if not plan.is_shut:
            versions = self._journal.versions
            plan.publish = [r.ref for r in versions.wanting_publish(now) if r.ref not in under_way]
            plan.delete = [r.ref for r in versions.wanting_delete(now) if r.ref not in under_way]
        left_out = {*plan.publish, *under_way}  # publishing embeds
        plan.embed = [ref for ref in self._indexing.sources.pending() if ref not in left_out]
        plan.unindex = self._journal.stale_points.refs()
        return plan

    def retry_set_aside(self) -> None:
        """Make due, now, what failed or was put off: versions, the server's changes, reported runs."""
        versions = self._journal.versions
        rows = [
            *versions.select(sync=SyncState.FAILED.value),
            *versions.select(sync=SyncState.DEFERRED.value),
        ]
        self._publisher.request([row.ref for row in rows if row.publish_as is not None])
        versions.set_many(
            [(row.ref, None, {"next_attempt_at": None}) for row in rows if row.deleting]
        )
        self._journal.pull_state.want_full_pass("what was set aside is to be tried again")
        self._executions.retry()


class _Asked:
    """Fetches contents, and no more of them once nobody answers: a sync is not to wait for each."""

    def __init__(self, contents: PublishedContents) -> None:
        self._contents = contents
        self._error: ServerUnreachable | None = None

    def __call__(self, ref: Ref) -> Mapping[str, bytes]:
        if self._error is not None:
            raise ServerUnreachable(self._error.detail, self._error.remedy)
        try:
            return self._contents.fetch(ref)
        except ServerUnreachable as error:
            self._error = error
            raise


class BackgroundSync:
    """A thread that syncs at an interval until `stop`."""

    def __init__(self, sync: Callable[[], object], interval_seconds: float) -> None:
        self._sync = sync
        self._interval = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="escher-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._sync()
            except EscherError as error:  # the next one finds what this one left
                log.warning("the background sync failed: %s", error)
            except Exception:
                log.exception("the background sync failed unexpectedly")
            self._stopping.wait(self._interval)

    def stop(self, timeout: float | None = None) -> None:
        """End it after the sync that may be running; waits for that, ``timeout`` seconds at most."""
        self._stopping.set()
        self._thread.join(timeout)


FORMAT_VERSION = 1
MAX_FINDINGS = 500  # in the report; `show` has them all
MAX_REASONS = 200  # named in the report; the journal has them all
SINCE = "sync_counters"  # in the journal's facts: the sums at the report before
COUNTED = ("published", "deleted", "bytes_sent")


def write_report(settings: Settings, journal: Journal, plan: SyncPlan) -> dict[str, Any]:
    """Write the SyncReport of a sync and return it.

    ``published``, ``deleted`` and ``bytes`` are what was done since the report before, by whatever
    worker; ``queued`` is what this sync found to be done. Times are Unix seconds.
    """
    counts = journal.versions.counts()
    sums = journal.counters.all()
    before = json.loads(journal.facts.get(SINCE) or "{}")
    done = {name: sums.get(name, 0) - int(before.get(name, 0)) for name in COUNTED}
    failed = _failures(journal, plan)
    if plan.pull.passed_over:
        failed["changes feed (more)"] = f"{plan.pull.passed_over} more items are passed over."
    report = {
        "format_version": FORMAT_VERSION,
        "at": int(plan.started_at),
        "duration_ms": max(0, int((time.time() - plan.started_at) * 1000)),
        "scanned": plan.scan.scanned,
        "unchanged": plan.scan.unchanged,
        "published": done["published"],
        "updated": len(plan.pull.updated),
        "deleted": done["deleted"] + len(plan.pull.deleted),
        "pulled": len(plan.pull.pulled),
        "fetched": len(plan.fetched),
        "bytes": done["bytes_sent"],
        "edits": {
            "updated": [str(ref) for ref in plan.edits.updated],
            "kept_as": {str(ref): str(kept) for ref, kept in plan.edits.kept_as.items()},
            "added": [str(ref) for ref in plan.edits.added],
            "moved": [str(ref) for ref in plan.edits.moved],
            "forgotten": [str(ref) for ref in plan.edits.forgotten],
            "restored": [str(ref) for ref in plan.edits.restored],
            "waiting": plan.edits.waiting,
            "held": {str(held.ref): held.as_text() for held in journal.held_edits.entries()}
            | plan.edits.held,
        },
        "findings": findings_json(plan.edits.findings)[:MAX_FINDINGS],
        # no part of what is published, until an update takes them in
        "beside": {str(ref): list(paths) for ref, paths in plan.scan.beside.items()},
        # by editors, tools and runs; named once
        "left_out": {str(ref): list(paths) for ref, paths in plan.scan.left_out.items()},
        "executions_sent": plan.executions.sent,
        "pending": counts["pending"],
        "deferred": counts["deferred"],
        "deferrals": dict(list(_deferrals(journal, plan).items())[:MAX_REASONS]),
        "failed": len(failed),
        "failures": dict(list(failed.items())[:MAX_REASONS]),
        "conflicts": [decided.as_json() for decided in plan.pull.conflicts],
        "open_conflicts": journal.conflicts.open_count(),
        "offline": plan.offline,
        "partial": bool(failed) or plan.pull.is_partial,
        "full_pass": plan.pull.full,
        "passed_over": plan.pull.passed_over,
        "trashed": plan.pull.trashed[:MAX_REASONS],
        "deletions_waiting": journal.waiting.counts()["deletions"],
        "absent": len(journal.versions.absent()),
        "sent_again": [str(ref) for ref in plan.pull.sent_again[:MAX_REASONS]],
        "queued": {
            "publish": len(plan.publish),
            "embed": len(plan.embed),
            "delete": len(plan.delete),
        },
    }
    if plan.scan.quiet_in is not None:
        report["quiet_in_seconds"] = round(plan.scan.quiet_in, 1)
    make_private_dir(_path(settings).parent)
    atomic_write(_path(settings), json_bytes(report))
    journal.facts.set(SINCE, json.dumps({name: sums.get(name, 0) for name in COUNTED}))
    return report


def read_report(settings: Settings) -> dict[str, Any] | None:
    """The last report, None before the first sync."""
    try:
        return read_stored_object(_path(settings).read_bytes())
    except (FileNotFoundError, BadJson):
        return None


def _failures(journal: Journal, plan: SyncPlan) -> dict[str, str]:
    """Reasons by ``id@version`` or path, of everything that somebody has to look at."""
    failed = journal.versions.select(sync=SyncState.FAILED.value)
    waiting = {"@".join(item.name): item.reason for item in journal.waiting.failed()}
    return {
        **plan.scan.broken,
        **plan.edits.failed,
        # not only those that this sync has tried again
        **{name: why for name, why in waiting.items() if name not in plan.pull.deferred},
        **plan.pull.failed,
        **{str(ref): reason for ref, reason in plan.executions.failed.items()},
        **plan.failed,
        **{str(record.ref): record.error or "failed" for record in failed},
    }


def _deferrals(journal: Journal, plan: SyncPlan) -> dict[str, str]:
    """Reasons of what is tried again by itself."""
    deferred = journal.versions.select(sync=SyncState.DEFERRED.value)
    return {
        **plan.edits.deferred,
        **plan.pull.deferred,
        **{str(ref): reason for ref, reason in plan.executions.deferred.items()},
        **plan.deferred,
        **{str(record.ref): record.error or "deferred" for record in deferred},
    }


def _path(settings: Settings) -> Path:
    return settings.cache_path / "metadata" / "last_sync.json"
