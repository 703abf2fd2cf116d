"""What the user chose for all versions of an id: that later ones made here go to review, too.

A choice of ``uploaded_trusted`` holds for the one version that it names, and is not kept here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from sqlalchemy import select

from core.journal.database import Database
from core.journal.schema import choices as table
from core.models import Ref

CHUNK = 400  # ids in one IN (…)


class Choices:
    """The choices of this home's user; nothing that a file or the server says gets in here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def choose_review(self, playbook_ids: Iterable[str]) -> None:
        """Keep that somebody chose review for these ids."""
        now = int(time.time())
        rows = [
            {"playbook_id": playbook_id, "review": True, "chosen_at": now}
            for playbook_id in sorted(set(playbook_ids))
        ]
        if not rows:
            return
        with self._database.write() as connection:
            connection.execute(self._database.upsert(table, ("playbook_id",), rows), rows)

    def claimed(self, refs: Iterable[Ref]) -> None:
        """Keep the choice that goes with a claim: whose published versions are one's own.

        Version 0.1.0 sent every edit of a published version to review and kept no choice; who
        claims the published ones (`keys claim`) has their edits reviewed as before.
        """
        self.choose_review(ref.playbook_id for ref in refs)

    def for_review(self, playbook_ids: Sequence[str]) -> set[str]:
        """Those of these ids that were ever chosen for review."""
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(playbook_ids), CHUNK):
                part = list(playbook_ids[start : start + CHUNK])
                query = select(table.c.playbook_id).where(
                    table.c.playbook_id.in_(part), table.c.review.is_(True)
                )
                found.update(connection.scalars(query))
        return found

    def is_for_review(self, playbook_id: str) -> bool:
        return bool(self.for_review([playbook_id]))
