"""How far this home has read the server's changes, kept as facts of the home.

::

    changes_cursor      where the next pull goes on
    pulled_at           when a pull last came to the feed's end
    full_pass_at        when one last read it from its beginning
    full_pass_wanted    why the next one is to do so
    deletions_taken     [[when, how many] …] of the server's deletions that were carried out

Times are Unix seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, select, tuple_, update

from core.journal.database import Database, HomeFacts
from core.journal.tables import waiting_changes as table
from core.models import Ref

CURSOR = "changes_cursor"
PULLED_AT, FULL_AT, WANTED = "pulled_at", "full_pass_at", "full_pass_wanted"
TAKEN = "deletions_taken"
DAY_SECONDS = 86_400
STALE_SECONDS = DAY_SECONDS
REMEMBERED_SECONDS = 15.0


class PullState:
    """Reads and writes these facts."""

    def __init__(self, facts: HomeFacts) -> None:
        self._facts = facts
        self._read_at = float("-inf")
        self._read: int | None = None

    @property
    def cursor(self) -> str | None:
        return self._facts.get(CURSOR)

    def keep_cursor(self, cursor: str) -> None:
        self._facts.set(CURSOR, cursor)

    def full_pass_due(self, now: float) -> bool:
        """Whether the next pull is to begin at the beginning: daily, and when something asks."""
        at = _number(self._facts.get(FULL_AT))
        old = at is None or not 0 <= now - at < DAY_SECONDS  # a clock that was set back, too
        return old or self.cursor is None or self._facts.get(WANTED) is not None

    def want_full_pass(self, why: str) -> None:
        """Have the next pull read everything again."""
        self._facts.set(WANTED, why)

    def completed(self, now: float, *, full: bool) -> None:
        """A pull came to the end of the feed."""
        self._facts.set(PULLED_AT, str(int(now)))
        self._read, self._read_at = int(now), time.monotonic()
        if full:
            self._facts.set(FULL_AT, str(int(now)))
            self._facts.remove(WANTED)

    # -- how old what is known is -----------------------------------------------------------
    def last_complete(self) -> int | None:
        """When a pull last came to the end; None before the first. Read every 15 s at most."""
        now = time.monotonic()
        if now - self._read_at >= REMEMBERED_SECONDS:
            self._read, self._read_at = _number(self._facts.get(PULLED_AT)), now
        return self._read

    def is_stale(self, now: float) -> bool:
        """Whether the last complete pull is older than 24 h; a home that never pulled is not."""
        at = self.last_complete()
        return at is not None and abs(now - at) > STALE_SECONDS  # a clock that was set back, too

    # -- deletions --------------------------------------------------------------------------
    def deletions_taken(self, now: float) -> int:
        """How many of the server's deletions were carried out within the last 24 h."""
        return sum(count for _, count in self._recent(now))

    def note_deletions(self, now: float, count: int) -> None:
        self._facts.set(TAKEN, json.dumps([*self._recent(now), [int(now), count]]))

    def _recent(self, now: float) -> list[list[int]]:
        entries = json.loads(self._facts.get(TAKEN) or "[]")
        return [[at, count] for at, count in entries if abs(now - at) < DAY_SECONDS]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


# Changes of the server that were not taken in: the cursor goes on, their names stay here.
#
# ::
#
#     failed     it can't be read, or can't stand here; tried again by the next full pass, or when
#                its revision changes
#     deletion   a deletion that is not carried out yet; ``held``: one of too many at once, it waits
#                for the user
#
# Kept by name and revision, never by their bytes: whoever writes the feed must not fill this disk.

FAILED, DELETION = "failed", "deletion"
MAX_FAILED = 1000  # rows; of what failed beyond that, a sync's report gives the number
MAX_REASON_CHARS = 300
KEY = (table.c.playbook_id, table.c.version)
CHUNK = 400  # names in one IN (…)
Name = tuple[str, str]  # (playbook_id, version) as the server wrote them, cut to the columns


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """One change and why it waits; times are Unix seconds, ``digest`` is the server's."""

    name: Name
    kind: str
    reason: str
    noted_at: int
    revision: int | None = None
    digest: str | None = None
    updated_at: int = 0
    held: bool = False

    @property
    def ref(self) -> Ref:
        return Ref(*self.name)


