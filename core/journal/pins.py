"""The one digest that ``id@version`` names for ever.

::

    published   the content that this home published under the name
    server      the content that came under it from the server
    tombstone   the content that was deleted there, as the tombstone names it
    library     what the Escher Library first gave under it
    user        what the user took in place of one of these (`conflicts resolve … --take theirs`)

The first pin stays: it is written in the transaction that writes what it pins, and nothing but the
user's word replaces it. It stays when the version is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, or_, select, tuple_

from core.journal.database import Database
from core.journal.tables import choices as choices_table
from core.journal.tables import pins as table
from core.journal.tables import versions
from core.models import Area, Ref

PUBLISHED, SERVER, TOMBSTONE, LIBRARY, USER = (
    "published", "server", "tombstone", "library", "user",
)  # fmt: skip
KEY = (table.c.playbook_id, table.c.version)
CHUNK = 400  # names in one IN (…)


class Pins:
    """Rows of ``pins``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, ref: Ref) -> str | None:
        """The digest that ``ref`` names; None while it names none."""
        return self.get_many([ref]).get(ref)

    def get_many(self, refs: Sequence[Ref], connection: Connection | None = None) -> dict[Ref, str]:
        """The digests of those of ``refs`` that are pinned."""
        if connection is None:
            with self._database.read() as own:
                return self.get_many(refs, own)
        found: dict[Ref, str] = {}
        for start in range(0, len(refs), CHUNK):
            part = [tuple(ref) for ref in refs[start : start + CHUNK]]
            query = select(*KEY, table.c.content_digest).where(tuple_(*KEY).in_(part))
            found |= {Ref(row[0], row[1]): row[2] for row in connection.execute(query)}
        return found

    def is_published_here(self, ref: Ref) -> bool:
        """Whether ``ref`` names what this home was the first to publish under it."""
        query = select(table.c.source).where(tuple_(*KEY) == tuple(ref))
        with self._database.read() as connection:
            return connection.scalar(query) == PUBLISHED

    def versions_of(self, playbook_id: str) -> list[str]:
        """The versions of an id whose names are taken for ever, in no order."""
        query = select(table.c.version).where(table.c.playbook_id == playbook_id)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def private_ids(self, playbook_ids: Iterable[str]) -> set[str]:
        """Those ids of which versions are here, and none was published from here or came here.

        What stands in ``synced/`` was published, even where the journal was lost since.
        """
        ids = list(dict.fromkeys(playbook_ids))
        here: set[str] = set()
        known: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(ids), CHUNK):
                part = ids[start : start + CHUNK]
                mine = versions.c.playbook_id
                here |= set(connection.scalars(select(mine).where(mine.in_(part)).distinct()))
                was = or_(versions.c.area == Area.SYNCED.value, versions.c.revision.is_not(None))
                known |= set(connection.scalars(select(mine).where(mine.in_(part), was).distinct()))
                pinned = select(table.c.playbook_id).where(
                    table.c.playbook_id.in_(part), table.c.source != TOMBSTONE
                )
                known |= set(connection.scalars(pinned.distinct()))
        return here - known

    def put(
        self, digests: Iterable[tuple[Ref, str]], source: str, connection: Connection | None = None
    ) -> None:
        """Pin names that are not pinned yet; the others keep their digest."""
        rows = [_row(ref, digest, source) for ref, digest in digests]
        if not rows:
            return
        if connection is None:
            with self._database.write() as own:
                own.execute(self._database.insert_ignore(table), rows)
            return
        connection.execute(self._database.insert_ignore(table), rows)

    def replace(self, ref: Ref, digest: str) -> None:
        """Pin a name anew: the user has seen both digests, and chosen this one."""
        row = _row(ref, digest, USER)
        with self._database.write() as connection:
            connection.execute(
                self._database.upsert(table, ("playbook_id", "version"), [row]), [row]
            )


def _row(ref: Ref, digest: str, source: str) -> dict[str, object]:
    return {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "content_digest": digest,
        "source": source,
        "pinned_at": int(time.time()),
    }


# What the user chose for all versions of an id: that later ones made here go to review, too.
#
# A choice of ``uploaded_trusted`` holds for the one version that it names, and is not kept here.

CHOICES_CHUNK = 400  # ids in one IN (…)


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
            connection.execute(self._database.upsert(choices_table, ("playbook_id",), rows), rows)

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
            for start in range(0, len(playbook_ids), CHOICES_CHUNK):
                part = list(playbook_ids[start : start + CHOICES_CHUNK])
                query = select(choices_table.c.playbook_id).where(
                    choices_table.c.playbook_id.in_(part), choices_table.c.review.is_(True)
                )
                found.update(connection.scalars(query))
        return found

    def is_for_review(self, playbook_id: str) -> bool:
        return bool(self.for_review([playbook_id]))
