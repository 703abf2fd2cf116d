"""Reads and writes ``cache_folders``, the index of everything below ``cache/``; and ``proofs``.

One row a folder that takes room, so the limit is a sum over them::

    name, below cache/                         state        size_bytes  since
    scripts/<id>-v<version>/<format>           complete     on disk     it was fetched
    staging/<hex>                              downloading  reserved    the attempt began
                                               staged       reserved    its bytes are all there
                                               failed       0           it ended; the folder is gone
    quarantine/<id>-v<version>/<format>-<hex>  quarantined  on disk     it was put aside
    copies/<hex>                               copy         on disk     it was made

A row is written before its folder is made; a folder that is renamed gets it in the transaction of
the rename. What a process leaves that dies in between is put right by `core.scripts.recovery`.

A download's row says who brings the folder into the cache now, what is staged, and how the last
attempt ended::

    (none) ──claim──► downloading ──staged──► staged ──done──► (none: it is complete)
                         │  ▲                   │
                       failed ◄─────────────────┘
                            └─claim

A key has one such row at most, since a claim is its lease (`core.journal.leases`); what an attempt
writes counts only while it holds that. A claim gives the row the name of the attempt's own folder,
so no folder in ``cache/staging`` is ever unknown. ``attempts`` grows until the row goes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from core.journal.database import Database
from core.journal.leases import DOWNLOAD, Held, Leases, still_held
from core.journal.tables import cache_folders as table
from core.journal.tables import proofs
from core.models import FileEntry, Ref, ScriptKey

KEY = (table.c.playbook_id, table.c.version, table.c.format)
CHUNK = 400  # names or keys in one IN (…)
LIBRARY, TENANT = "library", "tenant"  # sources


NOBODYS = ScriptKey(Ref("", ""), "")


class FolderState(StrEnum):
    """What a folder below ``cache/`` is; drawn at the module's head."""

    COMPLETE = "complete"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """A row; times in Unix seconds. ``key`` is `NOBODYS` of a copy and of what was no entry.

    ``attempts``, ``error_type`` and ``reason`` tell of downloads, ``reason`` of the quarantine, too.
    """

    name: str
    state: FolderState
    key: ScriptKey = NOBODYS
    size_bytes: int = 0
    since: float = 0.0
    last_used: float = 0.0  # as last seen: the folder's mtime is the truth
    source: str = ""
    entry_point: str = ""
    files: tuple[FileEntry, ...] = ()
    attempts: int = 0
    error_type: str = ""
    reason: str = ""


class Total(NamedTuple):
    """Of the folders in one state: how many, their bytes, and the earliest ``since``."""

    folders: int = 0
    size_bytes: int = 0
    earliest: float | None = None


class CacheFolders:
    """Rows of ``cache_folders``; what changes them takes a write transaction's connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading ----------------------------------------------------------------------------
    def of(self, *states: FolderState, connection: Connection | None = None) -> list[CacheFolder]:
        """The rows in these states, the oldest first."""
        if connection is None:
            with self._database.read() as opened:
                return self.of(*states, connection=opened)
        query = select(table).where(table.c.state.in_(states)).order_by(table.c.since, table.c.name)
        return [_folder(row) for row in connection.execute(query)]

    def of_library(self, connection: Connection | None = None) -> list[CacheFolder]:
        """Complete ones that came whole from the Escher Library, by key."""
        query = select(table).where(_is(FolderState.COMPLETE), table.c.source == LIBRARY)
        with self._database.read(connection) as opened:
            return [_folder(row) for row in opened.execute(query.order_by(*KEY))]

    def get(self, name: str, connection: Connection) -> CacheFolder | None:
        """The row of a folder; None where there is none."""
        row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
        return None if row is None else _folder(row)

    def versions(self, playbook_id: str, format_: str) -> list[str]:
        """The versions of which a format is complete, in no order."""
        query = select(table.c.version).where(
            _is(FolderState.COMPLETE),
            table.c.playbook_id == playbook_id,
            table.c.format == format_,
        )
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def expired(self, before: float, after: float, connection: Connection) -> list[CacheFolder]:
        """Complete ones, in no order, fetched at or before ``before``, or after ``after`` (a clock
        that was wrong).
        """
        outdated = or_(table.c.since <= before, table.c.since > after)
        query = select(table).where(_is(FolderState.COMPLETE), outdated)
        return [_folder(row) for row in connection.execute(query)]

    def by_last_use(self, connection: Connection) -> Iterator[CacheFolder]:
        """Complete ones from the least recently used, as last seen; read as far as they are taken."""
        after: tuple[float, str] | None = None
        order = (table.c.last_used, table.c.name)
        query = select(table).where(_is(FolderState.COMPLETE)).order_by(*order).limit(CHUNK)
        while True:
            page = query if after is None else query.where(tuple_(*order) > tuple_(*after))
            rows = connection.execute(page).all()
            yield from map(_folder, rows)
            if len(rows) < CHUNK:
                return
            after = (rows[-1].last_used, rows[-1].name)

    def used_bytes(self, connection: Connection) -> int:
        """What counts towards the cache's limit."""
        return int(connection.scalar(select(func.coalesce(func.sum(table.c.size_bytes), 0))) or 0)

    def totals(self) -> dict[FolderState, Total]:
        """The sums by state, each state being there."""
        sums = (func.count(), func.sum(table.c.size_bytes), func.min(table.c.since))
        query = select(table.c.state, *sums).group_by(table.c.state)
        with self._database.read() as connection:
            found = {
                FolderState(state): Total(count, int(size), earliest)
                for state, count, size, earliest in connection.execute(query)
            }
        return {state: found.get(state, Total()) for state in FolderState}

    # -- writing ----------------------------------------------------------------------------
    def put(self, rows: Iterable[CacheFolder], connection: Connection) -> None:
        """Write rows, over those of the same name."""
        self._database.put(table, [_values(row) for row in rows], connection)

    def delete(self, names: Iterable[str], connection: Connection) -> None:
        """Forget folders; those that have no row are fine."""
        for part in _chunks(sorted(names)):
            connection.execute(delete(table).where(table.c.name.in_(part)))

    def seen(self, used: Mapping[str, float], connection: Connection) -> None:
        """Note the last use of folders by name, as they have it."""
        if used:
            statement = update(table).where(table.c.name == bindparam("folder"))
            rows = [{"folder": name, "at": at} for name, at in used.items()]
            connection.execute(statement.values(last_used=bindparam("at")), rows)


