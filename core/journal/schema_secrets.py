"""The tables of the secrets gate.

::

    secret_scans       one row a content and syntax: what the scan found in it, by which scanner
    accepted_findings  one row a finding that somebody let pass; its key holds as long as the
                       file's bytes do

No row holds what was found: a place, a kind and a degree only.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, Table, Text

from core.journal.schema import metadata

secret_scans = Table(
    "secret_scans",
    metadata,
    Column("checksum", String(71), nullable=False),
    Column("syntax", String(8), nullable=False),  # bare | quoted: what a value looks like there
    Column("scanner_version", String(40), nullable=False),
    Column("spots", Text, nullable=False),  # JSON: [[line, kind, degree, marked, member], …]
    Column("scanned_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("checksum", "syntax"),
)

accepted_findings = Table(
    "accepted_findings",
    metadata,
    Column("finding_key", String(16), primary_key=True),
    Column("ref", String(165), nullable=False),  # the version that it was accepted for
    Column("path", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("accepted_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("accepted_at", BigInteger, nullable=False),
)
