"""One sync of a home: look at both sides, then say what is to be done about the difference.

::

    what changed here       what changed there        what is to be done         what came of it
    scan ► edits taken in   changes feed ► pulled     publish, embed, delete     SyncReport
         (disk only)             (one server call)    executions sent

Each part stands without the others: with the server away the disk is still looked at, with a broken
playbook the feed is still read. Nothing here is remembered but in the journal, so a sync that was
killed is simply done again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from core.contents import PublishedContents
from core.errors import (
    EscherError,
    LeaseHeld,
    Refused,
    ServerRejected,
    ServerUnreachable,
    TransientError,
)
from core.executions import Executions, ExecutionsSent
from core.indexing import Indexing
from core.journal import Journal
from core.models import Ref
from core.playbooks.edits import EditReport, Edits
from core.playbooks.pulled import PulledFolders
from core.playbooks.scan import Scan, ScanResult
from core.playbooks.trash import Trash
from core.publishing.publisher import OnFindings, Publisher
from core.publishing.pull import Puller, PullReport
from core.scripts.library import Library
from core.server.client import EscherServer
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
        folders: PulledFolders,
        contents: PublishedContents,
        server: EscherServer,
        publisher: Publisher,
        indexing: Indexing,
        executions: Executions,
        library: Library,
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

    def run(
        self,
        under_way: Collection[Ref] = (),
        *,
        on_findings: OnFindings | None = None,
        accept_deletions: bool = False,
    ) -> SyncPlan:
        """Look, take in, and plan. ``under_way``: versions whose messages stand in the broker.

        ``on_findings`` is told at once what looks like a secret in the edits that were taken in.
        ``accept_deletions``: the deletions of the server that wait are carried out.

        Raises `StorageError` when the home can't be read or written; everything else is in the plan.
        """
        plan = SyncPlan(started_at=time.time())
        self._look_here(plan)
        if on_findings is not None:
            on_findings(plan.edits.findings)
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
            self._library.shelf.reconcile()
            if not plan.offline:
                self._library.mend()
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
            plan.publish = [r.ref for r in self._publisher.due(now) if r.ref not in under_way]
            plan.delete = [
                r.ref for r in self._publisher.due_deletes(now) if r.ref not in under_way
            ]
        left_out = {*plan.publish, *under_way}  # publishing embeds
        plan.embed = [ref for ref in self._indexing.sources.pending() if ref not in left_out]
        plan.unindex = self._journal.stale_points.refs()
        return plan


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
