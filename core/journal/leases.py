"""One lease for whatever only one task of all processes may do at a time.

::

    name                              who takes it
    version:<id>:<version>            a step of publishing, a pull, a command that changes it
    download:<id>:<version>:<format>  an attempt at bringing a script into the cache
    job:<job id>                      the task that is a whole job: a sign of life, it keeps nobody off
    worker:<owner id>                 a worker while it runs: a sign of life, too
    sync                              the one sync of a home

A row is there while the lease is held: ``owner`` is the process (`core.processes.Owner`), ``token``
the one taking of it, so that two threads of a process are two. It ends when it is given back or its
owner is dead, never by a clock; what could not be given back, as the journal was away, is given
back with a later heartbeat.

The token fences, too: whoever lost its lease (its machine slept, and it was taken for dead) finds
that the token is no longer the row's, and its write does nothing (`still_held`, in the transaction
that writes: there is one writer at a time, see `core.journal.database`).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy import Connection, delete, func, select, update

from core.errors import EscherError
from core.journal.database import Database
from core.journal.heartbeats import Heartbeats
from core.journal.records import JobState
from core.journal.tables import jobs
from core.journal.tables import leases as table
from core.models import Ref
from core.processes import Deaths, Owner, this_process

VERSION, DOWNLOAD, JOB, WORKER, SYNC = "version", "download", "job", "worker", "sync"
CHUNK = 400  # names in one IN (…)

T = TypeVar("T", bound=tuple[str, ...])
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What one taking has got: of ``kind``, these ``items``."""

    kind: str
    token: str
    items: frozenset[T] = field(default_factory=frozenset)

    def __contains__(self, item: object) -> bool:
        return item in self.items

    def __bool__(self) -> bool:
        return bool(self.items)


