"""Rows of ``versions`` and ``files`` from records, and the other way."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from core.journal.records import DiskFile, VersionRecord
from core.models import Area, FileEntry, Ref, Strategy, SyncState


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
