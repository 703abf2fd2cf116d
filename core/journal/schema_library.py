"""The table of the Escher Library's versions that were used here.

::

    library_versions   one row a version of which cache/library holds the metadata; it goes with it

``digest`` is of the bytes of that ``metadata.json``, ``used_at`` (Unix seconds) the last use that is
known, ``indexed_digest`` the state in which its point was last written. They are no rows of
``versions``: nothing lists, edits, publishes or deletes them.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, PrimaryKeyConstraint, String, Table

from core.journal.schema import metadata

library_versions = Table(
    "library_versions",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("indexed_digest", String(160)),
    Column("used_at", Float, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)
