"""One sync at a time for a home, wherever it was asked for.

A claim is renewed while its work goes on; one whose process died on this host is taken over at
once, another host's when it runs out.
"""

from __future__ import annotations

import time

from sqlalchemy import delete, func, insert, select, update

from core.journal.database import Database
from core.journal.leases import is_dead
from core.journal.records import JobState
from core.journal.schema import jobs
from core.journal.schema_sync import claims as table

CLAIM_SECONDS = 300.0
SYNC = "sync"  # the claim of the one sync, and the kind of its jobs


class Claims:
    """Rows of ``claims``; an owner is `this_process`, with ``#<task id>`` behind it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, owner: str, seconds: float = CLAIM_SECONDS) -> bool:
        """Take or renew the claim; False while another process, or thread, has it."""
        now = time.time()
        values = {"owner": owner, "until": now + seconds}
        with self._database.write() as connection:
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
        with self._database.write() as connection:
            if connection.scalar(asked):
                return False
            connection.execute(delete(table).where(table.c.name == name, table.c.owner == owner))
            return True
