"""One sync at a time for a home, wherever it was asked for.

A claim is renewed while its work goes on; one whose process died on this host is taken over at
once, another host's when it runs out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, delete, func, insert, select, update

from core.errors import JournalUnavailable, StorageError
from core.journal.database import Database
from core.journal.leases import is_dead
from core.journal.records import JobState
from core.journal.schema import jobs
from core.journal.schema_sync import claims as table

CLAIM_SECONDS = 300.0
SYNC = "sync"  # the claim of the one sync, and the kind of its jobs
_LOCK = 0x65736368  # of PostgreSQL's advisory locks; SQLite's writers wait for each other anyway

log = logging.getLogger(__name__)


class Claims:
    """Rows of ``claims``; an owner is `this_process`, with ``#<task id>`` behind it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, owner: str, seconds: float = CLAIM_SECONDS) -> bool:
        """Take or renew the claim; False while another process, or thread, has it."""
        now = time.time()
        values = {"owner": owner, "until": now + seconds}
        with self._alone() as connection:
            row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
            if row is None:
                connection.execute(insert(table).values(name=name, **values))
                return True
            # one that ends unbelievably late is of a clock that was wrong
            running = now < row.until <= now + 2 * seconds
            if row.owner != owner and running and not is_dead(row.owner):
                return False
            connection.execute(update(table).where(table.c.name == name).values(**values))
            return True

    @contextmanager
    def renewed(self, name: str, owner: str, seconds: float = CLAIM_SECONDS) -> Iterator[None]:
        """Hold on to a claim that was taken, however long the block works; then give it back."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(seconds / 3):
                try:
                    self._renew(name, owner, seconds)
                except (
                    StorageError,
                    JournalUnavailable,
                ) as error:  # the journal is busy: there is time for two more
                    log.warning("the claim of the %s is not renewed: %s", name, error.detail)

        thread = threading.Thread(target=renew, name=f"claim-{name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.give_back(name, owner)

    def _renew(self, name: str, owner: str, seconds: float) -> None:
        mine = update(table).where(table.c.name == name, table.c.owner == owner)
        with self._alone() as connection:
            connection.execute(mine.values(until=time.time() + seconds))

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction beside which no other one looks at claims."""
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    def holder(self, name: str) -> str | None:
        """Who has the claim now."""
        with self._database.read() as connection:
            row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
        if row is None or row.until <= time.time() or is_dead(row.owner):
            return None
        return str(row.owner)

    def give_back(self, name: str, owner: str) -> None:
        """Give back; what another took over since is left alone."""
        with self._database.write() as connection:
            connection.execute(delete(table).where(table.c.name == name, table.c.owner == owner))

    def give_back_unless_asked(self, name: str, owner: str, kind: str) -> bool:
        """Give back unless a job of ``kind`` was asked for meanwhile; whether it was given back.

        One transaction: whoever makes a job after it finds the claim free, whoever made one
        before it is seen here.
        """
        asked = select(func.count()).where(
            jobs.c.kind == kind, jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING])
        )
        with self._alone() as connection:
            if connection.scalar(asked):
                return False
            connection.execute(delete(table).where(table.c.name == name, table.c.owner == owner))
            return True
