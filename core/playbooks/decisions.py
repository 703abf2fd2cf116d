"""The user's decision on a playbook that an AI made; nothing of it is published before.

::

    ai-generated/<id>-v<version>/ ── keep ─────► local/, local_only
                                  ── review ───► local/, to be published for review
                                  ── trusted ──► local/, to be published as trusted
                                  ── discard ──► gone

A draft becomes ready, so that search finds it. The move, the strategy and the wish to publish are one intent: a process that is killed in between
has decided everything or nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from core.errors import Refused, UsageError
from core.journal import VersionRecord
from core.models import Area, Move, Ref, Status, Strategy
from core.playbooks.store import PlaybookStore


class Decision(StrEnum):
    KEEP = "keep"
    REVIEW = "review"
    TRUSTED = "trusted"
    DISCARD = "discard"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Accept ``keep|review|trusted|discard``, and strategies by their long names."""
        long = {s.value: short for short, s in _STRATEGIES.items()}
        try:
            return cls(long.get(text, text))
        except ValueError as error:
            raise UsageError(
                f"Decision {text!r} is unknown.", "Use keep, review, trusted or discard."
            ) from error

    @property
    def strategy(self) -> Strategy | None:
        """The storage strategy it stands for; None for `DISCARD`."""
        return _STRATEGIES.get(self.value)


_STRATEGIES = {
    "keep": Strategy.LOCAL_ONLY,
    "review": Strategy.REVIEW,
    "trusted": Strategy.TRUSTED,
}


def decide(store: PlaybookStore, ref: Ref, decision: Decision) -> None:
    """Carry a decision out; durable when this returns, and the same one again is harmless.

    Raises `NotFound`, `Refused` (it does not wait for a decision, or is sensitive and may not be
    uploaded), or `LeaseHeld` while another process is at it.
    """
    with store.leased([ref]):
        record = store.get(ref)
        if _is_decided(record, decision):
            return
        if record.area is not Area.AI_GENERATED:
            raise Refused(
                f"{ref} stands in {record.area}/: it does not wait for a decision.",
                "Use `escher-playbooks publish --as …` to publish it, or `delete` to remove it.",
            )
        strategy = decision.strategy
        if strategy is None:
            store.delete([ref])
            return
        if strategy.is_uploaded and record.sensitive:
            raise Refused(
                f"{ref} is sensitive: it never leaves this machine.",
                f"Use `escher-playbooks decide {ref} keep`.",
            )
        changes = {"storage_strategy": strategy.value}
        if record.status is Status.DRAFT:  # which it was for want of a decision
            changes["status"] = Status.READY.value
        store.move([Move(ref, Area.LOCAL, changes)])
    if strategy is Strategy.REVIEW:
        store.journal.choices.choose_review([ref.playbook_id])


def _is_decided(record: VersionRecord, decision: Decision) -> bool:
    """Whether this very decision was made already, and nothing came after it."""
    is_of_ai = record.metadata.get("author") == "ai_generated"
    return (
        is_of_ai
        and record.area is Area.LOCAL
        and decision.strategy is not None
        and record.strategy is decision.strategy
        and (record.publish_as in {None, decision.strategy})
    )