DOWNLOADS = (FolderState.DOWNLOADING, FolderState.STAGED, FolderState.FAILED)
Item = tuple[str, str, str]  # of a lease


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim has got: ``mine`` as the rows stood before it; ``others`` were not to be had."""

    lease: Held[Item]
    mine: dict[ScriptKey, CacheFolder] = field(default_factory=dict)
    others: dict[ScriptKey, CacheFolder] = field(default_factory=dict)


class Downloads:
    """The rows of downloads; a method is one transaction unless it is given a connection."""

    def __init__(
        self, database: Database, leases: Leases, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._leases = leases
        self._clock = clock
        self._folders = CacheFolders(database)

    def get(self, key: ScriptKey) -> CacheFolder | None:
        """The download of ``key``; None when there is nothing to say of it."""
        with self._database.read() as connection:
            return self._select([key], connection).get(key)

    def all(self) -> list[CacheFolder]:
        """Every download, the oldest first."""
        return self._folders.of(*DOWNLOADS)

    def is_free(self, key: ScriptKey) -> bool:
        """Whether nobody who lives works on it."""
        return self._leases.holder(DOWNLOAD, _item(key)) is None

    def claim(
        self, names: Mapping[ScriptKey, str], *, fresh: bool = True, staged: bool = False
    ) -> Claimed:
        """Take what is free; to be given back by `settle`, and with ``leases`` at the very end.

        ``fresh``: what is to be downloaded; its row has the name in ``names`` from now on, and the
        folder of its old name is the caller's to remove. ``staged``: what waits to be verified; it
        keeps its folder.
        """
        held: Held[Item] | None = None
        try:
            with self._database.write() as connection:
                held = self._leases.take(DOWNLOAD, map(_item, names), connection)
                return self._claim(names, held, connection, fresh=fresh, staged=staged)
        except BaseException:
            if held is not None:  # its commit may have come through, and the answer not
                self._leases.give_back(held)
            raise

    def _claim(
        self,
        names: Mapping[ScriptKey, str],
        held: Held[Item],
        connection: Connection,
        *,
        fresh: bool,
        staged: bool,
    ) -> Claimed:
        claimed = Claimed(held)
        found = self._select(names, connection)
        taken: list[CacheFolder] = []
        for key, name in names.items():
            row = found.get(key)
            if row is None:
                if not fresh:
                    continue
                row = CacheFolder(name, FolderState.DOWNLOADING, key)
            is_staged = row.state is FolderState.STAGED
            if not (staged if is_staged else fresh) or _item(key) not in held:
                claimed.others[key] = row
                continue
            claimed.mine[key] = row
            changed = replace(row, attempts=row.attempts + 1)
            if not is_staged:
                changed = replace(
                    changed, name=name, state=FolderState.DOWNLOADING, since=self._clock()
                )
            taken.append(changed)
        self._folders.delete([row.name for row in claimed.mine.values()], connection)
        self._folders.put(taken, connection)
        left = held.items.difference(map(_item, claimed.mine))
        self._leases.give_back_items(held, left, connection)
        return claimed

    def reserve(
        self, sizes: Mapping[ScriptKey, int], lease: Held[Item], connection: Connection
    ) -> set[ScriptKey]:
        """Note the bytes that may be written, in the transaction that made room for them.

        Returns those that are still held by this claim.
        """
        held = _still_held(connection, lease, sizes)
        rows = self._select(held, connection).items()
        self._folders.put([replace(row, size_bytes=sizes[key]) for key, row in rows], connection)
        return held

    def settle(
        self,
        endings: Mapping[ScriptKey, Mapping[str, Any] | None],
        lease: Held[Item],
        connection: Connection | None = None,
    ) -> set[ScriptKey]:
        """Write what became of claims and give them back: `staged`, `failed`, or None for done.

        Returns those that were written; the others are held by somebody else by now.
        """
        if connection is None:
            return self._database.retried(lambda opened: self.settle(endings, lease, opened))
        held = _still_held(connection, lease, endings)
        rows = self._select(held, connection)
        done = [row.name for key, row in rows.items() if endings[key] is None]
        self._folders.delete(done, connection)
        kept = [replace(row, **endings[key] or {}) for key, row in rows.items()]
        self._folders.put([row for row in kept if row.name not in set(done)], connection)
        self._leases.give_back_items(lease, map(_item, held), connection)
        return held

    def staged(self, files: Iterable[FileEntry], entry_point: str, source: str) -> dict[str, Any]:
        """The ending of a download whose bytes are all in its folder."""
        return {
            "state": FolderState.STAGED,
            "files": tuple(files),
            "entry_point": entry_point,
            "source": source,
            "error_type": "",
            "reason": "",
            "since": self._clock(),
        }

    def failed(self, error_type: str, reason: str) -> dict[str, Any]:
        """The ending of an attempt whose folder is gone again."""
        return {
            "state": FolderState.FAILED,
            "size_bytes": 0,
            "files": (),
            "error_type": error_type[:40],
            "reason": reason,
            "since": self._clock(),
        }

    def forget_abandoned(
        self, connection: Connection, *, staged_before: float, failed_before: float
    ) -> list[CacheFolder]:
        """Forget what nobody will come back to; the folders of what is returned are to be removed.

        That is what a dead process left behind, what was staged and not verified since
        ``staged_before``, and failures older than ``failed_before`` (Unix seconds).
        """
        before = {FolderState.STAGED: staged_before, FolderState.FAILED: failed_before}
        left = {
            row.key: row
            for row in self._folders.of(*DOWNLOADS, connection=connection)
            if row.state not in before or row.since < before[row.state]
        }
        held = self._leases.take(DOWNLOAD, map(_item, left), connection)
        gone = [row for key, row in left.items() if _item(key) in held]
        self._folders.delete([row.name for row in gone], connection)
        self._leases.give_back_items(held, held.items, connection)
        return gone

    def _select(
        self, keys: Iterable[ScriptKey], connection: Connection
    ) -> dict[ScriptKey, CacheFolder]:
        found: dict[ScriptKey, CacheFolder] = {}
        for part in _chunks(sorted(map(_item, keys))):
            query = select(table).where(tuple_(*KEY).in_(part), table.c.state.in_(DOWNLOADS))
            found.update((row.key, row) for row in map(_folder, connection.execute(query)))
        return found


class ProofRow(NamedTuple):
    """The stat of a file at its last hashing."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    checksum: str
    verified_at: float


