"""Closes items of jobs whose work was done, or became impossible, without their own messages.

A command without `up` indexes in its own process, a version is deleted, a wish is withdrawn, a
broker forgets a message: the journal knows what became of the version, the job's item does not.
"""

from __future__ import annotations

from core.journal import VersionRecord
from core.models import DONE, Outcome, OutcomeState, Ref, SyncState
from core.point_sources import Record
from core.service import PlaybookService

GONE = Outcome(OutcomeState.SKIPPED, error="deleted")
INDEXING = frozenset({"embed", "reindex"})
WITHDRAWN = Outcome(OutcomeState.SKIPPED, error="withdrawn")


def close_settled(service: PlaybookService) -> None:
    """Note what the journal says of every open item; what is still to be done stays open."""
    for kind, names in service.journal.jobs.open_items().items():
        refs = [Ref.parse(name) for name in names]
        records = service.journal.versions.get_many(refs)
        points = service.indexing.sources.records(refs) if kind in INDEXING else {}
        outcomes: dict[str, Outcome] = {}
        for ref in refs:
            if kind in INDEXING:
                found = _indexed(service, points.get(ref))
            else:
                found = _outcome(kind, records.get(ref))
            if found is not None:
                outcomes[str(ref)] = found
        step = {"publish": "settle", "reindex": "embed"}.get(kind, kind)
        service.journal.jobs.note(step, outcomes)


def _indexed(service: PlaybookService, record: Record | None) -> Outcome | None:
    if record is None:
        return GONE
    current = record.indexed_digest == record.index_digest
    return DONE if current or not service.indexing.sources.wants(record) else None


def _outcome(kind: str, record: VersionRecord | None) -> Outcome | None:
    match kind:
        case "publish":
            return _published(record)
        case "delete":
            if record is None:
                return DONE
            if record.deleting:
                return None
            return Outcome(OutcomeState.FAILED, record.error_type, record.error or "not deleted")
        case _:
            return None


def _published(record: VersionRecord | None) -> Outcome | None:
    if record is None or record.deleting:
        return GONE
    match record.sync_state:
        case SyncState.PUBLISHED:
            return DONE
        case SyncState.LOCAL:
            return WITHDRAWN
        case SyncState.FAILED | SyncState.CONFLICT:
            return Outcome(OutcomeState.FAILED, record.error_type, record.error)
        case _:
            return None
