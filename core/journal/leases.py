"""Short leases on versions, so that one worker at a time works on each.

A lease carries a fencing token: a worker that lost its lease (it was slow, or its machine slept)
finds that its token is no longer the row's, and its write does nothing. A lease of a process that
died on this host is taken over at once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence

import psutil
from sqlalchemy import Update, select, tuple_, update

from core.errors import JournalUnavailable
from core.journal.database import Database
from core.journal.schema import versions as table
from core.journal.versions import KEY
from core.models import Ref

DEFAULT_SECONDS = 300.0
SAME_START_SECONDS = 2  # start times come from the boot time, which a clock adjustment can move

log = logging.getLogger(__name__)


def this_process() -> str:
    """``host:pid:start`` of this process; the start time tells a reused pid from the old one."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{int(psutil.Process(pid).create_time())}"


def is_dead(owner: str) -> bool:
    """Whether ``owner`` is a process of this host that is gone (another host's never is, here)."""
    host, pid, start = owner.split("#", 1)[0].rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(start)) > SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True


class Leases:
    """Leases on rows of ``versions``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owed: list[tuple[Ref, str]] = []  # not given back yet: the journal was away

    def acquire(
        self, refs: Sequence[Ref], owner: str, seconds: float = DEFAULT_SECONDS
    ) -> dict[Ref, int]:
        """Take what is free; ``{ref: fencing token}``, without those that another worker holds.

        ``owner`` is `this_process`, with ``#<task id>`` behind it to tell threads apart.
        """
        try:
            return self._acquire(refs, owner, seconds)
        except JournalUnavailable:  # it may have been written all the same
            self._owed += [(ref, owner) for ref in refs]
            raise

    def _acquire(self, refs: Sequence[Ref], owner: str, seconds: float) -> dict[Ref, int]:
        now = time.time()
        held: dict[Ref, int] = {}
        owed = list(self._owed)
        with self._database.write() as connection:
            for ref, whose in owed:
                connection.execute(_give_back([ref], whose))
            columns = [*KEY, table.c.lease_owner, table.c.lease_until, table.c.lease_fence]
            keys = [tuple(ref) for ref in refs]
            query = select(*columns).where(tuple_(*KEY).in_(keys)).order_by(*KEY)
            rows = connection.execute(query.with_for_update()).all()
            dead: dict[str, bool] = {}
            for row in rows:
                free = row.lease_owner is None or row.lease_owner == owner
                if not free:
                    expired = (
                        row.lease_until is None or not now < row.lease_until <= now + 2 * seconds
                    )
                    free = expired or dead.setdefault(row.lease_owner, is_dead(row.lease_owner))
                if free:
                    held[Ref(row.playbook_id, row.version)] = row.lease_fence + 1
            if held:
                statement = update(table).where(tuple_(*KEY).in_([tuple(ref) for ref in held]))
                connection.execute(
                    statement.values(
                        lease_owner=owner,
                        lease_until=now + seconds,
                        lease_fence=table.c.lease_fence + 1,
                    )
                )
        del self._owed[: len(owed)]
        return held

    def release(self, refs: Sequence[Ref], owner: str) -> None:
        """Give back; what another worker took over since is left alone.

        Where the journal can't be reached, the next `acquire` of this process does it.
        """
        if not refs:
            return
        try:
            with self._database.write() as connection:
                connection.execute(_give_back(refs, owner))
        except JournalUnavailable as error:
            self._owed += [(ref, owner) for ref in refs]
            log.warning("%d leases are given back later: %s", len(refs), error.detail)


def _give_back(refs: Sequence[Ref], owner: str) -> Update:
    return (
        update(table)
        .where(tuple_(*KEY).in_([tuple(ref) for ref in refs]))
        .where(table.c.lease_owner == owner)
        .values(lease_owner=None, lease_until=None)
    )
