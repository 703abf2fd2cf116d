"""Other processes, for tests of leases: named ones, dead ones, and real ones in a PID namespace of their own."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from sqlalchemy import update

from core.journal import Journal
from core.journal.leases import Heartbeats, Leases
from core.journal.scripts import Downloads
from core.journal.tables import leases
from core.processes import Deaths, OpenedHere, Owner, this_process


@functools.lru_cache(maxsize=1)
def can_unshare() -> bool:
    """Whether this user may make PID namespaces here."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def in_own_namespace(
    arguments: Sequence[str],
    *,
    cwd: Path,
    own_proc: bool = True,
    stdin: int | IO[Any] | None = None,
) -> subprocess.Popen[str]:
    """Start a program as the first process of a namespace; it is killed when `unshare` is.

    ``own_proc`` False leaves the outer namespace's /proc mounted, with other numbers in it.
    """
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    if own_proc:
        command.append("--mount-proc")
    return subprocess.Popen(
        [*command, *arguments], cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, text=True
    )


def owner(id_: str = "another", **fields: Any) -> Owner:
    """A living owner of this process space, or what ``fields`` make of it."""
    return this_process()._replace(id=id_, **fields)


def dead_owner(id_: str = "dead") -> Owner:
    """A process of this space that is gone."""
    return owner(id_, pid=2**22 + 1, start=1)


def far_owner(id_: str = "far") -> Owner:
    """A process of another PID namespace, with our host name, number and start."""
    return owner(id_, namespace="4026539999")


def leases_of(journal: Journal, of: Owner, deaths: Deaths | None = None) -> Leases:
    """Leases as another process takes them. It has no heart of its own: `Heartbeats.beat`."""
    silent = Heartbeats(journal.database, owner_id=lambda: of.id, seconds=3600)
    silent.start = lambda *_: None  # type: ignore[method-assign]
    return Leases(journal.database, silent, deaths, me=lambda: of)


def downloads_of(journal: Journal, of: Owner) -> Downloads:
    """Downloads as another process claims them."""
    return Downloads(journal.database, leases_of(journal, of))


def open_anew(journal: Journal) -> None:
    """In a forked child: as if it had opened the journal, and all that stands on it, itself."""
    for database in (journal.database, journal.leases._heartbeats._database):
        database.opened = OpenedHere("The journal")
        database._engine = None
    journal.leases._heartbeats._thread = None
    journal.script_rows._connection = None


def leave_dead(journal: Journal) -> None:
    """What this process holds is a dead one's from now on, as after a kill."""
    with journal.database.write() as connection:
        connection.execute(update(leases).values(owner=str(dead_owner())))
