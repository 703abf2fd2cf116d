"""The one digest that ``id@version`` names for ever, and what the user chose for an id.

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

from sqlalchemy import Connection, or_, select

from core.journal.database import Database
from core.journal.rows import among, chunks, key, of_ref
from core.journal.tables import choices as choices_table
from core.journal.tables import pins as table
from core.journal.tables import versions
from core.models import Area, Ref

PUBLISHED, SERVER, TOMBSTONE, LIBRARY, USER = (
    "published", "server", "tombstone", "library", "user",
)  # fmt: skip


class Pins:
    """Rows of ``pins``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, ref: Ref) -> str | None:
        """The digest that ``ref`` names; None while it names none."""
        return self.get_many([ref]).get(ref)

    def get_many(self, refs: Sequence[Ref], connection: Connection | None = None) -> dict[Ref, str]:
        """The digests of those of ``refs`` that are pinned."""
        found: dict[Ref, str] = {}
        query = select(*key(table), table.c.content_digest)
        with self._database.read(connection) as opened:
            for part in chunks(refs):
                rows = opened.execute(query.where(among(table, part)))
                found |= {Ref(row[0], row[1]): row[2] for row in rows}
        return found

    def is_published_here(self, ref: Ref) -> bool:
        """Whether ``ref`` names what this home was the first to publish under it."""
        source = self._database.scalar(select(table.c.source).where(of_ref(table, ref)))
        return bool(source == PUBLISHED)

    def versions_of(self, playbook_id: str) -> list[str]:
        """The versions of an id whose names are taken for ever, in no order."""
        query = select(table.c.version).where(table.c.playbook_id == playbook_id)
        return self._database.scalars(query)

    def pinned_ids(self, playbook_ids: Sequence[str]) -> set[str]:
        """Those of these ids of which some version names a content for ever, here or not."""
        found: set[str] = set()
        query = select(table.c.playbook_id).distinct()
        with self._database.read() as connection:
            for part in chunks(playbook_ids):
                found.update(connection.scalars(query.where(table.c.playbook_id.in_(part))))
        return found

    def private_ids(self, playbook_ids: Iterable[str]) -> set[str]:
        """Those ids of which versions are here, and none was published from here or came here.

        What stands in ``synced/`` was published, even where the journal was lost since.
        """
        here: set[str] = set()
        known: set[str] = set()
        was = or_(versions.c.area == Area.SYNCED, versions.c.revision.is_not(None))
        came = table.c.source != TOMBSTONE
        with self._database.read() as connection:
            for part in chunks(list(dict.fromkeys(playbook_ids))):
                mine, pinned = versions.c.playbook_id, table.c.playbook_id
                query = select(mine).where(mine.in_(part)).distinct()
                here.update(connection.scalars(query))
                known.update(connection.scalars(query.where(was)))
                query = select(pinned).where(pinned.in_(part), came).distinct()
                known.update(connection.scalars(query))
        return here - known

    def put(
        self, digests: Iterable[tuple[Ref, str]], source: str, connection: Connection | None = None
    ) -> None:
        """Pin names that are not pinned yet; the others keep their digest."""
        rows = [_row(ref, digest, source) for ref, digest in digests]
        self._database.put_new(table, rows, connection)

    def replace(self, ref: Ref, digest: str) -> None:
        """Pin a name anew: the user has seen both digests, and chosen this one."""
        self._database.put(table, [_row(ref, digest, USER)])


def _row(ref: Ref, digest: str, source: str) -> dict[str, object]:
    return {
        **ref._asdict(),
        "content_digest": digest,
        "source": source,
        "pinned_at": int(time.time()),
    }


class Choices:
    """What the user chose for all versions of an id: that later ones made here go to review, too.

    Nothing that a file or the server says gets in here. A choice of ``uploaded_trusted`` holds for
    the one version that it names, and is not kept here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def choose_review(self, playbook_ids: Iterable[str]) -> None:
        """Keep that somebody chose review for these ids."""
        now = int(time.time())
        rows = [
            {"playbook_id": playbook_id, "review": True, "chosen_at": now}
            for playbook_id in set(playbook_ids)
        ]
        self._database.put(choices_table, rows)

    def claimed(self, refs: Iterable[Ref]) -> None:
        """Keep the choice that goes with a claim: whose published versions are one's own.

        Version 0.1.0 sent every edit of a published version to review and kept no choice; who
        claims the published ones (`keys claim`) has their edits reviewed as before.
        """
        self.choose_review(ref.playbook_id for ref in refs)

    def for_review(self, playbook_ids: Sequence[str]) -> set[str]:
        """Those of these ids that were ever chosen for review."""
        chosen = choices_table.c.playbook_id
        query = select(chosen).where(choices_table.c.review.is_(True))
        found: set[str] = set()
        with self._database.read() as connection:
            for part in chunks(playbook_ids):
                found.update(connection.scalars(query.where(chosen.in_(part))))
        return found

    def is_for_review(self, playbook_id: str) -> bool:
        return bool(self.for_review([playbook_id]))
