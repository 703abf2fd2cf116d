"""What a playbook's file may ask for and not decide: its strategy, status, author and run counts.

::

    the file says                     what is followed
    storage_strategy                  nothing: `local_only` until the user chooses
    status of CAREFUL                 stays; any other becomes `ready` (of an AI: `draft` when absent)
    author: ai_generated              waits for a decision; any author is stored and gives no right
    execution_count, success_count, last_executed      nothing: they are counted, not told

What is not followed is kept in the journal as the file's request (`VersionRecord.asked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidPlaybook
from core.journal import VersionRecord
from core.models import METADATA_FILE, Ref, Status, Strategy

CAREFUL = frozenset({
    Status.DRAFT, Status.DEPRECATED, Status.ARCHIVED, Status.REJECTED, Status.BROKEN,
    Status.NEEDS_UPDATE,
})  # fmt: skip
_VERDICTS = frozenset({Status.DEPRECATED, Status.REJECTED})
COUNTS = ("execution_count", "success_count", "last_executed")
_MAX_TOLD = 100  # characters of a value that is kept as a request


@dataclass(frozen=True, slots=True)
class Standing:
    """What the service itself says of a version, whatever its file says.

    ``status`` None: a new version, whose file may choose a careful one.
    """

    strategy: Strategy = Strategy.LOCAL_ONLY
    status: Status | None = None


def follow(
    metadata: Mapping[str, Any], standing: Standing
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata with the values that hold, and what its file asked for besides.

    `InvalidPlaybook` for a strategy or status that there is not: a typing error is no request.
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
    _hold(held, asked, "storage_strategy", standing.strategy.value)
    status = standing.status or _status(held)
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


def of_server(record: VersionRecord) -> Standing:
    """A published version: the server says what it is."""
    return Standing(record.strategy, record.status)


def new_wishes(metadata: Mapping[str, Any], record: VersionRecord) -> dict[str, Any]:
    """Metadata of an edited file without what it says just as the journal does: no request.

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
    """The status of an unpublished version after an edit: only a careful one is followed."""
    own = metadata.get("status")
    if isinstance(own, str) and own in CAREFUL:
        return Status(own)
    return Status.READY if record.asked.get("status") == record.status else record.status


def asks_to_leave(asked: Mapping[str, Any]) -> bool:
    """Whether a file asks for a strategy under which something is uploaded."""
    return asked.get("storage_strategy") in {Strategy.REVIEW, Strategy.TRUSTED}


def told(ref: Ref, asked: Mapping[str, Any]) -> list[str]:
    """Warnings about requests that an honest author may have expected to be followed."""
    if not asks_to_leave(asked):
        return []
    strategy = asked["storage_strategy"]
    as_ = "review" if strategy == Strategy.REVIEW else "trusted"
    how = f"escher-playbooks publish {ref} --as {as_}"
    return [f"{METADATA_FILE} asks for {strategy}: it stays here until you choose ({how})"]
