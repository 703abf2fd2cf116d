"""Handles what is not on the server any more: what was deleted there, and what it has lost.

Deletions (`Deletions`) go into the trash, and not too many at once::

    tombstone ──► waiting_changes ──► few: carried out at the pull's end, folders into the trash
                  (the cursor           └─ many: held until the user accepts them
                   goes on)

Many: more than `MANY` versions and more than a fifth of ``synced/`` within 24 hours, those that were
carried out or held before among them, but for those that the user accepted. A held deletion is over
when the version is there again.

A full pass has seen every name that the server knows, tombstones included. What was published and is
not among them was lost there: by a server that was restored from an older copy, most likely. The
home that published it sends it again at once, another one that has the content after a day
(`send_again`). It is sent for review, whatever it was: an approval that the server lost is not assumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from core.journal import Journal
from core.journal.pulls import DAY_SECONDS, DELETION, Name, WaitingChange
from core.journal.versions import VersionRecord
from core.models import Area, Ref, Strategy, SyncState
from core.publishing.batch import NO_ERROR, set_rows
from core.publishing.conflict_rules import There
from core.publishing.feed import Theirs, failure
from core.publishing.reconcile import Reconciled, Reconciler
from core.publishing.steps import forbidden

MANY = 10
SHARE = 5  # a fifth
REASON = "deleted on the server"

log = logging.getLogger(__name__)


class Deletions:
    """Notes deletions, and carries them out when they may be; ``clock`` gives Unix seconds."""

    def __init__(
        self, journal: Journal, reconciler: Reconciler, clock: Callable[[], float]
    ) -> None:
        self._journal = journal
        self._reconciler = reconciler
        self._clock = clock

    def note(self, to_delete: Mapping[Ref, There]) -> set[Name]:
        """Write deletions down for the pull's end; returns their names."""
        now = int(self._clock())
        known = self._journal.waiting.get_many(list(to_delete))
        new = []
        for name, there in to_delete.items():
            before = known.get(name)
            if before is None or before.kind != DELETION or before.revision != there.revision:
                held = before is not None and before.held
                new.append(
                    WaitingChange(
                        name, DELETION, REASON, before.noted_at if held and before else now,
                        there.revision, there.digest, there.updated_at, held,
                    )
                )  # fmt: skip
        self._journal.waiting.put(new)
        return set(to_delete)

    def carry_out(self, *, accept: bool) -> Reconciled:
        """Delete what may be deleted now; ``accept``: what has been waiting for the user, too.

        What has only come with this pull was seen by nobody: an acceptance is not for it.
        """
        waiting = self._journal.waiting.deletions()
        if not waiting:
            return Reconciled()
        done = Reconciled()
        held = [item for item in waiting if item.held]
        if accept and held:
            self._journal.waiting.hold([item.name for item in held], held=False)
            self._do(held, done)
            waiting = [item for item in waiting if not item.held]
        new = [item for item in waiting if not item.held]
        if new and self._are_many(waiting, len(new)):
            self._journal.waiting.hold([item.name for item in new])
            log.warning("%d deletions of the server wait to be accepted", len(waiting))
        elif new:
            count = self._do(new, done)
            if count:
                self._journal.pull_state.note_deletions(self._clock(), count)
        return done

    def _are_many(self, waiting: list[WaitingChange], new: int) -> bool:
        now = self._clock()
        taken = self._journal.pull_state.deletions_taken(now)
        held = sum(item.held and abs(now - item.noted_at) < DAY_SECONDS for item in waiting)
        total = new + held + taken
        return total > MANY and total * SHARE > self._journal.versions.count_in(Area.SYNCED) + taken

    def _do(self, items: list[WaitingChange], done: Reconciled) -> int:
        """Delete these; how many went. What fails waits, and is tried again with the next pull."""
        part = self._reconciler.delete([_theirs(item) for item in items])
        open_ = part.to_delete.keys() | part.failed.keys()
        self._journal.waiting.forget([item.name for item in items if item.name not in open_])
        for ref, error in part.failed.items():
            log.warning("%s is not deleted yet: %s", ref, failure(error))
        done.add(part)
        done.failed |= part.failed
        return len(part.deleted)


def _theirs(item: WaitingChange) -> Theirs:
    there = There(item.content_digest or "", item.revision or 0, item.updated_at, deleted=True)
    return Theirs(item.ref, there)


def note_absent(
    journal: Journal, now: float, before: Mapping[Ref, int], seen: Collection[Name]
) -> list[VersionRecord]:
    """Find the versions that were published ``before`` a full pass and were not ``seen`` in it.

    Their rows say since when from now on; ``now`` is in Unix seconds.
    """
    rows = journal.versions.get_many([ref for ref in before if ref not in seen])
    absent = [
        row
        for ref, row in rows.items()
        if row.revision == before[ref] and not row.deleting and row.area is Area.SYNCED
    ]
    new = {row.ref: {"absent_since": int(now)} for row in absent if row.absent_since is None}
    set_rows(journal, new)
    if absent:
        log.warning("%d published versions are not on the server", len(absent))
    return list(journal.versions.get_many([row.ref for row in absent]).values())


def send_again(journal: Journal, now: float, absent: Sequence[VersionRecord]) -> list[Ref]:
    """Request those to be published that are this home's to send; returns which."""
    unfetched = set(journal.versions.unfetched()) if absent else set()
    changes: dict[Ref, dict[str, Any]] = {}
    for row in absent:
        waited = row.absent_since is not None and now - row.absent_since >= DAY_SECONDS
        if (
            row.sync_state in {SyncState.PUBLISHED, SyncState.FAILED}  # failed: sent in vain
            and (row.published_here or waited)
            and row.content_digest == row.published_digest
            and row.ref not in unfetched
            and forbidden(row) is None
        ):
            changes[row.ref] = NO_ERROR | {
                "sync_state": SyncState.PENDING,
                "publish_as": Strategy.REVIEW,
                "uploaded_digest": None,
                "s3_paths": {},
            }
    return set_rows(journal, changes)
