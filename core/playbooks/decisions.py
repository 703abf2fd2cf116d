"""Who decides what of a playbook: what its file may ask for, and what only the user says.

::

    the file says                     what is followed
    storage_strategy                  nothing: `local_only` until the user chooses
    status of CAREFUL                 stays; any other becomes `ready` (of an AI: `draft` when absent)
    author: ai_generated              waits for a decision; any author is stored and gives no right
    execution_count, success_count, last_executed      nothing: they are counted, not told

    the user decides on what an AI made
    ai-generated/<id>-v<version>/ ── keep ─────► local/, local_only
                                  ── review ───► local/, to be published for review
                                  ── trusted ──► local/, to be published as trusted
                                  ── discard ──► gone

What is not followed is kept in the journal as the file's request (`VersionRecord.asked`). Nothing that
an AI made is published before the decision, which is one intent: a process that is killed in between
has decided everything or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from core.errors import InvalidPlaybook, Refused, UsageError
from core.journal import VersionRecord
from core.models import METADATA_FILE, Area, Move, Ref, Status, Strategy

if TYPE_CHECKING:  # it imports this module
    from core.playbooks.store import PlaybookStore

CAREFUL = frozenset({
    Status.DRAFT, Status.DEPRECATED, Status.ARCHIVED, Status.REJECTED, Status.BROKEN,
    Status.NEEDS_UPDATE,
})  # fmt: skip
_VERDICTS = frozenset({Status.DEPRECATED, Status.REJECTED})
COUNTS = ("execution_count", "success_count", "last_executed")
_MAX_TOLD = 100  # characters of a value that is kept as a request


@dataclass(frozen=True, slots=True)
class Decided:
    """What the service itself says of a version, whatever its file says; the server, if published.

    ``status`` None: a new version, whose file may choose a careful one.
    """

    strategy: Strategy = Strategy.LOCAL_ONLY
    status: Status | None = None


def split_requests(
    metadata: Mapping[str, Any], decided: Decided
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata with the values that hold, and what its file asked for besides.

    Raises `InvalidPlaybook` for a strategy or status that there is not: a typing error is no request.
    """
    held = dict(metadata)
    asked: dict[str, Any] = {}
    for name, known in (("storage_strategy", Strategy), ("status", Status)):
        value = held.get(name)
        if value is not None and (not isinstance(value, str) or value not in set(known)):
            raise InvalidPlaybook(
                f"{METADATA_FILE}: {name} {str(value)[:_MAX_TOLD]!r} is unknown.",
                f"Use one of {', '.join(known)}, or leave it out.",
            )
    _hold(held, asked, "storage_strategy", decided.strategy.value)
    status = decided.status or _status(held)
    _hold(held, asked, "status", status.value)
    for name in COUNTS:
        value = held.pop(name, None)
        if value is not None:
            asked[name] = _told(value)
    if held.get("author") == "escher_library":
        asked["author"] = "escher_library"
    return held, asked


def _hold(held: dict[str, Any], asked: dict[str, Any], name: str, value: str) -> None:
    if held.get(name) not in {None, value}:
        asked[name] = held[name]
    held[name] = value


def _status(metadata: Mapping[str, Any]) -> Status:
    own = metadata.get("status")
    if own is None:
        return Status.DRAFT if metadata.get("author") == "ai_generated" else Status.READY
    return Status(own) if own in CAREFUL else Status.READY


def _told(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:_MAX_TOLD]


def new_requests(metadata: Mapping[str, Any], record: VersionRecord) -> dict[str, Any]:
    """Return an edited file's metadata without what it says just as the journal does: no request.

    The verdict on a version is none on what is made of it; that it is a draft or broken may be.
    """
    told_before = {"storage_strategy", *COUNTS}
    if metadata.get("status") not in CAREFUL - _VERDICTS:
        told_before.add("status")
    return {
        name: value
        for name, value in metadata.items()
        if name not in told_before or value != record.metadata.get(name)
    }


def status_of_edit(metadata: Mapping[str, Any], record: VersionRecord) -> Status:
    """Return the status of an unpublished version after an edit: only a careful one is followed."""
    own = metadata.get("status")
    if isinstance(own, str) and own in CAREFUL:
        return Status(own)
    return Status.READY if record.asked.get("status") == record.status else record.status


def asks_for_upload(asked: Mapping[str, Any]) -> bool:
    """Whether a file asks for a strategy under which something is uploaded."""
    return asked.get("storage_strategy") in {Strategy.REVIEW, Strategy.TRUSTED}


def request_warnings(ref: Ref, asked: Mapping[str, Any]) -> list[str]:
    """Warn about requests that an honest author may have expected to be followed."""
    if not asks_for_upload(asked):
        return []
    strategy = asked["storage_strategy"]
    as_ = "review" if strategy == Strategy.REVIEW else "trusted"
    how = f"escher-playbooks publish {ref} --as {as_}"
    return [f"{METADATA_FILE} asks for {strategy}: it stays here until you choose ({how})"]


# -- what an AI made ---------------------------------------------------------------------------


class Decision(StrEnum):
    """What the user may decide on a version that an AI made."""

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
