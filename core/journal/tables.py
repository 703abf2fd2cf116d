"""The journal's tables, drawn once; format version 8 (`core.journal.migrations` leads there).

::

    home             key → value: format_version, home_id, server_url, tenant_id
    versions         one row a version: where it stands, what it is, how far it is published
    files            one row a file of a version: clear size and checksum
    scan_state       one row a version whose folder was found to hold what the journal says
    intents          a change to the folders that has begun; gone when it is done
    pins             the one digest that ``id@version`` names for ever: the first that was published
                     from here or came from a server
    choices          what the user chose for all versions of an id
    jobs             what somebody asked for
    job_items        one row a ref of a job, brought forward by whatever task works on the ref
    leases           one row a lease while it is held
    conflicts        one row a disagreement with the server: it waits for the user, was set aside, or
                     is settled
    waiting_changes  changes of the server that were not taken in, by name and revision
    held_edits       edits of sensitive content that wait, sealed, for the user to take or drop them
    executions       one row a run: waits to be sent (due), was counted by the server (sent), or was
                     refused by it again and again (failed); kept so that it counts once
    stale_points     versions that are gone and whose points may still be in the collection
    vectors          embeddings by digest of text and model, so nothing is embedded twice
    library_versions  one row a version of the Escher Library's of which cache/library holds the
                     metadata; it goes with it
    cache_folders    one row a folder below cache/ that takes room: an entry, a download with the room
                     it reserved, a copy, what is in quarantine (drawn in `core.journal.scripts`)
    server_statuses  what the server said of versions that this home does not have, and when
    proofs           the stat of a file above 1 MiB at its last hashing; it stands in for a day
    counters         hits, misses, evicted_bytes …: sums over all processes
    secret_scans     one row a content and syntax: what the scan found in it, by which scanner
    accepted_findings  one row a finding that somebody let pass; its key holds as long as the file's
                     bytes do. Neither holds what was found: a place, a kind and a degree only

Times are Unix seconds, ``*_ns`` nanoseconds, digests ``sha256:<hex>``.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

from core.journal.rows import Json, one_of
from core.models import Area, Strategy, SyncState

FORMAT_VERSION = 8

metadata = MetaData()


def _ref(*, is_key: bool = True) -> tuple[Column[str], Column[str]]:
    return (
        Column("playbook_id", String(100), primary_key=is_key, nullable=False),
        Column("version", String(64), primary_key=is_key, nullable=False),
    )


class JobState(StrEnum):
    """How far a job, or an item of it, is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEFERRED = "deferred"  # of an item only

    @property
    def is_open(self) -> bool:
        """Whether a task is still to work on it now (a deferred item waits for a later sync)."""
        return self in {JobState.QUEUED, JobState.RUNNING}


class ConflictState(StrEnum):
    """What is still to be done about a conflict."""

    OPEN = "open"  # the user is to choose
    KEPT = "kept"  # decided by a rule; a copy of what gave way is in ``folder``
    SETTLED = "settled"  # nothing more to do


