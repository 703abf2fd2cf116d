"""``id@version`` exists once across ``local/``, ``synced/`` and ``ai-generated/``.

And it names one content for ever, once that was published (`core.journal.pins`).
"""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import AlreadyExists, EscherError, Unchanged
from core.journal import Intent
from core.journal.versions import Versions
from core.models import Ref
from core.playbooks.layout import Layout
from core.playbooks.successors import pinned
from core.versions import parse_version


def refuse_taken(
    versions: Versions, layout: Layout, intents: Sequence[Intent]
) -> dict[str, EscherError]:
    """Errors by staged name for new versions that exist as a row or a folder, or name other content."""
    refs = [intent.ref for intent in intents]
    rows, pins = versions.get_many(refs), versions.pins.get_many(refs)
    errors: dict[str, EscherError] = {}
    seen: set[Ref] = set()
    for intent in intents:
        ref = intent.ref
        row = rows.get(ref)
        if row and intent.record and row.content_digest == intent.record.content_digest:
            errors[str(intent.staged)] = Unchanged(
                f"{ref} exists already, with this very content.", "There is nothing to do."
            )
        elif row or ref in seen or _differs_in_case_only(versions, ref):
            errors[str(intent.staged)] = AlreadyExists(
                f"{ref} exists already.",
                "Give another version, or use `escher-playbooks update`.",
            )
        elif intent.record and pins.get(ref) not in {None, intent.record.content_digest}:
            errors[str(intent.staged)] = pinned(versions, ref)
        elif standing := layout.standing(ref):
            errors[str(intent.staged)] = AlreadyExists(
                f"A folder of {ref} stands in {standing[0]}/ that the journal does not know.",
                "`escher-playbooks verify` tells what to do about it.",
            )
        seen.add(ref)
    return errors


def _differs_in_case_only(versions: Versions, ref: Ref) -> bool:
    """1.0.0-RC beside 1.0.0-rc: one folder on some file systems."""
    if parse_version(ref.version).prerelease is None:
        return False
    others = versions.of_playbook(ref.playbook_id)
    return any(other.ref.version.lower() == ref.version.lower() for other in others)
