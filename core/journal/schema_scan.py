"""The tables of what the scan of the playbook folders saw; see ``core/playbooks/scan.py``.

::

    scan_state    one row a version whose folder was found to hold what the journal says
    scan_waiting  folders with changes that are not quiet yet by a clock that may be wrong
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from core.journal.schema import metadata

scan_state = Table(
    "scan_state",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    # what of the version's row was compared with the folder; another one: look again
    Column("area", String(16), nullable=False),
    Column("content_digest", String(71), nullable=False),
    Column("generation", Integer, nullable=False),
    # folders and files below the version's folder, "/"-led, with "\n" between them
    Column("paths", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),  # of the stats of those paths, in order
    Column("seen_at_ns", BigInteger, nullable=False),  # when those stats were taken
    PrimaryKeyConstraint("playbook_id", "version"),
)

scan_waiting = Table(
    "scan_waiting",
    metadata,
    Column("folder", Text, primary_key=True),  # below playbooks/: local/stop-rds/v1.0.0
    Column("fingerprint", LargeBinary, nullable=False),
    Column("since_ns", BigInteger, nullable=False),  # when it was first seen like that
)
