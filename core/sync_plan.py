"""What a sync finds to be done, and the report that it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files import atomic_write, json_bytes, make_private_dir
from core.indexing import Indexing
from core.journal import Journal
from core.models import Ref
from core.publishing.publisher import Publisher
from core.settings import Settings


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """The versions that each workflow is to be queued for."""

    started_at: float
    scanned: int
    publish: list[Ref]
    embed: list[Ref]
    delete: list[Ref]
    unindex: list[Ref]


def make_plan(
    journal: Journal, publisher: Publisher, indexing: Indexing, under_way: Collection[Ref]
) -> SyncPlan:
    """Compare what is with what should be; nothing is changed.

    ``under_way``: versions for which a message stands in the broker; they are left out.
    """
    now = time.time()
    publish = [r.ref for r in publisher.due(now) if r.ref not in under_way]
    stale = set(journal.versions.unindexed()).difference(publish, under_way)
    records = journal.versions.get_many(sorted(stale))
    return SyncPlan(
        started_at=now,
        scanned=journal.versions.counts()["versions"],
        publish=publish,
        embed=[ref for ref, record in records.items() if indexing.wants(record)],
        delete=[r.ref for r in publisher.due_deletes(now) if r.ref not in under_way],
        unindex=journal.stale_points.refs(),
    )


def write_report(settings: Settings, journal: Journal, plan: SyncPlan) -> dict[str, Any]:
    """Put the report into ``cache/metadata/last_sync.json``, for people to read, and return it."""
    counts = journal.versions.counts()
    report = {
        "at": int(plan.started_at),
        "duration_ms": int((time.time() - plan.started_at) * 1000),
        "scanned": plan.scanned,
        "queued": {
            "publish": len(plan.publish),
            "embed": len(plan.embed),
            "delete": len(plan.delete),
        },
        "published": counts["published"],
        "pending": counts["pending"],
        "deferred": counts["deferred"],
        "failed": counts["failed"],
        "conflicts": counts["conflict"],
    }
    make_private_dir(_report_path(settings).parent)
    atomic_write(_report_path(settings), json_bytes(report))
    return report


def read_report(settings: Settings) -> dict[str, Any] | None:
    """The last report, None before the first sync."""
    try:
        report = json.loads(_report_path(settings).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return report if isinstance(report, dict) else None


def _report_path(settings: Settings) -> Path:
    return settings.cache_path / "metadata" / "last_sync.json"
