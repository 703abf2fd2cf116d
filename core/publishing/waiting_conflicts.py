"""Open conflicts, looked after at the end of each pull: some are over, some need a full pass.

::

    both sides agree, or ours is gone and theirs came     settled
    ours is gone, or was made anew; ours is an edit       the next full pass decides again (once)
    a version that waited for a conflict that is over     goes on as it was wished
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from core.journal import Journal
from core.journal.conflicts import ConflictRecord
from core.journal.records import VersionRecord
from core.journal.waiting_changes import Name
from core.models import RESERVED_PREFIX, Area, Ref, SyncState
from core.publishing.conflict_rules import Rule
from core.publishing.feed import Theirs, find_theirs
from core.publishing.following import NO_ERROR
from core.server.client import EscherServer

ASKED_FOR = "full_pass_asked_for"  # in the journal's facts: a digest of the conflicts that did


class WaitingConflicts:
    """Settles what needs no choice any more."""

    def __init__(self, journal: Journal, server: EscherServer) -> None:
        self._journal = journal
        self._server = server

    def theirs(self, conflict: ConflictRecord, ref: Ref | None = None) -> Theirs | None:
        """The server's side of a conflict; None when it has none (any more)."""
        return find_theirs(self._server, ref or conflict.ref)

    def ask_anew(self) -> bool:
        """Whether only a full pass tells what is to become of some; asked once for the same ones."""
        waiting = self._journal.conflicts.open_ones()
        facts = self._journal.facts
        undecided: list[str] = []
        if waiting:
            rows = self._journal.versions.get_many([conflict.ref for conflict in waiting])
            private = self._journal.pins.private_ids(c.ref.playbook_id for c in waiting)
            undecided = [
                c.conflict_id for c in waiting if _is_undecided(c, rows.get(c.ref), private)
            ]
        key = hashlib.sha256(" ".join(sorted(undecided)).encode()).hexdigest()
        if facts.get(ASKED_FOR) == key:
            return False
        facts.set(ASKED_FOR, key)
        return bool(undecided)

    def look_after(self, seen: Collection[Name] | None) -> None:
        """Once a pull is done; ``seen``: all names that the server knows, after a full pass."""
        waiting = self._journal.conflicts.open_ones()
        rows = self._journal.versions.get_many([conflict.ref for conflict in waiting])
        private = self._journal.pins.private_ids(c.ref.playbook_id for c in waiting)
        over: list[Ref] = []
        for conflict in waiting:
            row = rows.get(conflict.ref)
            if conflict.kind == Rule.PRIVATE_ID and conflict.ref.playbook_id not in private:
                over.append(conflict.ref)
                if seen is None:  # what waited with it is to be read again
                    self._journal.pull_state.want_full_pass(f"{conflict.ref.playbook_id} is shared")
            elif _is_over(conflict, row) or _is_unseen(conflict, row, seen):
                over.append(conflict.ref)
        self._journal.conflicts.settle(over, "over: it needs no choice any more")
        self._release()

    def _release(self) -> None:
        """Versions that stood in a conflict which is over go on as it was wished."""
        standing = self._journal.versions.select(sync=SyncState.CONFLICT.value)
        if not standing:
            return
        open_ = self._journal.conflicts.open_ones()
        refs = {conflict.ref for conflict in open_}
        ids = {c.ref.playbook_id for c in open_ if c.kind == Rule.PRIVATE_ID}
        free = [r for r in standing if r.ref not in refs and r.ref.playbook_id not in ids]
        self._journal.versions.set_many([(row.ref, None, _as_wished(row)) for row in free])


def _is_over(conflict: ConflictRecord, row: VersionRecord | None) -> bool:
    if conflict.kind in {Rule.PRIVATE_ID, Rule.IMMUTABLE}:
        return False
    return row is not None and row.sync_state is SyncState.PUBLISHED


def _is_unseen(
    conflict: ConflictRecord, row: VersionRecord | None, seen: Collection[Name] | None
) -> bool:
    """Whether the server has lost its side."""
    if seen is None or conflict.ref.playbook_id.startswith(RESERVED_PREFIX):
        return False  # the feed never tells of the Escher Library
    if conflict.kind == Rule.PRIVATE_ID:
        return all(name[0] != conflict.ref.playbook_id for name in seen)
    gone = (conflict.ref.playbook_id, conflict.ref.version) not in seen
    return gone and (row is None or conflict.kind == Rule.IMMUTABLE)


def _is_undecided(conflict: ConflictRecord, row: VersionRecord | None, private: set[str]) -> bool:
    """Whether only the server can tell what is to become of it."""
    if conflict.kind == Rule.PRIVATE_ID:
        return conflict.ref.playbook_id not in private
    if conflict.kind == Rule.IMMUTABLE:
        return False
    if row is None or conflict.kind == Rule.EDIT_BECOMES_SUCCESSOR:
        return True
    return row.sync_state not in {SyncState.CONFLICT, SyncState.PUBLISHED}


def _as_wished(row: VersionRecord) -> dict[str, Any]:
    strategy = row.chosen_strategy
    wished = strategy.is_uploaded and row.area is Area.LOCAL
    if row.is_published:
        return {**NO_ERROR, "sync_state": SyncState.PUBLISHED}
    return {
        **NO_ERROR,
        "sync_state": SyncState.PENDING if wished else SyncState.LOCAL,
        "publish_as": strategy if wished else None,
    }
