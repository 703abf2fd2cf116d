"""The journal's tables, drawn once; format version 3 (`core.journal.migrations` leads there).

::

    home         key → value: format_version, home_id, server_url, tenant_id
    versions     one row a version: where it stands, what it is, how far it is published
    files        one row a file of a version: clear size and checksum, and the stat seen on disk
    intents      a change to the folders that has begun; gone when it is done
    jobs         what somebody asked for
    job_items    one row a ref of a job, brought forward by whatever task works on the ref
    stale_points versions that are gone and whose points may still be in the collection
    vectors      embeddings by digest of text and model, so nothing is embedded twice
    pins         the one digest that ``id@version`` names for ever: the first that was published from
                 here or came from a server
    choices      what the user chose for all versions of an id
    held_edits   edits of sensitive content that wait, sealed, for the user to take or drop them

Times are Unix seconds, ``*_ns`` nanoseconds, digests ``sha256:<hex>``.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
)

FORMAT_VERSION = 3

metadata = MetaData()

home = Table(
    "home",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("area", String(16), nullable=False),
    Column("content_digest", String(71), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("strategy", String(24), nullable=False),
    Column("author", String(20), nullable=False),
    Column("clouds", String(64), nullable=False),  # ",aws,gcp," so that LIKE '%,aws,%' finds it
    Column("sensitive", Boolean, nullable=False),
    Column("generation", Integer, nullable=False),  # of the encrypted content; it never goes back
    Column("warnings", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # towards the server
    Column("sync_state", String(12), nullable=False),
    Column("publish_as", String(24)),  # the strategy asked for; kept until settled
    Column("publish_gate", String(8)),  # the secrets_gate of whoever asked; kept until settled
    Column("uploaded_digest", String(71)),  # content whose files the server has
    Column("s3_paths", Text),
    Column("published_digest", String(71)),  # content the server has committed
    Column("revision", BigInteger),
    Column("published_at", BigInteger),
    Column("deleting", Boolean, nullable=False, server_default=false()),  # asked for, not done
    Column("error_type", String(40)),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", BigInteger),
    # who may run it
    Column("made_here", Boolean, nullable=False, server_default=false()),  # by a user of this home
    Column(
        "intake", String(12)
    ),  # create | update | edit | import | ai | adopt | pull; None: before 2
    Column("asked", Text),  # JSON: what its file asked for and was not followed
    Column("published_here", Boolean, nullable=False, server_default=false()),  # sent by this home
    Column("published_by", String(200)),  # the member that the server names
    Column("status_at", BigInteger),  # when the server last told the status
    Column("absent_since", BigInteger),  # published from here, and not on the server (any more)
    # towards the collection
    Column("indexed_digest", String(160)),
    # what the execution engine reported, here
    Column("health", String(8), nullable=False, server_default="ok"),
    Column("execution_count", BigInteger, nullable=False, server_default="0"),
    Column("success_count", BigInteger, nullable=False, server_default="0"),
    Column("last_executed", BigInteger),
    PrimaryKeyConstraint("playbook_id", "version"),
)
Index("versions_sync", versions.c.sync_state, versions.c.next_attempt_at)

files = Table(
    "files",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", String(71), nullable=False),
    Column("executable", Boolean, nullable=False, server_default=false()),  # part of the digest
    # as it stands on disk, encrypted or not; decides what a scan must read again
    Column("disk_size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version", "path"),
)

intents = Table(
    "intents",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("kind", String(12), nullable=False),  # write | move | take | delete
    Column("staged", Text),  # folder name under .staging that takes its place
    Column("from_area", String(16)),
    Column("to_area", String(16)),
    Column("record", Text),  # the versions and files rows that come with it, as JSON
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("request", Text, nullable=False),
    Column("idempotency_key", String(200), unique=True),
    Column("state", String(12), nullable=False),
    Column("total", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False, default=False),
    Column("error", Text),
    Column("result", Text),
    Column("sequence", BigInteger, nullable=False),  # nanoseconds: the order within a second
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
)
Index("jobs_sequence", jobs.c.sequence)

job_items = Table(
    "job_items",
    metadata,
    Column("job_id", String(36), nullable=False),
    Column("ref", String(165), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("state", String(12), nullable=False),
    Column("step", String(12)),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error_type", String(40)),
    Column("error", Text),
    Column("next_attempt_at", BigInteger),
    PrimaryKeyConstraint("job_id", "ref"),
)
Index("job_items_ref", job_items.c.ref, job_items.c.state)

stale_points = Table(
    "stale_points",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)

vectors = Table(
    "vectors",
    metadata,
    Column("key", String(80), primary_key=True),  # digest of text and model fingerprint
    Column("vector", LargeBinary, nullable=False),  # little-endian float32
)

pins = Table(
    "pins",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("content_digest", String(71), nullable=False),
    Column("source", String(10), nullable=False),  # see `core.journal.pins`
    Column("pinned_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)

choices = Table(
    "choices",
    metadata,
    Column("playbook_id", String(100), primary_key=True),
    Column("review", Boolean, nullable=False, server_default=false()),  # later versions, too
    Column("chosen_at", BigInteger, nullable=False),
)

held_edits = Table(
    "held_edits",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("paths", Text, nullable=False),  # JSON: files that lay there in clear
    Column("flag", Boolean, nullable=False),  # whether `sensitive` was edited
    Column("folder", Text, nullable=False),  # where they are kept, sealed
    Column("generation", Integer, nullable=False),  # under which they are
    Column("held_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("playbook_id", "version"),
)
