"""A counter a process, moved every few seconds: what others tell by that it lives.

::

    heartbeats   owner id → counter      SQLite: in ``<journal>.alive``, a file of their own
                                         PostgreSQL: beside the journal's tables

A beat is worth nothing after a power cut, so none waits for the disk: ``synchronous=NORMAL`` on
SQLite, ``synchronous_commit=off`` on PostgreSQL; and none takes the journal's write lock. A process
beats from its first lease until it closes the journal.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable

from sqlalchemy import BigInteger, Column, MetaData, String, Table, delete, select, text

from core.errors import EscherError
from core.journal.database import Database
from core.processes import this_process

BEAT_SECONDS = 3.0

metadata = MetaData()
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("owner_id", String(16), primary_key=True),
    Column("counter", BigInteger, nullable=False),
)
# a lock of its own: that of the journal's writers may be held by who asks for the counters
_ONE_MAKES_IT = text("SELECT pg_advisory_xact_lock(0x65736368, hashtext('heartbeats'))")

log = logging.getLogger(__name__)


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
                    target=_go_on, args=arguments, name="heartbeat", daemon=True
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
        with self._database.read() as connection:
            query = select(heartbeats.c.owner_id, heartbeats.c.counter)
            return {row[0]: row[1] for row in connection.execute(query)}

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
                metadata.create_all(connection)
            self._is_prepared = True


def _go_on(of: weakref.ref[Heartbeats], ended: threading.Event, seconds: float) -> None:
    """The thread's work; it ends with the journal, closed or forgotten."""
    while (heartbeats_ := of()) is not None:
        heartbeats_._beat_and_look()  # noqa: SLF001  of this module
        del heartbeats_
        if ended.wait(seconds):
            return
