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

::

    heartbeats   owner id → counter      SQLite: in ``<journal>.alive``, a file of their own
                                         PostgreSQL: beside the journal's tables

A counter a process, moved every few seconds: what others tell by that it lives. A beat is worth
nothing after a power cut, so none waits for the disk: ``synchronous=NORMAL`` on SQLite,
``synchronous_commit=off`` on PostgreSQL; and none takes the journal's write lock. A process beats
from its first lease until it closes the journal.
"""

from __future__ import annotations

import logging
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
    text,
    update,
)

from core.errors import EscherError
from core.journal.database import Database
from core.journal.rows import chunks
from core.journal.tables import JobState, jobs
from core.journal.tables import leases as table
from core.models import Ref
from core.processes import Deaths, Owner, this_process

VERSION, DOWNLOAD, JOB, WORKER, SYNC = "version", "download", "job", "worker", "sync"
BEAT_SECONDS = 3.0

_BEATS = MetaData()
heartbeats = Table(
    "heartbeats",
    _BEATS,
    Column("owner_id", String(16), primary_key=True),
    Column("counter", BigInteger, nullable=False),
)
# a lock of its own: that of the journal's writers may be held by who asks for the counters
_ONE_MAKES_IT = text("SELECT pg_advisory_xact_lock(0x65736368, hashtext('heartbeats'))")

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


class Heartbeats:
    """The heartbeat of this process and of all others; ``owner_id`` is of whom it beats for."""

    def __init__(
        self,
        database: Database,
        *,
        owner_id: Callable[[], str] = lambda: this_process().id,
        seconds: float = BEAT_SECONDS,
    ) -> None:
        self._database = database.beside(".alive", synchronous="NORMAL")
        self._is_own_file = self._database is not database
        self._owner_id = owner_id
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._at_each: Callable[[], object] = lambda: None
        self._is_prepared = False

    def start(self, at_each: Callable[[], object] = lambda: None) -> None:
        """Beat from now on, in a thread; ``at_each`` is called after each beat. Again: nothing."""
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                self._at_each = at_each
                arguments = (weakref.ref(self), self._ended, self._seconds)
                self._thread = threading.Thread(
                    target=_keep_beating, args=arguments, name="heartbeat", daemon=True
                )
                self._thread.start()

    def beat(self) -> None:
        """Move the counter once."""
        self._prepare()
        row = {"owner_id": self._owner_id(), "counter": 1}
        statement = self._database.insert(heartbeats).on_conflict_do_update(
            index_elements=["owner_id"], set_={"counter": heartbeats.c.counter + 1}
        )
        with self._database.write(alone=False) as connection:
            if not self._database.is_sqlite:
                connection.execute(text("SET LOCAL synchronous_commit TO OFF"))
            connection.execute(statement, [row])

    def counters(self) -> dict[str, int]:
        """``{owner id: counter}`` of all that beat, or did and were not forgotten."""
        self._prepare()
        rows = self._database.rows(select(heartbeats))
        return {row.owner_id: row.counter for row in rows}

    def forget(self, owner_ids: Iterable[str]) -> None:
        """Remove the counters of the dead."""
        ids = sorted(owner_ids)
        if ids:
            self._prepare()
            with self._database.write(alone=False) as connection:
                connection.execute(delete(heartbeats).where(heartbeats.c.owner_id.in_(ids)))

    def close(self) -> None:
        """Beat no more. In a forked child this does nothing: the heart is its parent's."""
        self._ended.set()
        if not self._database.opened.is_so:
            return
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            if thread is not threading.current_thread():
                thread.join(self._seconds + 1)
            try:
                self.forget([self._owner_id()])
            except EscherError as error:  # others will see it stand still
                log.debug("the last heartbeat stays: %s", error.detail)
        if self._is_own_file:
            self._database.close()

    def _beat_and_look(self) -> None:
        for work in (self.beat, self._at_each):
            try:
                work()
            except EscherError as error:  # the journal may be away for a while
                log.warning("a heartbeat was missed: %s", error.detail)
            except Exception:  # a mistake of ours must not stop the heart
                log.exception("a heartbeat was missed")

    def _prepare(self) -> None:
        if not self._is_prepared:
            with self._database.write(alone=False) as connection:
                if not self._database.is_sqlite:
                    connection.execute(_ONE_MAKES_IT)
                _BEATS.create_all(connection)
            self._is_prepared = True