class WaitingChanges:
    """Rows of ``waiting_changes``; a version has one at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: set[Ref] = set()
        self._read_at = float("-inf")

    def put(self, items: Sequence[WaitingChange]) -> int:
        """Keep these, each in place of an older one of its version; how many found no room."""
        if not items:
            return 0
        left_out = 0
        with self._database.write() as connection:
            known = {
                tuple(row)
                for part in _chunks([item.name for item in items])
                for row in connection.execute(select(*KEY).where(tuple_(*KEY).in_(part)))
            }
            count = select(func.count()).where(table.c.kind == FAILED)
            room = MAX_FAILED - (connection.scalar(count) or 0)
            for item in items:  # one by one: a page may name a version twice
                if item.kind == FAILED and item.name not in known:
                    if room <= 0:
                        left_out += 1
                        continue
                    room -= 1
                    known.add(item.name)
                row = _row(item)
                connection.execute(
                    self._database.upsert(table, ("playbook_id", "version"), [row]), [row]
                )
        return left_out

    def get_many(self, names: Sequence[Name]) -> dict[Name, WaitingChange]:
        found: dict[Name, WaitingChange] = {}
        with self._database.read() as connection:
            for part in _chunks(names):
                query = select(table).where(tuple_(*KEY).in_(part))
                found |= {item.name: item for item in map(_item, connection.execute(query))}
        return found

    def failed(self) -> list[WaitingChange]:
        """What could not be taken in, by name."""
        return self._select(table.c.kind == FAILED)

    def deletions(self) -> list[WaitingChange]:
        """Deletions that are not carried out yet, by name."""
        return self._select(table.c.kind == DELETION)

    def counts(self) -> dict[str, int]:
        """How many there are of each: ``failed``, ``deletions`` (those that wait for the user)."""
        failed = func.sum(_one_if(table.c.kind == FAILED))
        held = func.sum(_one_if(table.c.held.is_(True)))
        with self._database.read() as connection:
            row = connection.execute(select(failed, held)).one()
        return {"failed": int(row[0] or 0), "deletions": int(row[1] or 0)}

    def is_held(self, ref: Ref) -> bool:
        """Whether a deletion of this version waits for the user's word; as of 15 s ago at most."""
        if time.monotonic() - self._read_at >= REMEMBERED_SECONDS:
            self._held = {item.ref for item in self._select(table.c.held.is_(True))}
            self._read_at = time.monotonic()
        return ref in self._held

    def hold(self, names: Sequence[Name], *, held: bool = True) -> None:
        """These deletions wait for the user, or (not ``held``) do no more."""
        self._read_at = float("-inf")
        with self._database.write() as connection:
            for part in _chunks(names):
                connection.execute(update(table).where(tuple_(*KEY).in_(part)).values(held=held))

    def forget(self, names: Collection[Name]) -> None:
        """They were taken in, or the server has gone on."""
        if not names:
            return
        self._read_at = float("-inf")
        with self._database.write() as connection:
            for part in _chunks(list(names)):
                connection.execute(delete(table).where(tuple_(*KEY).in_(part)))

    def _select(self, where: ColumnElement[bool]) -> list[WaitingChange]:
        with self._database.read() as connection:
            return [
                _item(row) for row in connection.execute(select(table).where(where).order_by(*KEY))
            ]


def _one_if(condition: ColumnElement[bool]) -> Any:
    return case((condition, 1), else_=0)


def _chunks(names: Sequence[Name]) -> list[list[Name]]:
    return [list(names[start : start + CHUNK]) for start in range(0, len(names), CHUNK)]


def _row(item: WaitingChange) -> dict[str, Any]:
    return {
        "playbook_id": item.name[0],
        "version": item.name[1],
        "kind": item.kind,
        "revision": item.revision,
        "content_digest": item.digest,
        "updated_at": item.updated_at,
        "reason": item.reason[:MAX_REASON_CHARS],
        "held": item.held,
        "noted_at": item.noted_at,
    }


def _item(row: Any) -> WaitingChange:
    return WaitingChange(
        (row.playbook_id, row.version),
        row.kind,
        row.reason,
        row.noted_at,
        row.revision,
        row.content_digest,
        row.updated_at,
        bool(row.held),
    )
