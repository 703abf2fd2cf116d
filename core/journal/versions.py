"""The rows of ``versions`` and ``files``: what is known of every version, and the stats of its files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    case,
    cast,
    delete,
    false,
    func,
    or_,
    select,
    true,
    type_coerce,
    update,
)

from core.backoff import due
from core.journal.database import Database
from core.journal.executions import forget_executions
from core.journal.leases import held_versions
from core.journal.pins import PUBLISHED, SERVER, Pins
from core.journal.points import StalePoints
from core.journal.rows import Rows, among, chunks, key, of_ref
from core.journal.tables import files as files_table
from core.journal.tables import versions as table
from core.models import (
    Area,
    FileEntry,
    Outcome,
    Playbook,
    PlaybookMetadata,
    Ref,
    Status,
    Strategy,
    SyncInfo,
    SyncState,
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One row of ``versions``; ``metadata`` is the JSON object as on disk."""

    ref: Ref
    area: Area
    content_digest: str
    metadata: dict[str, Any]
    generation: int = 1
    fetched: bool = True  # False: pulled, and its content is not on this machine
    warnings: tuple[str, ...] = ()
    sync_state: SyncState = SyncState.LOCAL
    publish_as: Strategy | None = None
    publish_gate: str | None = None  # the secrets_gate of whoever asked to publish
    uploaded_digest: str | None = None
    s3_paths: dict[str, str] = field(default_factory=dict)
    published_digest: str | None = None
    revision: int | None = None
    published_at: int | None = None
    deleting: bool = False  # the server is to be asked, then the folder goes
    made_here: bool = False  # by a command, a call or an edit of this home
    modes_known: bool = False  # its files say which are executable; False: from before format 7
    # create | update | edit | import | ai | adopt | pull; None: not known
    intake: str | None = None
    asked: dict[str, Any] = field(default_factory=dict)  # what its file asked for in vain
    filled: tuple[str, ...] = ()  # the formats whose entry point the rule has filled in
    published_here: bool = False  # this home has sent it
    published_by: str | None = None  # the member that the server names
    status_at: int | None = None  # when the server last told the status
    absent_since: int | None = None  # published from here, and not on the server (any more)
    error_type: str | None = None
    error: str | None = None
    attempts: int = 0
    next_attempt_at: int | None = None
    indexed_digest: str | None = None
    health: str = "ok"
    execution_count: int = 0
    success_count: int = 0
    last_executed: int | None = None

    @property
    def name(self) -> str:
        return str(self.metadata["name"])

    @property
    def status(self) -> Status:
        return Status(self.metadata.get("status", "ready"))

    @property
    def strategy(self) -> Strategy:
        return Strategy(self.metadata.get("storage_strategy", "local_only"))

    @property
    def chosen_strategy(self) -> Strategy:
        """Where the user lets it go.

        What came from a file alone is its request, and no choice; a row of version 0.1.0 may have
        its strategy from there.
        """
        if self.publish_as is not None:
            return self.publish_as
        asked = self.asked.get("storage_strategy") == self.strategy and not self.is_published
        return Strategy.LOCAL_ONLY if asked else self.strategy

    @property
    def sensitive(self) -> bool:
        return bool(self.metadata.get("sensitive", False))

    @property
    def is_published(self) -> bool:
        return self.revision is not None

    @property
    def execution_state(self) -> dict[str, Any]:
        """What its point, and a search, say of its executions."""
        return {
            "health": self.health,
            "execution_count": self.execution_count,
            "success_count": self.success_count,
            "last_executed": self.last_executed,
        }

    @property
    def index_digest(self) -> str:
        """Changes whenever the point of this version must be written again, or its counts."""
        parts = self.content_digest, self.status, self.strategy, self.area, self.health
        return "".join(f"{part}|" for part in parts) + str(self.execution_count)

    @property
    def sync(self) -> SyncInfo:
        return SyncInfo(self.sync_state, self.revision, self.error, self.next_attempt_at)

    def playbook(self, files: tuple[FileEntry, ...] = ()) -> Playbook:
        """The contract's ``Playbook`` of this row."""
        return Playbook(
            metadata=PlaybookMetadata.model_validate(self.metadata),
            files=files,
            content_digest=self.content_digest,
            area=self.area,
            sync=self.sync,
            health=self.health,
            warnings=self.warnings,
            execution_count=self.execution_count,
            success_count=self.success_count,
            last_executed=self.last_executed,
            asked=self.asked,
        )


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step found out about a version it holds the lease of.

    ``facts`` are true of the server whatever became of the row meanwhile (a revision, a digest
    that it holds); ``state`` is written only while the row still has the content worked on, so a
    step never settles, defers or fails an edit it did not see.
    """

    ref: Ref
    lease: str  # the token of the taking that holds it
    content_digest: str
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


class NamedVersion(NamedTuple):
    """A version with the name that its metadata gives it."""

    ref: Ref
    name: str
    content_digest: str


VERSIONS = Rows(table, VersionRecord, Ref)
FILES = Rows(files_table, FileEntry)
KEY, FILE_KEY = key(table), key(files_table)
WISHED = table.c.sync_state.in_([SyncState.PENDING, SyncState.DEFERRED])  # to be published


class Versions:
    """Look up and change versions; every method is one transaction unless it takes a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.pins = Pins(database)

    # -- reading ----------------------------------------------------------------------------
    def get(self, ref: Ref) -> VersionRecord | None:
        return self.get_many([ref]).get(ref)

    def get_many(self, refs: Sequence[Ref]) -> dict[Ref, VersionRecord]:
        found: dict[Ref, VersionRecord] = {}
        with self._database.read() as connection:
            for part in chunks(refs):
                rows = connection.execute(VERSIONS.select(among(table, part)))
                found.update((record.ref, record) for record in VERSIONS.records(rows))
        return found

    def of_playbook(self, playbook_id: str) -> list[VersionRecord]:
        """All versions of one playbook, in no order."""
        return self._records(VERSIONS.select(table.c.playbook_id == playbook_id))

    def select(
        self,
        *,
        status: str | None = None,
        strategy: str | None = None,
        cloud: str | None = None,
        author: str | None = None,
        sync: str | None = None,
        area: Area | None = None,
        after: str | None = None,
        playbooks: int | None = None,
    ) -> list[VersionRecord]:
        """Versions that match, by id; ``after`` and ``playbooks`` page over playbook ids."""
        equal = (
            (table.c.status, status),
            (table.c.strategy, strategy),
            (table.c.author, author),
            (table.c.sync_state, sync),
            (table.c.area, area),
        )
        where = [column == value for column, value in equal if value is not None]
        if cloud is not None:
            where.append(table.c.clouds.contains(f",{cloud},", autoescape=True))
        if after is not None:
            where.append(table.c.playbook_id > after)
        if playbooks is not None:
            ids = select(table.c.playbook_id).where(*where).distinct()
            page = ids.order_by(table.c.playbook_id).limit(playbooks)
            where.append(table.c.playbook_id.in_(page))
        return self._records(VERSIONS.select(*where).order_by(table.c.playbook_id))

    def refs(self) -> list[Ref]:
        return [Ref(*row) for row in self._database.rows(select(*KEY).order_by(*KEY))]

    def published_revisions(self) -> dict[Ref, int]:
        """The revision of each version that was published, as far as is known here."""
        query = select(*KEY, table.c.revision).where(table.c.revision.is_not(None))
        return {Ref(row[0], row[1]): row[2] for row in self._database.rows(query)}

    def count_in(self, area: Area) -> int:
        """How many versions stand in an area."""
        query = select(func.count()).where(table.c.area == area)
        return int(self._database.scalar(query))

    def absent(self) -> list[VersionRecord]:
        """Published versions that the server did not have at the last full pass."""
        return self._records(VERSIONS.select(table.c.absent_since.is_not(None)).order_by(*KEY))

    def sensitive_ids(self, playbook_ids: Sequence[str]) -> set[str]:
        """Those of these ids that have a sensitive version: a new one of them is sensitive, too."""
        query = select(table.c.playbook_id).where(table.c.sensitive.is_(True)).distinct()
        found: set[str] = set()
        with self._database.read() as connection:
            for part in chunks(playbook_ids):
                found.update(connection.scalars(query.where(table.c.playbook_id.in_(part))))
        return found

    def called(self, name: str) -> list[VersionRecord]:
        """Versions of that very name, of whatever id."""
        return self._records(VERSIONS.select(table.c.name == name))

    def names_of(self, playbook_ids: Sequence[str]) -> dict[str, list[NamedVersion]]:
        """The versions of these ids with their names; an id with none of its own is not there."""
        query = select(*KEY, table.c.name, table.c.content_digest)
        found: dict[str, list[NamedVersion]] = {}
        with self._database.read() as connection:
            for part in chunks(playbook_ids):
                rows = connection.execute(query.where(table.c.playbook_id.in_(part)))
                for row in rows:
                    version = NamedVersion(Ref(row[0], row[1]), row[2], row[3])
                    found.setdefault(row[0], []).append(version)
        return found

    def sensitive(self) -> list[VersionRecord]:
        """Every sensitive version that is not published."""
        unpublished = table.c.revision.is_(None)
        return self._records(VERSIONS.select(table.c.sensitive.is_(True), unpublished))

    def files(self, ref: Ref) -> tuple[FileEntry, ...]:
        return self.files_many([ref]).get(ref, ())

    def files_many(self, refs: Sequence[Ref]) -> dict[Ref, tuple[FileEntry, ...]]:
        found: dict[Ref, list[FileEntry]] = {}
        query = select(*FILES.columns, *FILE_KEY).order_by(files_table.c.path)
        with self._database.read() as connection:
            for part in chunks(refs):
                rows = connection.execute(query.where(among(files_table, part))).all()
                files = FILES.records(row[:-2] for row in rows)
                for row, file in zip(rows, files, strict=True):
                    found.setdefault(Ref(*row[-2:]), []).append(file)
        return {ref: tuple(files) for ref, files in found.items()}

    def counts(self) -> dict[str, int]:
        """``{playbooks, versions}`` and one count a sync state."""
        query = select(table.c.sync_state, func.count()).group_by(table.c.sync_state)
        with self._database.read() as connection:
            playbooks = connection.scalar(select(func.count(table.c.playbook_id.distinct()))) or 0
            states = {row[0]: row[1] for row in connection.execute(query)}
        counts = {state.value: states.get(state, 0) for state in SyncState}
        return {"playbooks": playbooks, "versions": sum(counts.values()), **counts}

    def wanting_publish(self, now: float) -> list[VersionRecord]:
        """Versions that are to be published and are due at ``now`` (Unix seconds)."""
        return self._wanting(and_(WISHED, table.c.deleting.is_(False)), now)

    def wanting_delete(self, now: float) -> list[VersionRecord]:
        """Versions that are to be deleted at the server and are due."""
        return self._wanting(table.c.deleting.is_(True), now)

    def _wanting(self, what: ColumnElement[bool], now: float) -> list[VersionRecord]:
        query = VERSIONS.select(what, due(table.c.next_attempt_at, now))
        return self._records(query.order_by(table.c.updated_at, *KEY))  # changed first, first

    def _records(self, query: Select[Any]) -> list[VersionRecord]:
        with self._database.read() as connection:
            return VERSIONS.records(connection.execute(query))

    def unfetched(self) -> list[Ref]:
        """Versions that were pulled without their content, by name."""
        query = select(*KEY).where(table.c.fetched.is_(False)).order_by(*KEY)
        return [Ref(*row) for row in self._database.rows(query)]

    def unindexed(self, *, missing_only: bool = False) -> list[Ref]:
        """Versions whose point in the collection is missing, or (not ``missing_only``) out of date."""
        current: ColumnElement[Any] = table.c.content_digest
        for name in ("status", "strategy", "area", "health"):  # as VersionRecord.index_digest
            current = current + "|" + type_coerce(table.c[name], String)
        current = current + "|" + cast(table.c.execution_count, String)
        missing = table.c.indexed_digest.is_(None)
        stale = missing if missing_only else or_(missing, table.c.indexed_digest != current)
        return [Ref(*row) for row in self._database.rows(select(*KEY).where(stale))]

    # -- writing ----------------------------------------------------------------------------
    def put(
        self, items: Iterable[tuple[VersionRecord, tuple[FileEntry, ...]]], connection: Connection
    ) -> None:
        """Insert or replace whole rows with their files, inside the caller's transaction.

        What was published is pinned with it, here as in `set_many` and `advance`.
        """
        pairs = list(items)
        rows = [_with_derived(VERSIONS.values(record)) for record, _ in pairs]
        self._database.put(table, rows, connection)
        known = [(record.ref, record.published_digest) for record, _ in pairs]
        self.pins.put([(ref, digest) for ref, digest in known if digest], SERVER, connection)
        for part in chunks([record.ref for record, _ in pairs]):
            connection.execute(delete(files_table).where(among(files_table, part)))
        file_rows = [
            {**record.ref._asdict(), **FILES.values(file)}
            for record, files in pairs
            for file in files
        ]
        if file_rows:
            connection.execute(files_table.insert(), file_rows)

    def set(self, ref: Ref, *, lease: str | None = None, **values: Any) -> bool:
        """Change columns of one row; with ``lease``, only while its token still holds it."""
        return self.set_many([(ref, lease, values)])[0]

    def set_many(self, changes: Sequence[tuple[Ref, str | None, dict[str, Any]]]) -> list[bool]:
        """`set` for many rows in one transaction; False where a lease was lost or the row is gone."""
        results = []
        with self._database.write() as connection:
            held = held_versions(connection, {ref: token for ref, token, _ in changes if token})
            for ref, token, values in changes:
                written = (token is None or ref in held) and _update(connection, ref, values)
                results.append(written)
                if written and values.get("published_digest"):
                    self.pins.put([(ref, values["published_digest"])], SERVER, connection)
        return results

    def advance(self, steps: Sequence[Advance]) -> list[bool]:
        """Write what steps found, in one transaction; see `Advance` for what is written when.

        False where ``state`` was not written: the content is another one, the lease is lost, or
        the row is gone.
        """
        results = []
        with self._database.write() as connection:
            held = held_versions(connection, {step.ref: step.lease for step in steps})
            for step in steps:
                values = {**step.facts, **step.state}
                same = table.c.content_digest == step.content_digest
                is_held = step.ref in held
                written = not values or (is_held and _update(connection, step.ref, values, same))
                if not written and is_held and step.facts:
                    _update(connection, step.ref, step.facts)
                if step.facts.get("published_digest"):  # the server holds it, whatever came of ours
                    pinned = (step.ref, step.facts["published_digest"])
                    self.pins.put([pinned], PUBLISHED, connection)
                results.append(written)
        return results

    def set_modes(
        self, ref: Ref, executable: Collection[str], content_digest: str, *, lease: str
    ) -> bool:
        """Say which files of a version are executable, with the digest that this makes.

        False where ``lease`` is lost or the row is gone.
        """
        marked = files_table.c.path.in_(list(executable))
        with self._database.write() as connection:
            if ref not in held_versions(connection, {ref: lease}):
                return False
            values = {"content_digest": content_digest, "modes_known": True}
            connection.execute(
                update(files_table)
                .where(of_ref(files_table, ref))
                .values(executable=case((marked, true()), else_=false()))
            )
            return _update(connection, ref, values)

    def delete(self, refs: Sequence[Ref], connection: Connection) -> None:
        for part in chunks(refs):
            connection.execute(delete(files_table).where(among(files_table, part)))
            connection.execute(delete(table).where(among(table, part)))
            forget_executions(part, connection)
        StalePoints(self._database).add(refs, connection)

    def withdraw(self, refs: Sequence[Ref]) -> None:
        """Take back the wish to publish of those that the server has not committed."""
        uncommitted = and_(WISHED, table.c.revision.is_(None), table.c.deleting.is_(False))
        back = update(table).where(uncommitted).values(
            sync_state=SyncState.LOCAL, publish_as=None, publish_gate=None, next_attempt_at=None
        )  # fmt: skip
        with self._database.write() as connection:
            for part in chunks(refs):
                connection.execute(back.where(among(table, part)))

    def fail_pending(self, failures: Sequence[tuple[Ref, Outcome]]) -> None:
        """Keep why versions that wait to be published can't be."""
        with self._database.write() as connection:
            for ref, outcome in failures:
                values = {
                    "sync_state": SyncState.FAILED,
                    "error_type": outcome.error_type,
                    "error": outcome.error,
                    "attempts": table.c.attempts + 1,
                }
                _update(connection, ref, values, WISHED)


def _update(
    connection: Connection, ref: Ref, values: dict[str, Any], *where: ColumnElement[bool]
) -> bool:
    statement = update(table).where(of_ref(table, ref), *where).values(**_with_derived(values))
    return connection.execute(statement).rowcount == 1


def _with_derived(values: dict[str, Any]) -> dict[str, Any]:
    """Column values with those that are derived from the metadata among them."""
    if "metadata" not in values:
        return values
    metadata = values["metadata"]
    return {
        **values,
        "name": metadata["name"],
        "status": metadata.get("status", "ready"),
        "strategy": metadata.get("storage_strategy", "local_only"),
        "author": metadata.get("author", "user_custom"),
        "clouds": "," + ",".join(metadata.get("cloud_provider", [])) + ",",
        "sensitive": bool(metadata.get("sensitive", False)),
        "created_at": metadata["created_at"],
        "updated_at": metadata["updated_at"],
    }
