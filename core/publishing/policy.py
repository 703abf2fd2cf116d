"""Decides what may be published, and as what.

::

    never       sensitive, Escher Library (using_default): whoever asks, however they ask
    not yet     ai-generated without a decision, an open conflict, a deletion under way
    a choice    local_only: only with a strategy given for this very publication
    nothing     the server holds this content already

`decide` is asked when somebody wants to publish, `forbidden` again right before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.errors import UsageError
from core.journal.versions import VersionRecord
from core.models import RESERVED_PREFIX, Area, Ref, Strategy, SyncState

ALREADY_PUBLISHED = "already published"
_ONE_BY_ONE = "Name each version that you trust: ID@VERSION; or publish as review."


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The answer to a request to publish; ``left_out`` is ``{"id@version": reason}``."""

    accepted: list[Ref] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def check_choice(as_: Strategy | None) -> None:
    """Refuse a strategy under which nothing is uploaded."""
    if as_ is not None and not as_.is_uploaded:
        raise UsageError(f"{as_.value} uploads nothing.", "Publish --as review or --as trusted.")


def check_trusted(names: Sequence[str] | None, unpublished: Callable[[str], int]) -> None:
    """Refuse to publish as trusted what is not named one by one.

    ``names``: ids and refs as they were asked for, None for all; ``unpublished`` counts an id's
    versions that the server does not have. Raises `UsageError`.
    """
    if names is None:
        raise UsageError("All at once can only go to review.", _ONE_BY_ONE)
    for name in names:
        if "@" not in name and (count := unpublished(name)) != 1:
            raise UsageError(
                f"{name} has {count} unpublished versions: `trusted` is for one.", _ONE_BY_ONE
            )


def forbidden(record: VersionRecord) -> str | None:
    """Return why this content must not leave this machine, or None."""
    if record.sensitive:
        return "sensitive: a sensitive playbook never leaves this machine"
    if record.strategy is Strategy.DEFAULT or record.ref.playbook_id.startswith(RESERVED_PREFIX):
        return "using_default: it is the Escher Library's, there is nothing to send"
    if record.area is Area.AI_GENERATED:
        return "ai-generated: decide first (escher-playbooks decide ID@VERSION review|trusted)"
    return None


def decide(record: VersionRecord, as_: Strategy | None) -> tuple[Strategy | None, str]:
    """Return ``(strategy, "")`` when the version may be published, else ``(None, reason)``.

    ``as_`` is the caller's choice; without it an earlier choice counts, never a file's request.
    """
    reason = forbidden(record)
    if reason is not None:
        return None, reason
    if record.deleting:
        return None, "it is being deleted"
    if is_published(record) and record.sync_state is SyncState.PUBLISHED:
        return None, ALREADY_PUBLISHED
    if record.sync_state is SyncState.CONFLICT:
        return None, "open conflict: choose with escher-playbooks conflicts resolve"
    strategy = as_ or record.chosen_strategy
    if not strategy.is_uploaded:
        return None, "local_only: choose with --as review or --as trusted"
    return strategy, ""


def is_published(record: VersionRecord) -> bool:
    """Tell whether the server has committed exactly this content."""
    return record.revision is not None and record.published_digest == record.content_digest