class ProofRows:
    """Rows of ``proofs``; losing one costs a hashing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, path: str) -> ProofRow | None:
        with self._database.read() as connection:
            row = connection.execute(select(proofs).where(proofs.c.path == path)).one_or_none()
        return ProofRow(*row) if row is not None else None

    def put(self, row: ProofRow) -> None:
        self._database.put(proofs, [row._asdict()])

    def forget(self, before: float, after: float) -> None:
        """Remove those made at or before ``before``, or after ``after`` (Unix seconds)."""
        outdated = or_(proofs.c.verified_at <= before, proofs.c.verified_at > after)
        with self._database.write() as connection:
            connection.execute(delete(proofs).where(outdated))


def _is(state: FolderState) -> ColumnElement[bool]:
    return table.c.state == state


def _item(key: ScriptKey) -> Item:
    return (*key.ref, key.format)


def _still_held(
    connection: Connection, lease: Held[Item], keys: Iterable[ScriptKey]
) -> set[ScriptKey]:
    items = {_item(key): key for key in keys}
    return {items[item] for item in still_held(connection, lease, items)}


def _chunks(names: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(names), CHUNK):
        yield list(names[start : start + CHUNK])


def _values(row: CacheFolder) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state.value,
        "playbook_id": row.key.ref.playbook_id,
        "version": row.key.ref.version,
        "format": row.key.format[:32],
        "size_bytes": row.size_bytes,
        "since": row.since,
        "last_used": row.last_used,
        "source": row.source,
        "entry_point": row.entry_point,
        "files": json.dumps([file.as_row() for file in row.files]),
        "attempts": row.attempts,
        "error_type": row.error_type,
        "reason": row.reason,
    }


def _folder(row: Row[Any]) -> CacheFolder:
    return CacheFolder(
        row.name,
        FolderState(row.state),
        ScriptKey(Ref(row.playbook_id, row.version), row.format),
        row.size_bytes,
        row.since,
        row.last_used,
        row.source,
        row.entry_point,
        tuple(FileEntry(*item) for item in json.loads(row.files)),
        row.attempts,
        row.error_type,
        row.reason,
    )
