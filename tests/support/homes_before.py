"""A small home of version 0.1.0 (journal format 1) with its server's data, as that version left them.

``tests/data/home-of-0.1.0.tar.gz`` holds ``home/`` (its collection left out: it is disposable),
``server/`` (of the reference server), ``library/`` and ``facts.json``. What stands in the home::

    approved     1.0.0 approved, 1.0.1 pending        published from it
    deprecated, rejected                              published from it, judged by a reviewer
    edited       1.0.0, and 1.0.1 made of an edit     published from it
    foreign      1.0.0 approved, 1.1.0 pending        pulled; scripts of 1.0.0 cached
    contested    an open conflict                     unpublished here, published elsewhere
    waiting, wished-trusted                           to be published; not sent yet
    private 1.0.0 1.0.1, secret, machine-made, draft-status, active-status     unpublished
    deleted      1.0.0                                deleted from here
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from core.settings import Settings
from support.reference import Reference, running_reference

ARCHIVE = Path(__file__).parent.parent / "data" / "home-of-0.1.0.tar.gz"


@dataclass
class HomeBefore:
    """The unpacked home and the running server that it belongs to."""

    root: Path
    reference: Reference
    tenant_id: str
    token: str

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.home,
            server_url=self.reference.url,
            tenant_id=self.tenant_id,
            server_token=SecretStr(self.token),
            edit_quiet_seconds=0,
        )


def unpack_home(root: Path) -> Path:
    """The home as it was, below ``root``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root / "home"


@contextmanager
def running_home_before(root: Path) -> Iterator[HomeBefore]:
    """The home and its server, which listens on another port than it did."""
    home = unpack_home(root)
    tenant_id = json.loads((root / "facts.json").read_text())["tenant"]
    with running_reference(root / "server", root / "library") as reference:
        with closing(sqlite3.connect(home / "journal.db")) as journal, journal:
            journal.execute("UPDATE home SET value = ? WHERE key = 'server_url'", (reference.url,))
        token = "CANARY-TOKEN-1"
        yield HomeBefore(root, reference, tenant_id, token)
