"""What is known of the versions' folders: changes to them that have begun, and what the scan saw.

An intent is written before the first rename and goes in the transaction that writes the last row;
what is open at start-up is replayed. What the scan saw of a folder (`core.playbooks.scan`) spares it
the closer look for as long as nothing there, and nothing in the version's row, has changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    String,
    and_,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    type_coerce,
)

from core.journal.database import Database
from core.journal.rows import among, chunks, key, same_ref
from core.journal.tables import intents as intents_table
from core.journal.tables import scan_state as table
from core.journal.tables import versions
from core.journal.versions import VersionRecord
from core.models import Area, FileEntry, Ref, Strategy, SyncState

PAGE = 2000  # rows in one short read transaction


@dataclass(frozen=True, slots=True)
class Intent:
    """A change to the folders that has begun; replayed at start-up when it was not finished."""

    ref: Ref
    kind: str  # write | move | take | delete
    staged: str | None = None
    from_area: Area | None = None
    to_area: Area | None = None
    record: VersionRecord | None = None
    files: tuple[FileEntry, ...] = ()
    inode: int | None = None  # of the staged folder, by which it is known in its place


class Intents:
    """At most one open intent a version; the store's lock keeps writers apart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, intents: Sequence[Intent]) -> None:
        """Make the intents durable before anything is renamed."""
        rows = [
            {
                **intent.ref._asdict(),
                "kind": intent.kind,
                "staged": intent.staged,
                "from_area": intent.from_area,
                "to_area": intent.to_area,
                "record": _dumped(intent.record, intent.files) if intent.record else None,
                "inode": intent.inode,
                "created_at": int(time.time()),
            }
            for intent in intents
        ]
        with self._database.write() as connection:
            connection.execute(insert(intents_table), rows)

    def open(self) -> list[Intent]:
        """What was begun and not finished."""
        return [
            Intent(
                Ref(row.playbook_id, row.version),
                row.kind,
                row.staged,
                row.from_area,
                row.to_area,
                record,
                files,
                row.inode,
            )
            for row in self._database.rows(select(intents_table))
            for record, files in [_loaded(row.record) if row.record else (None, ())]
        ]

    def finish(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Close intents in the transaction that writes what they led to."""
        for part in chunks(refs):
            connection.execute(delete(intents_table).where(among(intents_table, part)))


# The JSON of an intent is a format of its own: a later version replays what an earlier one began.
def _dumped(record: VersionRecord, files: Sequence[FileEntry]) -> dict[str, Any]:
    apart = {"ref", "warnings"}
    return {
        "record": {n: getattr(record, n) for n in VersionRecord.__slots__ if n not in apart},
        "ref": record.ref,
        "warnings": record.warnings,
        "files": [[f.path, f.size_bytes, f.checksum, f.executable] for f in files],
    }


def _loaded(body: dict[str, Any]) -> tuple[VersionRecord, tuple[FileEntry, ...]]:
    values = body["record"]
    values["filled"] = tuple(values.get("filled", ()))
    values["area"] = Area(values["area"])
    values["sync_state"] = SyncState(values["sync_state"])
    values["publish_as"] = Strategy(values["publish_as"]) if values["publish_as"] else None
    files = body["files"]
    if (
        "fetched" not in values
    ):  # path, size, checksum, four numbers, and since 2 whether executable
        values["fetched"] = all(row[6] for row in files)
        files = [[*row[:3], *row[7:]] for row in files]
    record = VersionRecord(ref=Ref(*body["ref"]), warnings=tuple(body["warnings"]), **values)
    return record, tuple(FileEntry(*row) for row in files)


@dataclass(frozen=True, slots=True)
class SeenFolder:
    """A version's folder as it stood when its content was the journal's."""

    record: VersionRecord
    paths: str
    fingerprint: bytes


class ScanRows:
    """The table ``scan_state``: fingerprints of folders that held what the journal says."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> Iterator[tuple[str, str, str, str | None, bytes | None]]:
        """``(playbook_id, version, area, paths, fingerprint)`` of every version, by id.

        The last two are None where the folder was not seen as it should be now. Pages of rows,
        each read at once: no transaction is open while the caller looks at the folders.
        """
        refs = key(versions)
        area = type_coerce(versions.c.area, String)  # as text: there are 30,000 of them
        seen = and_(_SAME_CONTENT, table.c.area == versions.c.area)
        query = (
            select(*refs, area, table.c.paths, table.c.fingerprint)
            .select_from(versions.outerjoin(table, seen))
            .order_by(*refs)
            .limit(PAGE)
        )
        after: tuple[str, str] | None = None
        while True:
            rows = self._database.rows(
                query if after is None else query.where(tuple_(*refs) > after)
            )
            yield from (tuple(row) for row in rows)
            if len(rows) < PAGE:
                return
            after = (rows[-1][0], rows[-1][1])

    def areas(self, refs: Sequence[Ref]) -> dict[Ref, Area]:
        """Where the journal has those of ``refs`` that it knows."""
        found: dict[Ref, Area] = {}
        query = select(*key(versions), versions.c.area)
        with self._database.read() as connection:
            for part in chunks(refs):
                rows = connection.execute(query.where(among(versions, part)))
                found |= {Ref(row[0], row[1]): row[2] for row in rows}
        return found

    def count_unpublished(self, area: Area) -> int:
        """How many versions that the server does not have stand in an area."""
        mine = and_(versions.c.area == area, versions.c.revision.is_(None))
        return int(self._database.scalar(select(func.count()).where(mine)))

    def record(self, seen: Sequence[SeenFolder]) -> None:
        """Keep what was seen, for the next scan to look no closer."""
        if not seen:
            return
        rows = [
            {
                **item.record.ref._asdict(),
                "area": item.record.area,
                "content_digest": item.record.content_digest,
                "generation": item.record.generation,
                "paths": item.paths,
                "fingerprint": item.fingerprint,
            }
            for item in seen
        ]
        with self._database.write() as connection:
            self._database.put(table, rows, connection)

    def forget_gone(self) -> None:
        """Remove what was seen of versions that the journal does not know any more."""
        is_known = exists().where(same_ref(versions, table))
        self._database.run(delete(table).where(~is_known))


_SAME_CONTENT = and_(
    same_ref(table, versions),
    table.c.content_digest == versions.c.content_digest,
    table.c.generation == versions.c.generation,
)
