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
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from core.contents import PublishedContents
from core.errors import EscherError, ServerRejected, TransientError
from core.executions import Executions, ExecutionsSent
from core.indexing import Indexing
from core.journal import Journal
from core.models import Ref
from core.playbooks.edits import EditReport, Edits
from core.playbooks.pulled import PulledFolders
from core.playbooks.scan import Scan, ScanResult
from core.publishing.publisher import Publisher
from core.publishing.pull import Puller, PullReport
from core.server.client import EscherServer
from core.settings import Settings

OFFLINE_SINCE = "offline_since"  # in the journal's facts: Unix seconds

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
    failed: dict[str, str] = field(default_factory=dict)  # of the sync's own parts
    offline: str | None = None  # why the server could not be read
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

    def run(
        self,
        under_way: Collection[Ref] = (),
        on_part: Callable[[], object] = lambda: None,
    ) -> SyncPlan:
        """Look, take in, and plan. ``under_way``: versions whose messages stand in the broker.

        ``on_part`` is called between the parts, to renew the claim of a long sync. Raises
        `StorageError` when the home can't be read or written; everything else is in the plan.
        """
        plan = SyncPlan(started_at=time.time())
        self._look_here(plan)
        on_part()
        self._look_there(plan)
        on_part()
        self._fetch_contents(plan)
        plan.executions = self._send_executions(plan)
        on_part()
        return self.difference(plan, under_way)

    # -- here -------------------------------------------------------------------------------
    def _look_here(self, plan: SyncPlan) -> None:
        """Find what people did to the folders and take it in."""
        plan.scan = self._scan.run()
        plan.edits = self._edits.take(plan.scan, self._contents.fetch)

    # -- there ------------------------------------------------------------------------------
    def _look_there(self, plan: SyncPlan) -> None:
        try:
            plan.pull = self._puller.pull()
        except (TransientError, ServerRejected) as error:
            plan.offline = str(error)
            self._journal.facts.set_once(OFFLINE_SINCE, str(int(plan.started_at)))
            log.warning("the server can't be read: %s", error)
        else:
            self._journal.facts.remove(OFFLINE_SINCE)

    def _send_executions(self, plan: SyncPlan) -> ExecutionsSent:
        """Not asked of a server that has just not answered."""
        return ExecutionsSent() if plan.offline else self._executions.send(self._server)

    def _fetch_contents(self, plan: SyncPlan) -> None:
        """The scripts of versions that came in, where they are wanted at once."""
        if not self._settings.sync_pull_scripts or plan.offline:
            return
        for ref in self._journal.versions.unfetched():
            try:
                if self._folders.fetch_contents(ref, self._contents.fetch(ref)):
                    plan.fetched.append(ref)
            except TransientError as error:
                log.warning("the content of %s is fetched later: %s", ref, error)
                break
            except EscherError as error:
                plan.failed[str(ref)] = str(error)

    # -- the difference ---------------------------------------------------------------------
    def difference(self, plan: SyncPlan | None = None, under_way: Collection[Ref] = ()) -> SyncPlan:
        """Fill in what each workflow is to be queued for; nothing is changed."""
        now = time.time()
        plan = plan or SyncPlan(started_at=now)
        plan.publish = [r.ref for r in self._publisher.due(now) if r.ref not in under_way]
        stale = set(self._journal.versions.unindexed()).difference(plan.publish, under_way)
        records = self._journal.versions.get_many(sorted(stale))
        plan.embed = [ref for ref, record in records.items() if self._indexing.wants(record)]
        plan.delete = [r.ref for r in self._publisher.due_deletes(now) if r.ref not in under_way]
        plan.unindex = self._journal.stale_points.refs()
        return plan