def _keep_beating(of: weakref.ref[Heartbeats], ended: threading.Event, seconds: float) -> None:
    """The thread's work; it ends with the journal, closed or forgotten."""
    while (heartbeats_ := of()) is not None:
        heartbeats_._beat_and_look()  # noqa: SLF001  of this module
        del heartbeats_
        if ended.wait(seconds):
            return


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
            mine = self._take(list(wanted), token, dead, connection)
        else:
            try:
                mine = self._database.retried(
                    lambda opened: self._take(list(wanted), token, dead, opened)
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
        for part in chunks(names):
            query = select(table).where(table.c.name.in_(part))
            found = {row.name: row.owner for row in connection.execute(query)}
            left = [name for name, holder in found.items() if holder in dead]
            if left:
                changed = update(table).where(table.c.name.in_(left))
                connection.execute(changed.values(owner=owner, token=token))
            new = [{"name": n, "owner": owner, "token": token} for n in part if n not in found]
            self._database.put_new(table, new, connection)
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
        for part in chunks([_name(held.kind, item) for item in items]):
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
        holder = self._database.scalar(query)
        return None if holder is None or holder in self._dead() else _owner(holder)

    def free(self, kind: str, items: Iterable[T]) -> set[T]:
        """Those that nobody who lives holds."""
        wanted = {_name(kind, item): item for item in items}
        taken: dict[str, str] = {}
        with self._database.read() as connection:
            for part in chunks(list(wanted)):
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
        for row in self._database.rows(select(table).order_by(table.c.name)):
            held.setdefault(row.owner, []).append(tuple(row.name.split(":")))
        return held

    def end_those_of(self, dead: Iterable[str]) -> None:
        """Drop what these owners, seen dead, still hold: their work has been gone on with."""
        owners = sorted(dead)
        if owners:
            statement = delete(table).where(table.c.owner.in_(owners))
            self._database.retried(lambda connection: connection.execute(statement))
            self._heartbeats.forget(_owner(words).id for words in owners)

    def has_dead_owners(self) -> bool:
        """Whether a dead process holds something that nobody has taken over."""
        return bool(self._dead())

    def _dead(self) -> dict[str, Owner]:
        """The dead among those who hold anything, by what their rows say."""
        held_by = self._database.scalars(select(table.c.owner).distinct())
        mine = str(self._me())
        owners = {words: _owner(words) for words in held_by if words != mine}
        if not owners:
            return {}
        dead = self._deaths.among(owners.values(), self._heartbeats.counters)
        return {words: owner for words, owner in owners.items() if owner in dead}

    def close(self) -> None:
        """Stop the heartbeat. What is still held is free for everybody once this process ends."""
        if self._database.opened.is_so:
            self._give_back_owed()
        self._heartbeats.close()


def still_held(connection: Connection, held: Held[T], items: Iterable[T]) -> set[T]:
    """Those of ``items`` that are held by this very taking, in the transaction that writes."""
    wanted = {_name(held.kind, item): item for item in items}
    kept: set[T] = set()
    for part in chunks(list(wanted)):
        mine = table.c.name.in_(part), table.c.token == held.token
        kept.update(wanted[n] for n in connection.scalars(select(table.c.name).where(*mine)))
    return kept


def held_versions(connection: Connection, tokens: Mapping[Ref, str]) -> set[Ref]:
    """Those versions whose lease still has that token, in the transaction that writes."""
    wanted = {_name(VERSION, ref): (ref, token) for ref, token in tokens.items()}
    kept: set[Ref] = set()
    for part in chunks(list(wanted)):
        query = select(table.c.name, table.c.token).where(table.c.name.in_(part))
        found = connection.execute(query)
        kept.update(wanted[name][0] for name, token in found if wanted[name][1] == token)
    return kept


def _drop(connection: Connection, tokens: Sequence[str]) -> None:
    connection.execute(delete(table).where(table.c.token.in_(tokens)))


def _name(kind: str, item: Sequence[str]) -> str:
    return ":".join((kind, *item))


def _owner(words: str) -> Owner:
    try:
        return Owner.parse(words)
    except ValueError:  # of a later version: it beats, or it is dead
        return Owner(words[:16], "", "", 0, 0)
