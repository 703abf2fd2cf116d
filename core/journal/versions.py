"""The rows of ``versions`` and ``files``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    and_,
    cast,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)

from core.backoff import due
from core.journal.database import Database
from core.journal.executions import forget_executions
from core.journal.leases import held_versions
from core.journal.pins import PUBLISHED, SERVER, Pins
from core.journal.points import StalePoints
from core.journal.records import (
    Advance,
    DiskFile,
    Intent,
    VersionRecord,
    column_values,
    disk_file,
    dump_record,
    file_row,
    load_record,
    version_record,
    version_row,
)
from core.journal.tables import files as files_table
from core.journal.tables import intents as intents_table
from core.journal.tables import versions as table
from core.models import Area, Outcome, Ref, SyncState

KEY = (table.c.playbook_id, table.c.version)
FILE_KEY = (files_table.c.playbook_id, files_table.c.version)
CHUNK = 400  # refs in one IN (…); SQLite takes 32,766 bound values


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
            for part in _chunks(refs):
                rows = connection.execute(select(table).where(tuple_(*KEY).in_(part)))
                found.update((record.ref, record) for record in map(version_record, rows))
        return found

    def of_playbook(self, playbook_id: str) -> list[VersionRecord]:
        """All versions of one playbook, in no order."""
        with self._database.read() as connection:
            rows = connection.execute(select(table).where(table.c.playbook_id == playbook_id))
            return [version_record(row) for row in rows]

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
        where: list[Any] = []
        for column, value in (
            (table.c.status, status),
            (table.c.strategy, strategy),
            (table.c.author, author),
            (table.c.sync_state, sync),
            (table.c.area, area.value if area else None),
        ):
            if value is not None:
                where.append(column == value)
        if cloud is not None:
            where.append(table.c.clouds.contains(f",{cloud},", autoescape=True))
        if after is not None:
            where.append(table.c.playbook_id > after)
        with self._database.read() as connection:
            if playbooks is not None:
                ids = select(table.c.playbook_id).where(*where).distinct()
                page = ids.order_by(table.c.playbook_id).limit(playbooks)
                where.append(table.c.playbook_id.in_(page))
            query = select(table).where(*where).order_by(table.c.playbook_id)
            return [version_record(row) for row in connection.execute(query)]

    def refs(self) -> list[Ref]:
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(select(*KEY).order_by(*KEY))]

    def published_revisions(self) -> dict[Ref, int]:
        """The revision of each version that was published, as far as is known here."""
        query = select(*KEY, table.c.revision).where(table.c.revision.is_not(None))
        with self._database.read() as connection:
            return {Ref(row[0], row[1]): row[2] for row in connection.execute(query)}

    def count_in(self, area: Area) -> int:
        """How many versions stand in an area."""
        query = select(func.count()).select_from(table).where(table.c.area == area.value)
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def absent(self) -> list[VersionRecord]:
        """Published versions that the server did not have at the last full pass."""
        with self._database.read() as connection:
            query = select(table).where(table.c.absent_since.is_not(None)).order_by(*KEY)
            return [version_record(row) for row in connection.execute(query)]

    def sensitive_ids(self, playbook_ids: Sequence[str]) -> set[str]:
        """Those of these ids that have a sensitive version: a new one of them is sensitive, too."""
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(playbook_ids), CHUNK):
                part = list(playbook_ids[start : start + CHUNK])
                found.update(
                    connection.scalars(
                        select(table.c.playbook_id)
                        .where(table.c.playbook_id.in_(part), table.c.sensitive.is_(True))
                        .distinct()
                    )
                )
        return found

    def sensitive(self) -> list[VersionRecord]:
        """Every sensitive version that is not published."""
        query = select(table).where(table.c.sensitive.is_(True), table.c.revision.is_(None))
        with self._database.read() as connection:
            return [version_record(row) for row in connection.execute(query)]

    def files(self, ref: Ref) -> tuple[DiskFile, ...]:
        return self.files_many([ref]).get(ref, ())

    def files_many(self, refs: Sequence[Ref]) -> dict[Ref, tuple[DiskFile, ...]]:
        found: dict[Ref, list[DiskFile]] = {}
        with self._database.read() as connection:
            for part in _chunks(refs):
                query = select(files_table).where(tuple_(*FILE_KEY).in_(part))
                for row in connection.execute(query.order_by(files_table.c.path)):
                    ref = Ref(row.playbook_id, row.version)
                    found.setdefault(ref, []).append(disk_file(row))
        return {ref: tuple(rows) for ref, rows in found.items()}

    def counts(self) -> dict[str, int]:
        """``{playbooks, versions}`` and one count a sync state."""
        with self._database.read() as connection:
            playbooks = connection.scalar(select(func.count(table.c.playbook_id.distinct()))) or 0
            query = select(table.c.sync_state, func.count()).group_by(table.c.sync_state)
            states = {row[0]: row[1] for row in connection.execute(query)}
        counts = {state.value: states.get(state.value, 0) for state in SyncState}
        return {"playbooks": playbooks, "versions": sum(counts.values()), **counts}

    def wanting_publish(self, now: float) -> list[VersionRecord]:
        """Versions that are to be published and are due at ``now`` (Unix seconds)."""
        wanted = table.c.sync_state.in_([SyncState.PENDING.value, SyncState.DEFERRED.value])
        return self._wanting(and_(wanted, table.c.deleting.is_(False)), now)

    def wanting_delete(self, now: float) -> list[VersionRecord]:
        """Versions that are to be deleted at the server and are due."""
        return self._wanting(table.c.deleting.is_(True), now)

    def _wanting(self, what: ColumnElement[bool], now: float) -> list[VersionRecord]:
        with self._database.read() as connection:
            # what was changed first goes first
            query = (
                select(table)
                .where(what, due(table.c.next_attempt_at, now))
                .order_by(table.c.updated_at, *KEY)
            )
            return [version_record(row) for row in connection.execute(query)]

    def unfetched(self) -> list[Ref]:
        """Versions that were pulled without their content: their files' stats are 0."""
        query = select(*FILE_KEY).where(files_table.c.inode == 0).distinct().order_by(*FILE_KEY)
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(query)]

    def unindexed(self, *, missing_only: bool = False) -> list[Ref]:
        """Versions whose point in the collection is missing, or (not ``missing_only``) out of date."""
        columns = table.c.content_digest, table.c.status, table.c.strategy, table.c.area
        current: ColumnElement[Any] = columns[0]
        for column in (*columns[1:], table.c.health):  # as VersionRecord.index_digest
            current = current + "|" + column
        current = current + "|" + cast(table.c.execution_count, String)
        missing = table.c.indexed_digest.is_(None)
        stale = missing if missing_only else or_(missing, table.c.indexed_digest != current)
        with self._database.read() as connection:
            return [Ref(*row) for row in connection.execute(select(*KEY).where(stale))]

    # -- writing ----------------------------------------------------------------------------
    def put(
        self, items: Iterable[tuple[VersionRecord, tuple[DiskFile, ...]]], connection: Connection
    ) -> None:
        """Insert or replace whole rows with their files, inside the caller's transaction.

        What was published is pinned with it, here as in `set_many` and `advance`.
        """
        pairs = list(items)
        if not pairs:
            return
        rows = [version_row(record) for record, _ in pairs]
        statement = self._database.upsert(table, ("playbook_id", "version"), rows)
        connection.execute(statement, rows)
        known = [(record.ref, record.published_digest) for record, _ in pairs]
        self.pins.put([(ref, digest) for ref, digest in known if digest], SERVER, connection)
        for part in _chunks([record.ref for record, _ in pairs]):
            connection.execute(delete(files_table).where(tuple_(*FILE_KEY).in_(part)))
        file_rows = [file_row(record.ref, file) for record, files in pairs for file in files]
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
                if token is not None and ref not in held:
                    results.append(False)
                    continue
                where = [table.c.playbook_id == ref.playbook_id, table.c.version == ref.version]
                statement = update(table).where(*where).values(**column_values(values))
                results.append(connection.execute(statement).rowcount == 1)
                if results[-1] and values.get("published_digest"):
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
                mine = and_(
                    table.c.playbook_id == step.ref.playbook_id,
                    table.c.version == step.ref.version,
                    true() if step.ref in held else false(),
                )
                same = table.c.content_digest == step.content_digest
                values = column_values({**step.facts, **step.state})
                written = not values or (
                    connection.execute(update(table).where(mine, same).values(**values)).rowcount
                    == 1
                )
                if not written and step.facts:
                    facts = column_values(step.facts)
                    connection.execute(update(table).where(mine).values(**facts))
                if step.facts.get("published_digest"):  # the server holds it, whatever came of ours
                    pinned = (step.ref, step.facts["published_digest"])
                    self.pins.put([pinned], PUBLISHED, connection)
                results.append(written)
        return results

    def delete(self, refs: Sequence[Ref], connection: Connection) -> None:
        for part in _chunks(refs):
            connection.execute(delete(files_table).where(tuple_(*FILE_KEY).in_(part)))
            connection.execute(delete(table).where(tuple_(*KEY).in_(part)))
            forget_executions(part, connection)
        StalePoints(self._database).add(refs, connection)

    def withdraw(self, refs: Sequence[Ref]) -> None:
        """Take back the wish to publish of those that the server has not committed."""
        wished = table.c.sync_state.in_([SyncState.PENDING.value, SyncState.DEFERRED.value])
        back = {"sync_state": SyncState.LOCAL, "publish_as": None, "publish_gate": None}
        back |= {"next_attempt_at": None}
        with self._database.write() as connection:
            for part in _chunks(refs):
                connection.execute(
                    update(table)
                    .where(tuple_(*KEY).in_(part), wished, table.c.revision.is_(None))
                    .where(table.c.deleting.is_(False))
                    .values(**back)
                )

    def fail_pending(self, failures: Sequence[tuple[Ref, Outcome]]) -> None:
        """Keep why versions that wait to be published can't be."""
        wished = table.c.sync_state.in_([SyncState.PENDING.value, SyncState.DEFERRED.value])
        with self._database.write() as connection:
            for ref, outcome in failures:
                connection.execute(
                    update(table)
                    .where(tuple_(*KEY).in_([tuple(ref)]), wished)
                    .values(
                        sync_state=SyncState.FAILED,
                        error_type=outcome.error_type,
                        error=outcome.error,
                        attempts=table.c.attempts + 1,
                    )
                )


