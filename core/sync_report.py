"""The report that a sync leaves behind: ``cache/metadata/last_sync.json``, for people to read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from core.bounded_json import BadJson, read_stored_object
from core.files import atomic_write, json_bytes, make_private_dir
from core.journal import Journal
from core.models import SyncState
from core.secrets.findings import findings_json
from core.settings import Settings
from core.sync import SyncPlan

FORMAT_VERSION = 1
MAX_FINDINGS = 500  # in the report; `show` has them all
MAX_REASONS = 200  # named in the report; the journal has them all
SINCE = "sync_counters"  # in the journal's facts: the sums at the report before
COUNTED = ("published", "deleted", "bytes_sent")


def write_report(settings: Settings, journal: Journal, plan: SyncPlan) -> dict[str, Any]:
    """Write the SyncReport of a sync and return it.

    ``published``, ``deleted`` and ``bytes`` are what was done since the report before, by whatever
    worker; ``queued`` is what this sync found to be done. Times are Unix seconds.
    """
    counts = journal.versions.counts()
    sums = journal.counters.all()
    before = json.loads(journal.facts.get(SINCE) or "{}")
    done = {name: sums.get(name, 0) - int(before.get(name, 0)) for name in COUNTED}
    failed = _failures(journal, plan)
    if plan.pull.passed_over:
        failed["changes feed (more)"] = f"{plan.pull.passed_over} more items are passed over."
    report = {
        "format_version": FORMAT_VERSION,
        "at": int(plan.started_at),
        "duration_ms": max(0, int((time.time() - plan.started_at) * 1000)),
        "scanned": plan.scan.scanned,
        "unchanged": plan.scan.unchanged,
        "published": done["published"],
        "updated": len(plan.pull.updated),
        "deleted": done["deleted"] + len(plan.pull.deleted),
        "pulled": len(plan.pull.pulled),
        "fetched": len(plan.fetched),
        "bytes": done["bytes_sent"],
        "edits": {
            "updated": [str(ref) for ref in plan.edits.updated],
            "kept_as": {str(ref): str(kept) for ref, kept in plan.edits.kept_as.items()},
            "added": [str(ref) for ref in plan.edits.added],
            "moved": [str(ref) for ref in plan.edits.moved],
            "forgotten": [str(ref) for ref in plan.edits.forgotten],
            "restored": [str(ref) for ref in plan.edits.restored],
            "waiting": plan.edits.waiting,
            "held": {str(held.ref): held.as_text() for held in journal.held_edits.entries()}
            | plan.edits.held,
        },
        "findings": findings_json(plan.edits.findings)[:MAX_FINDINGS],
        # no part of what is published, until an update takes them in
        "beside": {str(ref): list(paths) for ref, paths in plan.scan.beside.items()},
        "executions_sent": plan.executions.sent,
        "pending": counts["pending"],
        "deferred": counts["deferred"],
        "deferrals": dict(list(_deferrals(journal, plan).items())[:MAX_REASONS]),
        "failed": len(failed),
        "failures": dict(list(failed.items())[:MAX_REASONS]),
        "conflicts": [decided.as_json() for decided in plan.pull.conflicts],
        "open_conflicts": journal.conflicts.open_count(),
        "offline": plan.offline,
        "partial": bool(failed) or plan.pull.is_partial,
        "full_pass": plan.pull.full,
        "passed_over": plan.pull.passed_over,
        "trashed": plan.pull.trashed[:MAX_REASONS],
        "deletions_waiting": journal.waiting.counts()["deletions"],
        "absent": len(journal.versions.absent()),
        "sent_again": [str(ref) for ref in plan.pull.sent_again[:MAX_REASONS]],
        "queued": {
            "publish": len(plan.publish),
            "embed": len(plan.embed),
            "delete": len(plan.delete),
        },
    }
    if plan.scan.quiet_in is not None:
        report["quiet_in_seconds"] = round(plan.scan.quiet_in, 1)
    make_private_dir(_path(settings).parent)
    atomic_write(_path(settings), json_bytes(report))
    journal.facts.set(SINCE, json.dumps({name: sums.get(name, 0) for name in COUNTED}))
    return report


def read_report(settings: Settings) -> dict[str, Any] | None:
    """The last report, None before the first sync."""
    try:
        return read_stored_object(_path(settings).read_bytes())
    except (FileNotFoundError, BadJson):
        return None


def _failures(journal: Journal, plan: SyncPlan) -> dict[str, str]:
    """Reasons by ``id@version`` or path, of everything that somebody has to look at."""
    failed = journal.versions.select(sync=SyncState.FAILED.value)
    waiting = {"@".join(item.name): item.reason for item in journal.waiting.failed()}
    return {
        **plan.scan.broken,
        **plan.edits.failed,
        # not only those that this sync has tried again
        **{name: why for name, why in waiting.items() if name not in plan.pull.deferred},
        **plan.pull.failed,
        **{str(ref): reason for ref, reason in plan.executions.failed.items()},
        **plan.failed,
        **{str(record.ref): record.error or "failed" for record in failed},
    }


def _deferrals(journal: Journal, plan: SyncPlan) -> dict[str, str]:
    """Reasons of what is tried again by itself."""
    deferred = journal.versions.select(sync=SyncState.DEFERRED.value)
    return {
        **plan.edits.deferred,
        **plan.pull.deferred,
        **{str(ref): reason for ref, reason in plan.executions.deferred.items()},
        **plan.deferred,
        **{str(record.ref): record.error or "deferred" for record in deferred},
    }


def _path(settings: Settings) -> Path:
    return settings.cache_path / "metadata" / "last_sync.json"
