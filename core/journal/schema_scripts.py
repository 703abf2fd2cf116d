"""The script manager's tables: what is cached, quarantined and on its way, and proofs of big files.

::

    cache_entries  one row a cached format folder: what the index knows of cache/scripts/
    quarantined    one row a folder in cache/quarantine/
    downloads      who fetches a format folder now, the room it reserved, and how the last try ended
    counters       hits, misses, evicted_bytes …: sums over all processes
    server_statuses  what the server said of versions that this home does not have, and when
    script_copies  one row a folder in cache/copies
    proofs         the stat of a file above 1 MiB at its last hashing; it stands in for a day

Size rule: Σ cache_entries.size_bytes + Σ quarantined.size_bytes + Σ script_copies.size_bytes +
Σ downloads.reserved_bytes is at most ``cache_max_size_mb``; room is reserved in one write transaction, before a byte is written.

``files`` is JSON: ``[[path, size_bytes, checksum], …]``, paths relative to the version's folder.
Times are Unix seconds, ``*_ns`` nanoseconds, digests ``sha256:<hex>``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, PrimaryKeyConstraint, String, Table, Text

from core.journal.schema import metadata

cache_entries = Table(
    "cache_entries",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("format", String(32), nullable=False),
    Column("source", String(16), nullable=False),  # tenant | library
    Column("entry_point", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("fetched_at", Float, nullable=False),
    Column("last_used", Float, nullable=False),  # as last seen; the folder's mtime is the truth
    PrimaryKeyConstraint("playbook_id", "version", "format"),
)
Index("cache_entries_used", cache_entries.c.last_used)

quarantined = Table(
    "quarantined",
    metadata,
    Column("name", Text, primary_key=True),  # <id>-v<version>/<format>-<hex> in cache/quarantine
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("format", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("reason", Text, nullable=False),
)

downloads = Table(
    "downloads",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("format", String(32), nullable=False),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("state", String(12), nullable=False),  # running | staged | failed
    Column("reserved_bytes", BigInteger, nullable=False, server_default="0"),
    Column("staged", Text),  # folder name in cache/staging
    Column("files", Text),
    Column("entry_point", Text),
    Column("source", String(16)),
    Column("error_type", String(40)),
    Column("error", Text),
    Column("ended_at", Float),
    PrimaryKeyConstraint("playbook_id", "version", "format"),
)
Index("downloads_staged", downloads.c.staged)

counters = Table(
    "counters",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

proofs = Table(
    "proofs",
    metadata,
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("checksum", String(71), nullable=False),
    Column("verified_at", Float, nullable=False),
)

script_copies = Table(
    "script_copies",
    metadata,
    Column("name", String(64), primary_key=True),  # of the folder in cache/copies
    Column("size_bytes", BigInteger, nullable=False),
    Column("made_at", BigInteger, nullable=False),
)

server_statuses = Table(
    "server_statuses",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("status", String(20)),  # None: it told none
    Column("strategy", String(24)),
    Column("published_by", String(200)),
    Column("deprecated_by", String(200)),
    Column("told_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)
