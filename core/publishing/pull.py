"""What changed there: the changes feed, applied page by page.

::

    backlog ──► feed after the cursor ──► each page: read, decide, apply ──► cursor ──► open conflicts
    (due)       (one call when nothing           what fails now goes into the          whose one side
                 is new)                         backlog, the cursor goes on           went meanwhile

Safe to be killed anywhere and to run twice: the cursor is kept only after its page is applied, a
change that is applied again finds everything done, and a lost cursor begins at the beginning.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import (
    EscherError,
    LeaseHeld,
    PermanentError,
    ServerRejected,
    StorageError,
)
from core.journal import Journal
from core.journal.conflicts import ConflictRecord
from core.journal.pull_backlog import BacklogItem, Name
from core.journal.records import VersionRecord
from core.models import Ref, SyncState
from core.publishing.conflict_rules import Rule
from core.publishing.feed import Theirs, failure, find_theirs, name_of, pages, read_item
from core.publishing.ports import PulledVersions
from core.publishing.reconciled import Decided, Reconciled
from core.publishing.reconciling import Reconciler
from core.publishing.verdicts import BASE_SECONDS, CAP_SECONDS
from core.server.client import EscherServer
from core.server.retry import full_jitter

CURSOR = "changes_cursor"  # in the journal's facts of the home

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PullReport:
    """What a pull did; ``failed`` is ``{"id@version" as the server wrote it: reason}``.

    ``pulled`` came in (metadata alone: their content is to be fetched when wanted), ``updated``
    follow the server in status, strategy or revision, ``deleted`` are gone with the server's;
    ``deferred`` are just being worked on here, and are taken in with a later pull.
    """

    pulled: list[Ref] = field(default_factory=list)
    updated: list[Ref] = field(default_factory=list)
    deleted: list[Ref] = field(default_factory=list)
    conflicts: list[Decided] = field(default_factory=list)
    deferred: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cursor: str | None = None

    @property
    def changed(self) -> list[Ref]:
        """The versions whose points in the collection are to be looked at."""
        return list(dict.fromkeys([*self.pulled, *self.updated, *(c.ref for c in self.conflicts)]))

    def as_json(self) -> dict[str, Any]:
        return {
            "pulled": [str(ref) for ref in self.pulled],
            "updated": [str(ref) for ref in self.updated],
            "deleted": [str(ref) for ref in self.deleted],
            "conflicts": [decided.as_json() for decided in self.conflicts],
            "deferred": dict(self.deferred),
            "failed": dict(self.failed),
        }

    def add(self, done: Reconciled) -> None:
        self.pulled += done.pulled
        self.updated += done.updated
        self.deleted += done.deleted
        self.conflicts += done.conflicts


class Puller:
    """Brings the server's changes here; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        journal: Journal,
        server: EscherServer,
        folders: PulledVersions,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._server = server
        self._reconciler = Reconciler(journal, folders)
        self._clock = clock
        self._random = random

    def pull(self) -> PullReport:
        """One pull. Raises when the server can't be read or the home can't be written.

        What was applied until then stays, and the next pull goes on after it.
        """
        report = PullReport(cursor=self._journal.facts.get(CURSOR))
        self._apply([item.change for item in self._journal.pull_backlog.due(self._clock())], report)
        for page in pages(self._server, report.cursor):
            self._apply(page.items, report)
            if page.cursor != report.cursor:
                self._journal.facts.set(CURSOR, page.cursor)
                report.cursor = page.cursor
        self._see_to_conflicts(report)
        self._journal.conflicts.prune(self._clock())
        return report

    # -- inside -----------------------------------------------------------------------------
    def _apply(self, items: Sequence[dict[str, Any]], report: PullReport) -> None:
        """Apply raw items; each that fails is in the backlog afterwards, each other is not."""
        if not items:
            return
        raws: dict[Name, dict[str, Any]] = {name_of(raw): raw for raw in items}
        failed: dict[Name, Exception] = {}
        readable: list[Theirs] = []
        for name, raw in raws.items():
            try:
                readable.append(read_item(raw))
            except EscherError as error:
                failed[name] = error
        done = self._reconciler.apply(readable)
        failed |= {(ref.playbook_id, ref.version): error for ref, error in done.failed.items()}
        report.add(done)
        self._note_failures(raws, failed, report)

    def _note_failures(
        self,
        raws: dict[Name, dict[str, Any]],
        failed: dict[Name, Exception],
        report: PullReport,
    ) -> None:
        backlog = self._journal.pull_backlog
        known = backlog.get_many(list(raws))
        kept = []
        for name, error in failed.items():
            words, before = failure(error), known.get(name)
            # another change of the version begins anew
            attempts = before.attempts if before and before.change == raws[name] else 0
            due = math.ceil(self._clock() + self._wait(attempts))
            kept.append(BacklogItem(name, raws[name], words, attempts + 1, due))
            told = report.deferred if isinstance(error, LeaseHeld) else report.failed
            told["@".join(name)] = words
            log.warning("%s@%s of the changes feed is not taken in: %s", *name, words)
        backlog.put(kept)
        over = [name for name in known if name not in failed]
        backlog.forget(over)
        for name in over:
            report.failed.pop("@".join(name), None)
            report.deferred.pop("@".join(name), None)

    def _wait(self, attempts: int) -> float:
        """At least a second: an item that fails is not tried twice in one sync."""
        return 1 + full_jitter(
            attempts, base_seconds=BASE_SECONDS, cap_seconds=CAP_SECONDS, random=self._random
        )

    def _see_to_conflicts(self, report: PullReport) -> None:
        """Open conflicts that need no choice (any more), or that a new version here inherits."""
        waiting = self._journal.conflicts.open_ones()
        rows = self._journal.versions.get_many([conflict.ref for conflict in waiting])
        for conflict in waiting:
            try:
                self._see_to(conflict, rows.get(conflict.ref), report)
            except (ServerRejected, StorageError):
                raise
            except PermanentError as error:  # theirs can't be read: the conflict waits with it
                report.failed[str(conflict.ref)] = str(error)

    def _see_to(
        self, conflict: ConflictRecord, row: VersionRecord | None, report: PullReport
    ) -> None:
        if row is not None and row.sync_state is SyncState.PUBLISHED:
            self._journal.conflicts.settle([conflict.ref], "the same content")
        elif row is None or conflict.kind == Rule.EDIT_BECOMES_SUCCESSOR:
            self._decide(conflict, report)
        elif row.sync_state is not SyncState.CONFLICT and conflict.theirs is not None:
            self._apply([conflict.theirs], report)

    def _decide(self, conflict: ConflictRecord, report: PullReport) -> None:
        ref = conflict.ref
        theirs = self.theirs(conflict)
        if theirs is not None:
            self._apply([theirs.raw], report)
        elif self._journal.versions.get(ref) is None:
            self._journal.conflicts.settle([ref], "both sides are gone")

    def theirs(self, conflict: ConflictRecord) -> Theirs | None:
        """The server's side of a conflict; None when it has none any more."""
        if conflict.theirs is not None:
            return read_item(conflict.theirs)
        return find_theirs(self._server, conflict.ref)
