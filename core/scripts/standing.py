"""What is known of a version that says whether it may be run, from the journal or from the server."""

from __future__ import annotations

from core.journal.script_rows import ToldStatus, VersionFacts
from core.models import Area, Ref, Status
from core.scripts.entries import LIBRARY_PREFIX
from core.scripts.run_policy import RunFacts, was_approved
from core.server.answers import Script


def facts_here(playbook_id: str, known: VersionFacts) -> RunFacts:
    """Of a version that the journal knows."""
    return RunFacts(
        Ref(playbook_id, known.version),
        known.status,
        published=known.published,
        made_here=known.made_here,
        origin_known=known.origin_known,
        undecided=known.area is Area.AI_GENERATED,
        was_approved=was_approved(known.status, known.strategy, is_library=False),
        in_conflict=known.in_conflict,
        broke_here=known.health == "broken",
        has_format=known.has_format,
        deprecated_by=known.deprecated_by,
        publisher=known.published_by,
        status_at=known.status_at,
    )


def facts_there(ref: Ref, told: ToldStatus | None, *, in_conflict: bool = False) -> RunFacts:
    """Of a version that only the server knows, by what it said of it last (None: nothing yet).

    The Escher Library shows what was reviewed: approved, unless it says otherwise.
    """
    told = told or ToldStatus(None, None, None, None, 0)
    is_library = ref.playbook_id.startswith(LIBRARY_PREFIX)
    status = told.status
    if status is None and is_library:
        status = Status.APPROVED.value
    return RunFacts(
        ref,
        status,
        published=True,
        was_approved=was_approved(status, told.strategy, is_library=is_library),
        in_conflict=in_conflict,
        deprecated_by=told.deprecated_by,
        publisher=told.published_by or ("escher-library" if is_library else None),
        status_at=told.told_at or None,
    )


def told_by(script: Script, now: float) -> ToldStatus:
    """What a script answer says of its version; a status that is none is not told."""
    metadata = script.metadata or {}
    status = script.status or metadata.get("status")
    known = {member.value for member in Status}
    return ToldStatus(
        str(status) if status in known else None,
        _text(metadata.get("storage_strategy"), 24),
        _text(script.published_by, 200),
        _text(metadata.get("deprecated_by"), 200),
        int(now),
    )


def _text(value: object, length: int) -> str | None:
    return value[:length] if isinstance(value, str) and value else None
