"""The journal's rows as the rest of the code sees them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from core.models import (
    Area,
    FileEntry,
    Playbook,
    PlaybookMetadata,
    Ref,
    Status,
    Strategy,
    SyncInfo,
    SyncState,
)


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file of a version and the stat under which its bytes were last seen."""

    entry: FileEntry
    disk_size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def executables(files: Iterable[DiskFile]) -> set[str]:
    """The paths of the files that are executable, as the version's digest says."""
    return {file.entry.path for file in files if file.entry.executable}


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One row of ``versions``; ``metadata`` is the JSON object as on disk."""

    ref: Ref
    area: Area
    content_digest: str
    metadata: dict[str, Any]
    generation: int = 1
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
    intake: str | None = (
        None  # create | update | edit | import | ai | adopt | pull; None: not known
    )
    asked: dict[str, Any] = field(default_factory=dict)  # what its file asked for in vain
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


@dataclass(frozen=True, slots=True)
class Intent:
    """A change to the folders that has begun; replayed at start-up when it was not finished."""

    ref: Ref
    kind: str  # write | move | take | delete
    staged: str | None = None
    from_area: Area | None = None
    to_area: Area | None = None
    record: VersionRecord | None = None
    files: tuple[DiskFile, ...] = ()


class JobState(StrEnum):
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


@dataclass(frozen=True, slots=True)
class JobItem:
    ref: str
    state: JobState
    step: str | None = None
    attempts: int = 0
    error_type: str | None = None
    error: str | None = None
    next_attempt_at: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            "state": self.state.value,
            "step": self.step,
            "attempts": self.attempts,
            "error": self.error,
            "error_type": self.error_type,
            "next_attempt_at": self.next_attempt_at,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """What somebody asked for and how far it is; the contract's job document."""

    job_id: str
    kind: str
    request: dict[str, Any]
    state: JobState
    total: int
    succeeded: int
    failed: int
    deferred: int
    cancelled: int
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    items: tuple[JobItem, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Nothing is left for a worker now; what was deferred waits for a later sync."""
        done = self.succeeded + self.failed + self.deferred + self.cancelled
        return not self.state.is_open or (self.total > 0 and done >= self.total)

    def as_json(self, *, with_items: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": self.state.value,
            "total": self.total,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "deferred": self.deferred,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }
        if self.error:
            body["error"] = self.error
        if self.result is not None:
            body["result"] = self.result
        if with_items:
            body["items"] = [item.as_json() for item in self.items]
        return body


def dump_record(record: VersionRecord, files: tuple[DiskFile, ...]) -> str:
    """A record and its files as the JSON that an intent keeps."""
    body = {
        "record": {
            name: getattr(record, name)
            for name in VersionRecord.__slots__
            if name not in {"ref", "warnings"}
        },
        "ref": list(record.ref),
        "warnings": list(record.warnings),
        "files": [
            [
                f.entry.path,
                f.entry.size_bytes,
                f.entry.checksum,
                f.disk_size,
                f.mtime_ns,
                f.ctime_ns,
                f.inode,
                f.entry.executable,
            ]
            for f in files
        ],
    }
    return json.dumps(body)


def load_record(text: str) -> tuple[VersionRecord, tuple[DiskFile, ...]]:
    """The other way of `dump_record`."""
    body = json.loads(text)
    values = body["record"]
    values["area"] = Area(values["area"])
    values["sync_state"] = SyncState(values["sync_state"])
    values["publish_as"] = Strategy(values["publish_as"]) if values["publish_as"] else None
    record = VersionRecord(ref=Ref(*body["ref"]), warnings=tuple(body["warnings"]), **values)
    files = tuple(
        DiskFile(FileEntry(*row[:3], *row[7:]), *row[3:7])  # older ones end at 7
        for row in body["files"]
    )
    return record, files


# Rows of ``versions`` and ``files`` from records, and the other way.


def column_values(values: dict[str, Any]) -> dict[str, Any]:
    """Column values from field values: metadata brings its derived columns with it."""
    columns = dict(values)
    if "metadata" in columns:
        columns.update(_metadata_columns(columns["metadata"]))
    if "s3_paths" in columns:
        columns["s3_paths"] = json.dumps(columns["s3_paths"])
    if "asked" in columns:
        columns["asked"] = json.dumps(columns["asked"]) if columns["asked"] else None
    if "warnings" in columns:
        columns["warnings"] = json.dumps(list(columns["warnings"]))
    return columns


def _metadata_columns(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": json.dumps(metadata, ensure_ascii=False),
        "name": metadata["name"],
        "status": metadata.get("status", "ready"),
        "strategy": metadata.get("storage_strategy", "local_only"),
        "author": metadata.get("author", "user_custom"),
        "clouds": "," + ",".join(metadata.get("cloud_provider", [])) + ",",
        "sensitive": bool(metadata.get("sensitive", False)),
        "created_at": metadata["created_at"],
        "updated_at": metadata["updated_at"],
    }


PLAIN_FIELDS = (
    "area", "content_digest", "generation", "sync_state", "publish_as", "publish_gate", "uploaded_digest",
    "published_digest", "revision", "published_at", "deleting", "error_type", "error", "attempts",
    "next_attempt_at", "made_here", "intake", "published_here", "published_by", "status_at",
    "absent_since", "indexed_digest", "health", "execution_count", "success_count", "last_executed",
)  # fmt: skip


def version_row(record: VersionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in PLAIN_FIELDS}
    row["playbook_id"], row["version"] = record.ref
    row.update(column_values({
        "metadata": record.metadata, "s3_paths": record.s3_paths, "warnings": record.warnings,
        "asked": record.asked,
    }))  # fmt: skip
    return row


def version_record(row: Row[Any]) -> VersionRecord:
    values = {name: getattr(row, name) for name in PLAIN_FIELDS}
    values["area"] = Area(row.area)
    values["sync_state"] = SyncState(row.sync_state)
    values["publish_as"] = Strategy(row.publish_as) if row.publish_as else None
    return VersionRecord(
        ref=Ref(row.playbook_id, row.version),
        metadata=json.loads(row.metadata),
        s3_paths=json.loads(row.s3_paths or "{}"),
        asked=json.loads(row.asked or "{}"),
        warnings=tuple(json.loads(row.warnings)),
        **values,
    )


def file_row(ref: Ref, file: DiskFile) -> dict[str, Any]:
    return {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "path": file.entry.path,
        "size_bytes": file.entry.size_bytes,
        "checksum": file.entry.checksum,
        "executable": file.entry.executable,
        "disk_size": file.disk_size,
        "mtime_ns": file.mtime_ns,
        "ctime_ns": file.ctime_ns,
        "inode": file.inode,
    }


def disk_file(row: Row[Any]) -> DiskFile:
    entry = FileEntry(row.path, row.size_bytes, row.checksum, bool(row.executable))
    return DiskFile(entry, row.disk_size, row.mtime_ns, row.ctime_ns, row.inode)
