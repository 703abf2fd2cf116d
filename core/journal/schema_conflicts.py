"""The tables of what two sides said differently, and of changes there that could not be taken yet.

::

    conflicts    one row a disagreement: what waits for the user, what was set aside, what is settled
    waiting_changes   changes of the server that were not taken in, by name and revision

Times are Unix seconds, digests ``sha256:<hex>``. ``theirs`` is written no more: whatever the server
says of a version is asked for again.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, Text, text

from core.journal.schema import metadata

conflicts = Table(
    "conflicts",
    metadata,
    Column("conflict_id", String(32), primary_key=True),
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("kind", String(24), nullable=False),  # the rule that made it
    Column("state", String(8), nullable=False),  # open | kept | settled
    Column("reason", Text, nullable=False),
    Column("folder", Text),  # the copy, where one was set aside
    Column("generation", Integer),  # of the copy's encrypted content
    Column("server_revision", BigInteger),
    Column("server_digest", String(71)),
    Column("theirs", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Column("resolution", Text),
)
_OPEN = text("state = 'open'")
# a version waits for one decision at most
Index(
    "conflicts_open",
    conflicts.c.playbook_id,
    conflicts.c.version,
    unique=True,
    sqlite_where=_OPEN,
    postgresql_where=_OPEN,
)
Index("conflicts_created", conflicts.c.created_at)

waiting_changes = Table(
    "waiting_changes",
    metadata,
    # as the server wrote them: what is wrong with the item may be its name
    Column("playbook_id", String(100), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("kind", String(12), nullable=False),  # failed | deletion
    Column("revision", BigInteger),
    Column("content_digest", String(71)),
    Column("updated_at", BigInteger, nullable=False),  # the server's
    Column("reason", Text, nullable=False),
    Column("held", Boolean, nullable=False),  # a deletion that waits for the user's word
    Column("noted_at", BigInteger, nullable=False),
)
