"""Deletions of the other side: into the trash, and not too many at once.

::

    tombstone ──► waiting_changes ──► few: carried out at the pull's end, folders into the trash
                  (the cursor           └─ many: held until the user accepts them
                   goes on)

Many: more than `MANY` versions and more than a fifth of ``synced/`` within 24 hours, those that were
carried out or held before among them, but for those that the user accepted. A held deletion is over
when the version is there again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from core.journal import Journal
from core.journal.pull_state import DAY_SECONDS
from core.journal.waiting_changes import DELETION, Name, WaitingChange
from core.models import Area, Ref
from core.publishing.conflict_rules import There
from core.publishing.feed import Theirs, failure
from core.publishing.reconciled import Reconciled
from core.publishing.reconciling import Reconciler

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
        """Keep deletions for the pull's end; their names."""
        now = int(self._clock())
        names = [(ref.playbook_id, ref.version) for ref in to_delete]
        known = self._journal.waiting.get_many(names)
        new = []
        for there, name in zip(to_delete.values(), names, strict=True):
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
        return set(names)

    def carry_out(self, *, accept: bool) -> Reconciled:
        """Do what may be done now; ``accept``: what has been waiting for the user, too.

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
        open_ = {(ref.playbook_id, ref.version) for ref in (*part.to_delete, *part.failed)}
        self._journal.waiting.forget([item.name for item in items if item.name not in open_])
        for ref, error in part.failed.items():
            log.warning("%s is not deleted yet: %s", ref, failure(error))
        done.deleted += part.deleted
        done.trashed += part.trashed
        done.conflicts += part.conflicts
        done.failed |= part.failed
        return len(part.deleted)


def _theirs(item: WaitingChange) -> Theirs:
    there = There(item.digest or "", item.revision or 0, item.updated_at, deleted=True)
    return Theirs(item.ref, there)