class Leases:
    """Rows of ``leases``; ``me`` is who takes them, for tests of several processes in one."""

    def __init__(
        self,
        database: Database,
        heartbeats: Heartbeats | None = None,
        deaths: Deaths | None = None,
        *,
        me: Callable[[], Owner] = this_process,
    ) -> None:
        self._database = database
        self._me = me
        self._heartbeats = heartbeats or Heartbeats(database, owner_id=lambda: me().id)
        self._deaths = deaths or Deaths(one_kernel=database.is_sqlite)
        self._lock = threading.Lock()
        self._owed: set[str] = set()  # tokens that could not be given back yet

    # -- taking -----------------------------------------------------------------------------
    def take(self, kind: str, items: Iterable[T], connection: Connection | None = None) -> Held[T]:
        """Take what is free; without those that are held, be it by another task of this process.

        In the transaction of ``connection`` when one is given.
        """
        wanted = {_name(kind, item): item for item in items}
        token = secrets.token_hex(16)
        if not wanted:
            return Held(kind, token)
        self._database.opened.check()
        self._heartbeats.start(self._at_each_beat)
        if connection is None:
            self._give_back_owed()
        dead = set(self._dead())
        if connection is not None:
            mine = self._take(sorted(wanted), token, dead, connection)
        else:
            try:
                mine = self._database.retried(
                    lambda opened: self._take(sorted(wanted), token, dead, opened)
                )
            except EscherError:  # it may have been written all the same
                self._owe(token)
                raise
        return Held(kind, token, frozenset(wanted[name] for name in mine))

    def _take(
        self, names: Sequence[str], token: str, dead: set[str], connection: Connection
    ) -> set[str]:
        owner = str(self._me())
        mine: set[str] = set()
        for part in _chunks(names):
            query = select(table).where(table.c.name.in_(part)).order_by(table.c.name)
            found = {row.name: row.owner for row in connection.execute(query)}
            left = [name for name, holder in found.items() if holder in dead]
            if left:
                changed = update(table).where(table.c.name.in_(left))
                connection.execute(changed.values(owner=owner, token=token))
            new = [{"name": n, "owner": owner, "token": token} for n in part if n not in found]
            if new:
                connection.execute(self._database.insert_ignore(table), new)
            got = select(table.c.name).where(table.c.name.in_(part), table.c.token == token)
            mine.update(connection.scalars(got))
        return mine

    @contextmanager
    def holding(self, kind: str, items: Iterable[T]) -> Iterator[Held[T]]:
        """`take` for as long as the block works; given back however it ends."""
        held = self.take(kind, items)
        try:
            yield held
        finally:
            self.give_back(held)

    # -- giving back ------------------------------------------------------------------------
    def give_back(self, held: Held[T]) -> None:
        """Give all of it back; what another took over since is left alone.

        Never raises for the journal's sake: what did not go is tried with each heartbeat.
        """
        if not held:
            return
        try:
            self._database.retried(lambda connection: _drop(connection, [held.token]))
        except EscherError as error:
            log.warning("%d leases are given back later: %s", len(held.items), error.detail)
            self._owe(held.token)

    def give_back_items(self, held: Held[T], items: Iterable[T], connection: Connection) -> None:
        """Give some of it back in the transaction that writes what came of them."""
        names = sorted(_name(held.kind, item) for item in items)
        for part in _chunks(names):
            mine = table.c.name.in_(part), table.c.token == held.token
            connection.execute(delete(table).where(*mine))

    def give_back_unless_asked(self, held: Held[T], kind: str) -> bool:
        """Give back unless a job of ``kind`` was asked for meanwhile; whether it was given back.

        One transaction: whoever makes a job after it finds the lease free, whoever made one before
        it is seen here.
        """
        asked = select(func.count()).where(
            jobs.c.kind == kind, jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])
        )

        def unless_asked(connection: Connection) -> bool:
            if connection.scalar(asked):
                return False
            _drop(connection, [held.token])
            return True

        return self._database.retried(unless_asked)

    def _owe(self, token: str) -> None:
        with self._lock:
            self._owed.add(token)

    def _give_back_owed(self) -> None:
        with self._lock:
            owed = list(self._owed)
        if owed:
            with suppress(EscherError):
                self._database.retried(lambda connection: _drop(connection, owed))
                with self._lock:
                    self._owed.difference_update(owed)

    def _at_each_beat(self) -> None:
        self._give_back_owed()
        self._dead()  # one look more at who stands still

    # -- looking ----------------------------------------------------------------------------
    def holder(self, kind: str, item: Sequence[str] = ()) -> Owner | None:
        """Who holds a lease now; None when nobody who lives does."""
        query = select(table.c.owner).where(table.c.name == _name(kind, item))
        with self._database.read() as connection:
            text = connection.scalar(query)
        return None if text is None or text in self._dead() else _owner(text)

    def free(self, kind: str, items: Iterable[T]) -> set[T]:
        """Those that nobody who lives holds."""
        wanted = {_name(kind, item): item for item in items}
        taken: dict[str, str] = {}
        with self._database.read() as connection:
            for part in _chunks(sorted(wanted)):
                query = select(table.c.name, table.c.owner).where(table.c.name.in_(part))
                taken |= {row[0]: row[1] for row in connection.execute(query)}
        free = {None, *(self._dead() if taken else ())}
        return {item for name, item in wanted.items() if taken.get(name) in free}

    def held_by_the_dead(self) -> dict[str, list[tuple[str, ...]]]:
        """What dead processes hold, by owner: ``(kind, *item)`` of each, for a survivor to go on with.

        Whoever wants it can take it. It is told again until `end_those_of`.
        """
        dead = self._dead()
        held = self._held() if dead else {}
        return {owner: items for owner, items in held.items() if owner in dead}

    def held_by_the_living(self) -> list[tuple[str, ...]]:
        """``(kind, *item)`` of all that is held by processes which are not seen dead."""
        dead = self._dead()
        held = self._held().items()
        return [item for owner, items in held if owner not in dead for item in items]

    def _held(self) -> dict[str, list[tuple[str, ...]]]:
        held: dict[str, list[tuple[str, ...]]] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(table).order_by(table.c.name)):
                held.setdefault(row.owner, []).append(tuple(row.name.split(":")))
        return held

    def end_those_of(self, dead: Iterable[str]) -> None:
        """Drop what these owners, seen dead, still hold: their work has been gone on with."""
        owners = sorted(dead)
        if owners:
            statement = delete(table).where(table.c.owner.in_(owners))
            self._database.retried(lambda connection: connection.execute(statement))
            self._heartbeats.forget(_owner(text).id for text in owners)

    def has_dead_owners(self) -> bool:
        """Whether a dead process holds something that nobody has taken over."""
        return bool(self._dead())

    def _dead(self) -> dict[str, Owner]:
        """The dead among those who hold anything, by what their rows say."""
        with self._database.read() as connection:
            texts = connection.scalars(select(table.c.owner).distinct()).all()
        mine = str(self._me())
        owners = {text: _owner(text) for text in texts if text != mine}
        if not owners:
            return {}
        dead = self._deaths.among(owners.values(), self._heartbeats.counters)
        return {text: owner for text, owner in owners.items() if owner in dead}

    def close(self) -> None:
        """Stop the heartbeat. What is still held is free for everybody once this process ends."""
        if self._database.opened.is_so:
            self._give_back_owed()
        self._heartbeats.close()


def still_held(connection: Connection, held: Held[T], items: Iterable[T]) -> set[T]:
    """Those of ``items`` that are held by this very taking, in the transaction that writes."""
    wanted = {_name(held.kind, item): item for item in items}
    kept: set[T] = set()
    for part in _chunks(sorted(wanted)):
        mine = table.c.name.in_(part), table.c.token == held.token
        query = select(table.c.name).where(*mine).order_by(table.c.name)
        kept.update(wanted[name] for name in connection.scalars(query))
    return kept


def held_versions(connection: Connection, tokens: Mapping[Ref, str]) -> set[Ref]:
    """Those versions whose lease still has that token, in the transaction that writes."""
    wanted = {_name(VERSION, ref): (ref, token) for ref, token in tokens.items()}
    kept: set[Ref] = set()
    for part in _chunks(sorted(wanted)):
        query = select(table.c.name, table.c.token).where(table.c.name.in_(part))
        for name, token in connection.execute(query.order_by(table.c.name)):
            ref, wished = wanted[name]
            if token == wished:
                kept.add(ref)
    return kept


def _drop(connection: Connection, tokens: Sequence[str]) -> None:
    connection.execute(delete(table).where(table.c.token.in_(tokens)))


def _name(kind: str, item: Sequence[str]) -> str:
    return ":".join((kind, *item))


def _owner(text: str) -> Owner:
    try:
        return Owner.parse(text)
    except ValueError:  # of a later version: it beats, or it is dead
        return Owner(text[:16], "", "", 0, 0)


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield list(names[start : start + CHUNK])
