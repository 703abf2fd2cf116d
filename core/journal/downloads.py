"""Who fetches a format folder now, what is staged, and how the last try ended.

One row a format folder, while there is something to say of it::

    (none) ──claim──► running ──staged──► staged ──done──► (none: it is in the cache)
                         │  ▲                │
                       failed ◄──────────────┘
                            └─claim

A claim is a lease with a fencing token, as those of `core.journal.leases`. It belongs to one
attempt: its ``owner`` is `this_process` with ``#<hex>`` behind it, and what an attempt writes
counts only while it is the owner. ``staged`` names the attempt's folder from the claim on, so that
no folder in ``cache/staging`` is ever unknown. ``fence`` grows with each claim until the row goes,
so it tells how often it was tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, select, tuple_, update

from core.journal.database import Database
from core.journal.leases import DEFAULT_SECONDS, is_dead
from core.journal.schema_scripts import downloads as table
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
    owner: str | None
    until: float | None
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

    mine: dict[DownloadKey, DownloadRow] = field(default_factory=dict)
    others: dict[DownloadKey, DownloadRow] = field(default_factory=dict)


class Downloads:
    """Rows of ``downloads``; a method is one transaction unless it is given a connection."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
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

    def is_free(self, row: DownloadRow, seconds: float = DEFAULT_SECONDS) -> bool:
        """Whether nobody works on it: given back, run out, or its process died on this host."""
        if row.owner is None or row.until is None:
            return True
        now = self._clock()
        # one that ends unbelievably late is of a clock that was wrong
        return not now < row.until <= now + 2 * seconds or is_dead(row.owner)

    # -- claiming ---------------------------------------------------------------------------
    def claim(
        self,
        names: Mapping[DownloadKey, str],
        owner: str,
        *,
        fresh: bool = True,
        staged: bool = False,
        seconds: float = DEFAULT_SECONDS,
    ) -> Claimed:
        """Take what is free, for ``seconds``.

        ``fresh``: what is to be downloaded; its row names the folder in ``names`` from now on, and
        the folder it named before is the caller's to remove. ``staged``: what waits to be
        verified; it keeps its folder.
        """
        claimed = Claimed()
        until = self._clock() + seconds
        with self._database.write() as connection:
            if fresh and names:
                # the row must be there to be locked: two hosts may claim it at once
                idle = {"fence": 0, "state": DownloadState.RUNNING.value, "reserved_bytes": 0}
                rows = [{**key._asdict(), **idle} for key in sorted(names)]
                connection.execute(self._database.insert_ignore(table), rows)
            changes = []
            for row in _select(connection, list(names), lock=True):
                is_staged = row.state is DownloadState.STAGED
                if (staged if is_staged else fresh) and self.is_free(row, seconds):
                    claimed.mine[row.key] = row
                    folder = row.staged if is_staged else names[row.key]
                    state = row.state if is_staged else DownloadState.RUNNING
                    changes.append({
                        **_bound(row.key),
                        "owner": owner, "until": until, "fence": row.fence + 1,
                        "state": state.value, "staged": folder,
                    })  # fmt: skip
                else:
                    claimed.others[row.key] = row
            _change(connection, changes)
        return claimed

    def claim_abandoned(
        self, owner: str, *, staged_before: float, failed_before: float
    ) -> list[DownloadRow]:
        """Take what nobody will come back to, for the caller to remove its folder, and to `settle` as done.

        That is what a dead process left behind, what was staged and not verified since
        ``staged_before``, and failures older than ``failed_before`` (Unix seconds).
        """
        before = {DownloadState.STAGED: staged_before, DownloadState.FAILED: failed_before}
        until = self._clock() + DEFAULT_SECONDS
        with self._database.write() as connection:
            rows = connection.execute(select(table).order_by(*KEY).with_for_update())
            taken = [
                row
                for row in map(_record, rows)
                if (row.state not in before or (row.ended_at or 0) < before[row.state])
                and self.is_free(row)
            ]
            changes = [
                {**_bound(row.key), "owner": owner, "until": until, "fence": row.fence + 1}
                for row in taken
            ]
            _change(connection, changes)
        return taken

    def renew(
        self, keys: Sequence[DownloadKey], owner: str, seconds: float = DEFAULT_SECONDS
    ) -> set[DownloadKey]:
        """Hold on for ``seconds`` from now; those that are still the owner's."""
        until = self._clock() + seconds
        with self._database.write() as connection:
            held = _held(connection, keys, owner)
            _change(connection, [{**_bound(key), "until": until} for key in held])
        return held

    # -- what came of it --------------------------------------------------------------------
    def reserve(
        self, sizes: Mapping[DownloadKey, int], owner: str, connection: Connection
    ) -> set[DownloadKey]:
        """Note the bytes that may be written, in the transaction that made room for them."""
        held = _held(connection, list(sizes), owner)
        _change(connection, [{**_bound(key), "reserved_bytes": sizes[key]} for key in held])
        return held

    def settle(
        self,
        endings: Mapping[DownloadKey, Mapping[str, Any] | None],
        owner: str,
        connection: Connection | None = None,
    ) -> set[DownloadKey]:
        """Write what became of claims and give them back: `staged`, `failed`, or None for done.

        Returns those that were written; the others are not the owner's any more.
        """
        if connection is None:
            with self._database.write() as opened:
                return self.settle(endings, owner, opened)
        held = _held(connection, list(endings), owner)
        done = [key for key in held if endings[key] is None]
        # one statement for each shape: all rows of an executemany name the same columns
        shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for key in held.difference(done):
            row = {**_bound(key), "owner": None, "until": None, **(endings[key] or {})}
            shapes.setdefault(tuple(sorted(row)), []).append(row)
        for rows in shapes.values():
            _change(connection, rows)
        _delete(connection, done, owner)
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


def _held(connection: Connection, keys: Sequence[DownloadKey], owner: str) -> set[DownloadKey]:
    held: set[DownloadKey] = set()
    for part in _chunks(keys):
        mine = tuple_(*KEY).in_(part), table.c.owner == owner
        rows = connection.execute(select(*KEY).where(*mine).order_by(*KEY).with_for_update())
        held.update(DownloadKey(*row) for row in rows)
    return held


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


def _delete(connection: Connection, keys: Sequence[DownloadKey], owner: str) -> None:
    for part in _chunks(keys):
        connection.execute(delete(table).where(tuple_(*KEY).in_(part), table.c.owner == owner))


def _bound(key: DownloadKey) -> dict[str, Any]:
    return {f"key_{name}": value for name, value in key._asdict().items()}


def _record(row: Row[Any]) -> DownloadRow:
    files = json.loads(row.files) if row.files else []
    return DownloadRow(
        key=DownloadKey(row.playbook_id, row.version, row.format),
        owner=row.owner,
        until=row.until,
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
