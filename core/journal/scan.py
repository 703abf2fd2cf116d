"""What the scan saw of every version's folder, and when."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, func, select, tuple_, update
from sqlalchemy.sql import Update

from core.journal.database import Database
from core.journal.records import DiskFile, VersionRecord
from core.journal.tables import files, scan_waiting, versions
from core.journal.tables import scan_state as table
from core.models import Area, Ref

KEY = (table.c.playbook_id, table.c.version)
PAGE = 2000  # rows in one short read transaction
CHUNK = 400


@dataclass(frozen=True, slots=True)
class SeenFolder:
    """A version's folder as it stood at ``seen_at_ns``, when its content was the journal's."""

    record: VersionRecord
    paths: str
    fingerprint: bytes
    seen_at_ns: int
    refreshed: tuple[DiskFile, ...] = ()  # the same bytes under another stat


class ScanRows:
    """The tables ``scan_state`` and ``scan_waiting``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> Iterator[tuple[str, str, str, str | None, bytes | None]]:
        """``(playbook_id, version, area, paths, fingerprint)`` of every version, by id.

        The last two are None where the folder was not seen as it should be now. Pages of rows,
        each read at once: no transaction is open while the caller looks at the folders.
        """
        seen = and_(
            *(
                getattr(table.c, name) == getattr(versions.c, name)
                for name in ("playbook_id", "version", "area", "content_digest", "generation")
            )
        )
        key = (versions.c.playbook_id, versions.c.version)
        query = (
            select(*key, versions.c.area, table.c.paths, table.c.fingerprint)
            .select_from(versions.outerjoin(table, seen))
            .order_by(*key)
            .limit(PAGE)
        )
        after: tuple[str, str] | None = None
        while True:
            page = query if after is None else query.where(tuple_(*key) > after)
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            yield from (tuple(row) for row in rows)
            if len(rows) < PAGE:
                return
            after = (rows[-1][0], rows[-1][1])

    def seen_at(self, refs: Sequence[Ref]) -> dict[Ref, int]:
        """When (``seen_at_ns``) the folders of ``refs`` were last seen as the journal has them.

        Of the same content only: what was seen of another one proves nothing.
        """
        found: dict[Ref, int] = {}
        same = and_(
            *(
                getattr(table.c, name) == getattr(versions.c, name)
                for name in ("playbook_id", "version", "content_digest", "generation")
            )
        )
        with self._database.read() as connection:
            for start in range(0, len(refs), CHUNK):
                keys = [(ref[0], ref[1]) for ref in refs[start : start + CHUNK]]
                query = select(*KEY, table.c.seen_at_ns).join(versions, same)
                for row in connection.execute(query.where(_among(KEY, keys))):
                    found[Ref(row[0], row[1])] = row[2]
        return found

    def areas(self, refs: Sequence[Ref]) -> dict[Ref, Area]:
        """Where the journal has those of ``refs`` that it knows."""
        found: dict[Ref, Area] = {}
        key = (versions.c.playbook_id, versions.c.version)
        with self._database.read() as connection:
            for start in range(0, len(refs), CHUNK):
                keys = [(ref[0], ref[1]) for ref in refs[start : start + CHUNK]]
                query = select(*key, versions.c.area).where(_among(key, keys))
                found |= {Ref(row[0], row[1]): Area(row[2]) for row in connection.execute(query)}
        return found

    def count_unpublished(self, area: Area) -> int:
        """How many versions that the server does not have stand in an area."""
        mine = and_(versions.c.area == area.value, versions.c.revision.is_(None))
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(versions).where(mine)) or 0

    def record(self, seen: Sequence[SeenFolder]) -> None:
        """Keep what was seen; the stats of files go to rows that still have that content."""
        if not seen:
            return
        rows = [
            {
                "playbook_id": item.record.ref.playbook_id,
                "version": item.record.ref.version,
                "area": item.record.area.value,
                "content_digest": item.record.content_digest,
                "generation": item.record.generation,
                "paths": item.paths,
                "fingerprint": item.fingerprint,
                "seen_at_ns": item.seen_at_ns,
            }
            for item in seen
        ]
        with self._database.write() as connection:
            connection.execute(self._database.upsert(table, ("playbook_id", "version"), rows), rows)
            if stats := [_refresh_values(i.record, file) for i in seen for file in i.refreshed]:
                connection.execute(_refresh(), stats)

    def forget_gone(self) -> None:
        """Remove what was seen of versions that the journal does not know any more."""
        is_known = exists().where(
            versions.c.playbook_id == table.c.playbook_id, versions.c.version == table.c.version
        )
        with self._database.write() as connection:
            connection.execute(delete(table).where(~is_known))

    def waiting(self) -> dict[str, tuple[bytes, int]]:
        """``{folder: (fingerprint, since_ns)}`` of changes whose age the clock does not tell."""
        with self._database.read() as connection:
            rows = connection.execute(select(scan_waiting)).all()
        return {row.folder: (row.fingerprint, row.since_ns) for row in rows}

    def wait(self, folders: Iterable[tuple[str, bytes, int]], done: Collection[str]) -> None:
        """Keep ``(folder, fingerprint, since_ns)``, and forget the folders in ``done``."""
        rows = [
            {"folder": folder, "fingerprint": fingerprint, "since_ns": since_ns}
            for folder, fingerprint, since_ns in folders
        ]
        if not rows and not done:
            return
        with self._database.write() as connection:
            if done:
                connection.execute(delete(scan_waiting).where(scan_waiting.c.folder.in_(done)))
            if rows:
                connection.execute(self._database.upsert(scan_waiting, ("folder",), rows), rows)


def _among(key: tuple[Any, Any], keys: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    # the ids alone, too: SQLite reads the whole index for an IN of pairs
    return and_(key[0].in_({playbook_id for playbook_id, _ in keys}), tuple_(*key).in_(keys))


def _refresh() -> Update:
    """New stats for a file of a version whose content is still the one that was looked at."""
    current = exists().where(
        versions.c.playbook_id == bindparam("of_id"),
        versions.c.version == bindparam("of_version"),
        versions.c.content_digest == bindparam("of_digest"),
        versions.c.generation == bindparam("of_generation"),
    )
    return update(files).where(
        files.c.playbook_id == bindparam("of_id"),
        files.c.version == bindparam("of_version"),
        files.c.path == bindparam("of_path"),
        files.c.checksum == bindparam("of_checksum"),
        current,
    )


def _refresh_values(record: VersionRecord, file: DiskFile) -> dict[str, Any]:
    return {
        "of_id": record.ref.playbook_id,
        "of_version": record.ref.version,
        "of_digest": record.content_digest,
        "of_generation": record.generation,
        "of_path": file.entry.path,
        "of_checksum": file.entry.checksum,
        "disk_size": file.disk_size,
        "mtime_ns": file.mtime_ns,
        "ctime_ns": file.ctime_ns,
        "inode": file.inode,
    }