home = Table(
    "home",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    *_ref(),
    Column("area", one_of(Area, 16), nullable=False),
    Column("content_digest", String(71), nullable=False),
    Column("metadata", Json(), nullable=False),
    Column("name", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("strategy", String(24), nullable=False),
    Column("author", String(20), nullable=False),
    Column("clouds", String(64), nullable=False),  # ",aws,gcp," so that LIKE '%,aws,%' finds it
    Column("sensitive", Boolean, nullable=False),
    Column("generation", Integer, nullable=False),  # of the encrypted content; it never goes back
    Column("fetched", Boolean, nullable=False, server_default=true()),  # its content is here
    Column("warnings", Json(tuple), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # towards the server
    Column("sync_state", one_of(SyncState, 12), nullable=False),
    Column("publish_as", one_of(Strategy, 24)),  # the strategy asked for; kept until settled
    Column("publish_gate", String(8)),  # the secrets_gate of whoever asked; kept until settled
    Column("uploaded_digest", String(71)),  # content whose files the server has
    Column("s3_paths", Json(dict)),
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
    # its files say which of them are executable; false: its folder may have other modes
    Column("modes_known", Boolean, nullable=False, server_default=false()),
    # create | update | edit | import | ai | adopt | pull; None: before 2
    Column("intake", String(12)),
    Column("asked", Json(dict)),  # what its file asked for and was not followed
    Column("filled", Json(tuple)),  # formats whose entry point the rule filled in; None: before 8
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
)
Index("versions_sync", versions.c.sync_state, versions.c.next_attempt_at)

files = Table(
    "files",
    metadata,
    *_ref(),
    Column("path", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("checksum", String(71), nullable=False),
    Column("executable", Boolean, nullable=False, server_default=false()),  # part of the digest
)

intents = Table(
    "intents",
    metadata,
    *_ref(),
    Column("kind", String(12), nullable=False),  # write | move | take | delete
    Column("staged", Text),  # folder name under .staging that takes its place
    Column("from_area", one_of(Area, 16)),
    Column("to_area", one_of(Area, 16)),
    Column("record", Json()),  # the versions and files rows that come with it
    Column("inode", BigInteger),  # of the staged folder; None: of an intent from before format 6
    Column("created_at", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("request", Json(), nullable=False),
    Column("idempotency_key", String(200), unique=True),
    Column("state", one_of(JobState, 12), nullable=False),
    Column("total", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False, default=False),
    Column("error", Text),
    Column("result", Json()),
    Column("sequence", BigInteger, nullable=False),  # nanoseconds: the order within a second
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
)
Index("jobs_sequence", jobs.c.sequence)

job_items = Table(
    "job_items",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("ref", String(165), primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("state", one_of(JobState, 12), nullable=False),
    Column("step", String(12)),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error_type", String(40)),
    Column("error", Text),
    Column("next_attempt_at", BigInteger),
)
Index("job_items_ref", job_items.c.ref, job_items.c.state)

stale_points = Table("stale_points", metadata, *_ref())

vectors = Table(
    "vectors",
    metadata,
    Column("key", String(80), primary_key=True),  # digest of text and model fingerprint
    Column("vector", LargeBinary, nullable=False),  # little-endian float32
)

pins = Table(
    "pins",
    metadata,
    *_ref(),
    Column("content_digest", String(71), nullable=False),
    Column("source", String(10), nullable=False),  # see `core.journal.pins`
    Column("pinned_at", BigInteger, nullable=False),
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
    *_ref(),
    Column("paths", Json(tuple), nullable=False),  # files that lay there in clear
    Column("flag", Boolean, nullable=False),  # whether `sensitive` was edited
    Column("folder", Text, nullable=False),  # where they are kept, sealed
    Column("generation", Integer, nullable=False),  # under which they are
    Column("held_at", BigInteger, nullable=False),
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("conflict_id", String(32), primary_key=True),
    *_ref(is_key=False),
    Column("kind", String(24), nullable=False),  # the rule that made it
    Column("state", one_of(ConflictState, 8), nullable=False),  # open | kept | settled
    Column("reason", Text, nullable=False),
    Column("folder", Text),  # the copy, where one was set aside
    Column("generation", Integer),  # of the copy's encrypted content
    Column("server_revision", BigInteger),
    Column("server_digest", String(71)),
    Column("theirs", Text),  # written no more: it is asked for again
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

executions = Table(
    "executions",
    metadata,
    # the order of arrival; clocks may go back
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("execution_id", String(200), nullable=False, unique=True),
    *_ref(is_key=False),
    Column("success", Boolean, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("error", Text),  # the engine's words; they stay here
    Column("at", BigInteger, nullable=False),  # when it ran, as the engine says
    Column("state", String(8), nullable=False),  # due | sent | failed
    Column("state_since", BigInteger, nullable=False),
    # of its version, with this run
    Column("failures_in_a_row", Integer, nullable=False, server_default="0"),
    # at sending, since that last went well for its version
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", BigInteger),
    sqlite_autoincrement=True,
)
Index("executions_state", executions.c.state, executions.c.playbook_id, executions.c.version)
Index(
    "executions_ref", executions.c.playbook_id, executions.c.version, executions.c.sequence
)  # fmt: skip


# No rows of ``versions``: nothing lists, edits, publishes or deletes them, and as such they would have
# to be kept out of 14 statements and 6 loops over the areas. The state of points, which both have, has
# one SQL path: `core.journal.points`.
library_versions = Table(
    "library_versions",
    metadata,
    *_ref(),
    Column("digest", String(71), nullable=False),  # of the bytes of its metadata.json
    Column("indexed_digest", String(160)),  # the state in which its point was last written
    Column("used_at", Float, nullable=False),  # the last use that is known
)

scan_state = Table(
    "scan_state",
    metadata,
    *_ref(),
    # what of the version's row was compared with the folder; another one: look again
    Column("area", one_of(Area, 16), nullable=False),
    Column("content_digest", String(71), nullable=False),
    Column("generation", Integer, nullable=False),
    # folders and files below the version's folder, "/"-led, with "\n" between them
    Column("paths", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),  # of the stats of those paths, in order
)


# The size rule: Σ size_bytes is at most ``cache_max_size_mb``; room is reserved in one write
# transaction, before a byte is written.
# ``files`` is JSON: ``[[path, size_bytes, checksum, true?], …]`` (executable).
cache_folders = Table(
    "cache_folders",
    metadata,
    Column("name", Text, primary_key=True),  # below cache/: scripts/stop-rds-v1.0.0/shell
    # complete | downloading | staged | failed | quarantined | copy
    Column("state", String(12), nullable=False),
    # whose it is; empty where it is nobody's, and of a copy
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("format", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("since", Float, nullable=False),
    Column("last_used", Float, nullable=False),  # as last seen; the folder's mtime is the truth
    Column("source", String(16), nullable=False),  # tenant | library | partial
    Column("entry_point", Text, nullable=False),
    Column("files", Text, nullable=False),  # JSON: [[path, size_bytes, checksum], …]
    Column("attempts", Integer, nullable=False),  # at a download, until it is done
    Column("error_type", String(40), nullable=False),
    Column("reason", Text, nullable=False),  # why it failed, or was put aside
)
Index(
    "cache_folders_key",
    cache_folders.c.playbook_id,
    cache_folders.c.version,
    cache_folders.c.format,
)
Index("cache_folders_used", cache_folders.c.state, cache_folders.c.last_used)

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

server_statuses = Table(
    "server_statuses",
    metadata,
    *_ref(),
    Column("status", String(20)),  # None: it told none
    Column("strategy", String(24)),
    Column("published_by", String(200)),
    Column("deprecated_by", String(200)),
    Column("told_at", BigInteger, nullable=False),
)

secret_scans = Table(
    "secret_scans",
    metadata,
    Column("checksum", String(71), primary_key=True),
    Column("syntax", String(8), primary_key=True),  # braced | yaml | program | plain
    Column("scanner_version", String(40), nullable=False),
    Column("spots", Json(), nullable=False),  # [[line, kind, degree, marked, member], …]
    Column("scanned_at", BigInteger, nullable=False),
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

leases = Table(
    "leases",
    metadata,
    Column("name", String(240), primary_key=True),  # see `core.journal.leases`
    Column("owner", String(120), nullable=False),  # see `core.processes`
    Column("token", String(32), nullable=False),  # of the one taking of it
)
Index("leases_token", leases.c.token)
