"""How far the server's changes were read, and which of them wait.

As facts of the home, in Unix seconds::

    changes_cursor      where the next pull goes on
    pulled_at           when a pull last came to the feed's end
    full_pass_at        when one last read it from its beginning
    full_pass_wanted    why the next one is to do so
    deletions_taken     [[when, how many] …] of the server's deletions that were carried out

A change that is not taken in leaves the cursor to go on, and its name in ``waiting_changes``::

    failed       it can't be read, or can't stand here; tried again by the next full pass, or when its
                 revision changes
    deletion     a deletion that is not carried out yet; ``held``: one of too many at once, it waits
                 for the user

Changes wait by name and revision, never by their bytes: whoever writes the feed must not fill this
disk.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Delete, Update, case, delete, func, select, update

from core.journal.database import Database
from core.journal.facts import HomeFacts
from core.journal.rows import Rows, among, chunks, key
from core.journal.tables import waiting_changes as table
from core.models import Ref

CURSOR = "changes_cursor"
PULLED_AT, FULL_AT, WANTED = "pulled_at", "full_pass_at", "full_pass_wanted"
TAKEN = "deletions_taken"
DAY_SECONDS = 86_400
STALE_SECONDS = DAY_SECONDS
STALE = (
    "What the server says was last read to its end more than 24 h ago: approvals, rejections and"
    " deletions since then are not known here."
)
FAILED, DELETION = "failed", "deletion"
MAX_FAILED = 1000  # rows; of what failed beyond that, a sync's report gives the number
MAX_REASON_CHARS = 300
REMEMBERED_SECONDS = 15.0
Name = tuple[str, str]  # (playbook_id, version) as the server wrote them, cut to the columns


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """One change and why it waits; times are Unix seconds, the digest is the server's."""

    name: Name
    kind: str
    reason: str
    noted_at: int
    revision: int | None = None
    content_digest: str | None = None
    updated_at: int = 0
    held: bool = False

    @property
    def ref(self) -> Ref:
        return Ref(*self.name)


_WAITING = Rows(table, WaitingChange, Ref)


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
                for part in chunks([item.name for item in items])
                for row in connection.execute(select(*key(table)).where(among(table, part)))
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
                row = {**_WAITING.values(item), "reason": item.reason[:MAX_REASON_CHARS]}
                self._database.put(table, [row], connection)
        return left_out

    def get_many(self, names: Sequence[Name]) -> dict[Name, WaitingChange]:
        found: list[WaitingChange] = []
        with self._database.read() as connection:
            for part in chunks(names):
                query = _WAITING.select(among(table, part))
                found += _WAITING.records(connection.execute(query))
        return {item.name: item for item in found}

    def failed(self) -> list[WaitingChange]:
        """What could not be taken in, by name."""
        return self._select(table.c.kind == FAILED)

    def deletions(self) -> list[WaitingChange]:
        """Deletions that are not carried out yet, by name."""
        return self._select(table.c.kind == DELETION)

    def counts(self) -> dict[str, int]:
        """How many there are of each: ``failed``, ``deletions`` (those that wait for the user)."""
        failed = func.sum(case((table.c.kind == FAILED, 1), else_=0))
        held = func.sum(case((table.c.held.is_(True), 1), else_=0))
        [row] = self._database.rows(select(failed, held))
        return {"failed": int(row[0] or 0), "deletions": int(row[1] or 0)}

    def is_held(self, ref: Ref) -> bool:
        """Whether a deletion of this version waits for the user's word; as of 15 s ago at most."""
        if time.monotonic() - self._read_at >= REMEMBERED_SECONDS:
            self._held = {item.ref for item in self._select(table.c.held.is_(True))}
            self._read_at = time.monotonic()
        return ref in self._held

    def hold(self, names: Sequence[Name], *, held: bool = True) -> None:
        """These deletions wait for the user, or (not ``held``) do no more."""
        self._change(update(table).values(held=held), names)

    def forget(self, names: Collection[Name]) -> None:
        """They were taken in, or the server has gone on."""
        if names:
            self._change(delete(table), list(names))

    def _change(self, statement: Update | Delete, names: Sequence[Name]) -> None:
        self._read_at = float("-inf")
        with self._database.write() as connection:
            for part in chunks(names):
                connection.execute(statement.where(among(table, part)))

    def _select(self, where: ColumnElement[bool]) -> list[WaitingChange]:
        query = _WAITING.select(where).order_by(*key(table))
        return _WAITING.records(self._database.rows(query))


class PullState:
    """How far this home has read the server's changes, as facts of the home."""

    def __init__(self, facts: HomeFacts, waiting: WaitingChanges) -> None:
        self._facts = facts
        self._waiting = waiting
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
        self._facts.set(WANTED, f"{why} ({uuid.uuid4().hex})")  # each is another one

    def wanted(self) -> str | None:
        """What asks for a full pass; to be read before one, for `completed`."""
        return self._facts.get(WANTED)

    def completed(self, now: float, *, full: bool, wanted: str | None = None) -> None:
        """Write down that a pull came to the end of the feed.

        ``wanted``: what `wanted` said when it began. What was asked for since then, by whoever
        found something that this pass had read over already, goes on being asked for.
        """
        self._facts.set(PULLED_AT, str(int(now)))
        self._read, self._read_at = int(now), time.monotonic()
        if full:
            self._facts.set(FULL_AT, str(int(now)))
            if wanted is not None:
                self._facts.remove(WANTED, wanted)

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

    def warnings(self, ref: Ref) -> list[str]:
        """What an answer about a version says of the last pulls; read anew every 15 s at most."""
        warnings = []
        if self._waiting.is_held(ref):
            warnings.append(
                f"{ref} was deleted on the server, with many others: it is here until somebody"
                " accepts that (`escher-playbooks sync --accept-deletions`)."
            )
        if self.is_stale(time.time()):
            warnings.append(STALE)
        return warnings

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
