"""Who fetches a format folder now, what is staged, and how the last try ended.

One row a format folder, while there is something to say of it::

    (none) ──claim──► running ──staged──► staged ──done──► (none: it is in the cache)
                         │  ▲                │
                       failed ◄──────────────┘
                            └─claim

A claim is a lease (`core.journal.leases`) of one attempt, and what an attempt writes counts only
while it holds it. ``staged`` names the attempt's folder from the claim on, so that no folder in
``cache/staging`` is ever unknown. ``fence`` grows with each claim until the row goes, so it tells
how often it was tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, select, tuple_, update

from core.journal.database import Database
from core.journal.leases import DOWNLOAD, Held, Leases, still_held
from core.journal.tables import downloads as table
from core.models import FileEntry

KEY = (table.c.playbook_id, table.c.version, table.c.format)
CHUNK = 400  # keys in one IN (…)


class DownloadKey(NamedTuple):
    """One format of one version, as the table's key has it."""

    playbook_id: str
    version: str
    format: str


class DownloadState(StrEnum):
    RUNNING = "running"
    STAGED = "staged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """A row of ``downloads``; times in Unix seconds, ``files`` empty until they are staged."""

    key: DownloadKey
    fence: int
    state: DownloadState
    reserved_bytes: int
    staged: str | None
    files: tuple[FileEntry, ...]
    entry_point: str | None
    source: str | None
    error_type: str | None
    error: str | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """``mine`` as the rows stood before the claim; ``others`` were not to be had."""

    lease: Held[DownloadKey]
    mine: dict[DownloadKey, DownloadRow] = field(default_factory=dict)
    others: dict[DownloadKey, DownloadRow] = field(default_factory=dict)


class Downloads:
    """Rows of ``downloads``; a method is one transaction unless it is given a connection."""

    def __init__(
        self, database: Database, leases: Leases, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._leases = leases
        self._clock = clock

    # -- reading ----------------------------------------------------------------------------
    def get(self, key: DownloadKey) -> DownloadRow | None:
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[DownloadKey]) -> dict[DownloadKey, DownloadRow]:
        with self._database.read() as connection:
            return {row.key: row for row in _select(connection, keys)}

    def all(self) -> list[DownloadRow]:
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(select(table).order_by(*KEY))]

    def is_free(self, row: DownloadRow) -> bool:
        """Whether nobody who lives works on it."""
        return self._leases.holder(DOWNLOAD, row.key) is None

    # -- claiming ---------------------------------------------------------------------------
    def claim(
        self,
        names: Mapping[DownloadKey, str],
        *,
        fresh: bool = True,
        staged: bool = False,
    ) -> Claimed:
        """Take what is free; to be given back by `settle`, and with ``leases`` at the very end.

        ``fresh``: what is to be downloaded; its row names the folder in ``names`` from now on, and
        the folder it named before is the caller's to remove. ``staged``: what waits to be
        verified; it keeps its folder.
        """
        held: Held[DownloadKey] | None = None
        try:
            with self._database.write() as connection:
                held = self._leases.take(DOWNLOAD, names, connection)
                return self._claim(names, held, connection, fresh=fresh, staged=staged)
        except BaseException:
            if held is not None:  # its commit may have come through, and the answer not
                self._leases.give_back(held)
            raise

    def _claim(
        self,
        names: Mapping[DownloadKey, str],
        held: Held[DownloadKey],
        connection: Connection,
        *,
        fresh: bool,
        staged: bool,
    ) -> Claimed:
        claimed = Claimed(held)
        if fresh and names:
            idle = {"fence": 0, "state": DownloadState.RUNNING.value, "reserved_bytes": 0}
            rows = [{**key._asdict(), **idle} for key in sorted(names)]
            connection.execute(self._database.insert_ignore(table), rows)
        changes = []
        for row in _select(connection, list(names), lock=True):
            is_staged = row.state is DownloadState.STAGED
            if (staged if is_staged else fresh) and row.key in held:
                claimed.mine[row.key] = row
                folder = row.staged if is_staged else names[row.key]
                state = row.state if is_staged else DownloadState.RUNNING
                changes.append({
                    **_bound(row.key),
                    "fence": row.fence + 1, "state": state.value, "staged": folder,
                })  # fmt: skip
            else:
                claimed.others[row.key] = row
        _change(connection, changes)
        self._leases.give_back_items(held, held.items.difference(claimed.mine), connection)
        return claimed

    @contextmanager
    def abandoned(
        self, *, staged_before: float, failed_before: float
    ) -> Iterator[tuple[Held[DownloadKey], list[DownloadRow]]]:
        """Hold what nobody will come back to, for the block to remove its folder and `settle` it.

        That is what a dead process left behind, what was staged and not verified since
        ``staged_before``, and failures older than ``failed_before`` (Unix seconds).
        """
        before = {DownloadState.STAGED: staged_before, DownloadState.FAILED: failed_before}

        def is_left(row: DownloadRow) -> bool:
            return row.state not in before or (row.ended_at or 0) < before[row.state]

        with self._leases.holding(DOWNLOAD, [r.key for r in self.all() if is_left(r)]) as held:
            # read again: now nobody else writes them
            rows = [row for row in self.get_many(sorted(held.items)).values() if is_left(row)]
            yield held, rows

    # -- what came of it --------------------------------------------------------------------
    def reserve(
        self,
        sizes: Mapping[DownloadKey, int],
        lease: Held[DownloadKey],
        connection: Connection,
    ) -> set[DownloadKey]:
        """Note the bytes that may be written, in the transaction that made room for them."""
        held = still_held(connection, lease, sizes)
        _change(connection, [{**_bound(key), "reserved_bytes": sizes[key]} for key in sorted(held)])
        return held

    def settle(
        self,
        endings: Mapping[DownloadKey, Mapping[str, Any] | None],
        lease: Held[DownloadKey],
        connection: Connection | None = None,
    ) -> set[DownloadKey]:
        """Write what became of claims and give them back: `staged`, `failed`, or None for done.

        Returns those that were written; the others are held by somebody else by now.
        """
        if connection is None:
            return self._database.retried(lambda opened: self.settle(endings, lease, opened))
        held = still_held(connection, lease, endings)
        done = sorted(key for key in held if endings[key] is None)
        # one statement for each shape: all rows of an executemany name the same columns
        shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for key in sorted(held.difference(done)):
            row = {**_bound(key), **(endings[key] or {})}
            if len(row) > len(KEY):
                shapes.setdefault(tuple(sorted(row)), []).append(row)
        for rows in shapes.values():
            _change(connection, rows)
        for part in _chunks(done):
            connection.execute(delete(table).where(tuple_(*KEY).in_(part)))
        self._leases.give_back_items(lease, held, connection)
        return held

    def staged(self, files: Iterable[FileEntry], entry_point: str, source: str) -> dict[str, Any]:
        """The ending of a download whose bytes are all in its folder."""
        listed = [[file.path, file.size_bytes, file.checksum] for file in files]
        return {
            "state": DownloadState.STAGED.value,
            "files": json.dumps(listed),
            "entry_point": entry_point,
            "source": source,
            "error_type": None,
            "error": None,
            "ended_at": self._clock(),
        }

    def failed(self, error_type: str, error: str) -> dict[str, Any]:
        """The ending of an attempt whose folder is gone again."""
        return {
            "state": DownloadState.FAILED.value,
            "reserved_bytes": 0,
            "staged": None,
            "files": None,
            "error_type": error_type[:40],
            "error": error,
            "ended_at": self._clock(),
        }


def _select(
    connection: Connection, keys: Sequence[DownloadKey], *, lock: bool = False
) -> Iterator[DownloadRow]:
    for part in _chunks(keys):
        query = select(table).where(tuple_(*KEY).in_(part)).order_by(*KEY)
        rows = connection.execute(query.with_for_update() if lock else query).all()
        yield from map(_record, rows)


def _chunks(keys: Sequence[DownloadKey]) -> Iterator[list[tuple[str, ...]]]:
    wanted = sorted(keys)  # locked in one order, so that two claims never wait for each other
    for start in range(0, len(wanted), CHUNK):
        yield [tuple(key) for key in wanted[start : start + CHUNK]]


def _change(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Update rows by key in one statement; all of them name the same columns."""
    if not rows:
        return
    matches = [column == bindparam(f"key_{column.name}") for column in KEY]
    connection.execute(update(table).where(*matches), rows)


def _bound(key: DownloadKey) -> dict[str, Any]:
    return {f"key_{name}": value for name, value in key._asdict().items()}


def _record(row: Row[Any]) -> DownloadRow:
    files = json.loads(row.files) if row.files else []
    return DownloadRow(
        key=DownloadKey(row.playbook_id, row.version, row.format),
        fence=row.fence,
        state=DownloadState(row.state),
        reserved_bytes=row.reserved_bytes,
        staged=row.staged,
        files=tuple(FileEntry(*item) for item in files),
        entry_point=row.entry_point,
        source=row.source,
        error_type=row.error_type,
        error=row.error,
        ended_at=row.ended_at,
    )