def _chunks(refs: Sequence[Ref]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(refs), CHUNK):
        yield [(ref.playbook_id, ref.version) for ref in refs[start : start + CHUNK]]


# Changes to the folders that have begun: written before the first rename, gone with the last row.

INTENTS_KEY = (intents_table.c.playbook_id, intents_table.c.version)


class Intents:
    """At most one open intent a version; the store's lock keeps writers apart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, intents: Sequence[Intent]) -> None:
        """Make the intents durable before anything is renamed."""
        rows = [
            {
                "playbook_id": intent.ref.playbook_id,
                "version": intent.ref.version,
                "kind": intent.kind,
                "staged": intent.staged,
                "from_area": intent.from_area,
                "to_area": intent.to_area,
                "record": dump_record(intent.record, intent.files) if intent.record else None,
                "created_at": int(time.time()),
            }
            for intent in intents
        ]
        with self._database.write() as connection:
            connection.execute(insert(intents_table), rows)

    def open(self) -> list[Intent]:
        """What was begun and not finished."""
        with self._database.read() as connection:
            rows = connection.execute(select(intents_table)).all()
        intents = []
        for row in rows:
            record, files = load_record(row.record) if row.record else (None, ())
            intents.append(
                Intent(
                    ref=Ref(row.playbook_id, row.version),
                    kind=row.kind,
                    staged=row.staged,
                    from_area=Area(row.from_area) if row.from_area else None,
                    to_area=Area(row.to_area) if row.to_area else None,
                    record=record,
                    files=files,
                )
            )
        return intents

    def finish(self, refs: Sequence[Ref], connection: Connection) -> None:
        """Close intents in the transaction that writes what they led to."""
        keys = [tuple(ref) for ref in refs]
        connection.execute(delete(intents_table).where(tuple_(*INTENTS_KEY).in_(keys)))
