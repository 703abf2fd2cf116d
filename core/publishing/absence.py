"""Published versions that the server does not have (any more), and sending them again.

A full pass has seen every name that the server knows, tombstones included. What was published and is
not among them was lost there: by a server that was restored from an older copy, most likely. The
home that published it sends it again at once, another one that has the content after a day. It is
sent for review, whatever it was: an approval that the server lost is not assumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from core.journal import Journal
from core.journal.pull_state import DAY_SECONDS
from core.journal.records import VersionRecord
from core.journal.waiting_changes import Name
from core.models import Area, Ref, Strategy, SyncState
from core.publishing.following import NO_ERROR
from core.publishing.policy import forbidden

log = logging.getLogger(__name__)


class Absence:
    """Notes what is absent since when; ``clock`` gives Unix seconds."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock

    def look(self, before: Mapping[Ref, int], seen: Collection[Name]) -> list[VersionRecord]:
        """The versions that were published ``before`` the pass and were not ``seen`` in it."""
        missing = [ref for ref in before if (ref.playbook_id, ref.version) not in seen]
        rows = self._journal.versions.get_many(missing)
        absent = [
            row
            for ref, row in rows.items()
            if row.revision == before[ref] and not row.deleting and row.area is Area.SYNCED
        ]
        now = int(self._clock())
        self._journal.versions.set_many(
            [(row.ref, None, {"absent_since": now}) for row in absent if row.absent_since is None]
        )
        if absent:
            log.warning("%d published versions are not on the server", len(absent))
        return list(self._journal.versions.get_many([row.ref for row in absent]).values())

    def send_again(self, absent: Sequence[VersionRecord]) -> list[Ref]:
        """Have those sent that are this home's to send; which."""
        now = self._clock()
        unfetched = set(self._journal.versions.unfetched()) if absent else set()
        changes: list[tuple[Ref, str | None, dict[str, Any]]] = []
        for row in absent:
            waited = row.absent_since is not None and now - row.absent_since >= DAY_SECONDS
            if (
                row.sync_state in {SyncState.PUBLISHED, SyncState.FAILED}  # failed: sent in vain
                and (row.published_here or waited)
                and row.content_digest == row.published_digest
                and row.ref not in unfetched
                and forbidden(row) is None
            ):
                again: dict[str, Any] = {
                    "sync_state": SyncState.PENDING,
                    "publish_as": Strategy.REVIEW,
                    "uploaded_digest": None,
                    "s3_paths": {},
                }
                changes.append((row.ref, None, NO_ERROR | again))
        if not changes:
            return []
        done = self._journal.versions.set_many(changes)
        return [ref for (ref, _, _), is_set in zip(changes, done, strict=True) if is_set]
