"""The table of what only one task of all processes may do at a time."""

from __future__ import annotations

from sqlalchemy import Column, Index, String, Table

from core.journal.schema import metadata

leases = Table(
    "leases",
    metadata,
    Column("name", String(240), primary_key=True),  # see `core.journal.leases`
    Column("owner", String(120), nullable=False),  # see `core.processes`
    Column("token", String(32), nullable=False),  # of the one taking of it
)
Index("leases_token", leases.c.token)
