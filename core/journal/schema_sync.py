"""The table of what only one process of a home may do at a time."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from core.journal.schema import metadata

claims = Table(
    "claims",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("owner", String(120), nullable=False),
    Column("until", Float, nullable=False),  # Unix seconds; renewed while the work goes on
)
