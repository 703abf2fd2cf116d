"""What an update takes over from the version before it, and which version it becomes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import AlreadyExists, InvalidPlaybook, Refused
from core.journal import VersionRecord
from core.journal.versions import Versions
from core.models import METADATA_FILE, Area, Ref, Status
from core.playbooks.file_requests import CAREFUL, new_wishes
from core.versions import is_higher, next_patch


def inherited_metadata(own: dict[str, Any], previous: VersionRecord) -> dict[str, Any]:
    """A draft's metadata with what it leaves out: id, author, and the care for secrets.

    What it says just as the journal does of the version before is no request of its own.
    """
    raw, playbook_id = dict(own), previous.ref.playbook_id
    if raw.setdefault("playbook_id", playbook_id) != playbook_id:
        raise InvalidPlaybook(
            f"{METADATA_FILE} is of {raw['playbook_id']!r}, not of {playbook_id!r}.",
            "Update that playbook, or change playbook_id in the metadata.",
        )
    if raw.get("author") is None and "author" in previous.metadata:
        raw["author"] = previous.metadata["author"]
    if previous.sensitive:
        raw["sensitive"] = True
    return new_wishes(raw, previous)


def successor_metadata(
    raw: dict[str, Any], version: str, area: Area = Area.LOCAL
) -> dict[str, Any]:
    """Metadata of a new version in ``area``; verdicts on the former one are not carried over."""
    metadata = raw | {"version": version, "updated_at": int(time.time())}
    if area is not Area.AI_GENERATED and metadata.get("status") is None:
        metadata["status"] = Status.READY.value  # an AI's, too, when somebody decided on it
    if metadata.get("status") not in CAREFUL:
        metadata.pop("deprecated_by", None)
        metadata.pop("deprecation_reason", None)
    return metadata


def area_of_successor(metadata: Mapping[str, Any], previous: VersionRecord) -> Area:
    """Where a later version stands: what an AI newly wrote, or nobody decided on, waits.

    Of a playbook that somebody has decided on, later versions are that user's.
    """
    if previous.area is Area.AI_GENERATED:
        return Area.AI_GENERATED
    was, is_now = (m.get("author") == "ai_generated" for m in (previous.metadata, metadata))
    return Area.AI_GENERATED if is_now and not was else Area.LOCAL


def by_ai(record: VersionRecord) -> bool:
    """Whether an AI wrote a version, whatever its author is said to be since."""
    return record.intake == "ai" or record.metadata.get("author") == "ai_generated"


def waits_for_decision(metadata: Mapping[str, Any], former: VersionRecord) -> bool:
    """Whether ``former``, when its content or its place becomes another, waits in ``ai-generated/``.

    A hand that moves the folder out of there decides nothing, and neither does an edit.
    """
    is_now = metadata.get("author") == "ai_generated"
    if former.area is Area.AI_GENERATED:
        return is_now or by_ai(former)
    return is_now and not by_ai(former)


def came_in(how: str, before: Iterable[VersionRecord]) -> str:
    """How a version came in that was made of others: out of an import or of an AI, it still is that."""
    for record in before:
        if by_ai(record):
            return "ai"
        if record.intake == "import":
            return "import"
    return how


def next_version(versions: Versions, latest: Ref, own: object, asked: str | None) -> str:
    """The version after ``latest``: the one asked for, else its ``own`` if higher, else a patch."""
    if asked is None:
        if isinstance(own, str) and is_higher(own, latest.version):
            return own
        return free_patch(versions, latest)
    if versions.get(Ref(latest.playbook_id, asked)) is not None:
        raise AlreadyExists(
            f"{latest.playbook_id}@{asked} exists already.", "Give a higher version."
        )
    if not is_higher(asked, latest.version):
        raise Refused(
            f"{asked} is not higher than the latest version {latest.version} of"
            f" {latest.playbook_id}.",
            "Give a higher version, or use `escher-playbooks create --version`.",
        )
    return asked


def free_patch(versions: Versions, ref: Ref) -> str:
    """The next patch version after ``ref`` that names nothing, here or ever before."""
    taken = {row.ref.version for row in versions.of_playbook(ref.playbook_id)}
    return next_patch(ref.version, taken.union(versions.pins.versions_of(ref.playbook_id)))


def check_pin(versions: Versions, ref: Ref, digest: str) -> None:
    """`AlreadyExists` where ``ref`` names other content than ``digest`` for ever."""
    if versions.pins.get(ref) not in {None, digest}:
        raise pinned(versions, ref)


def pinned(versions: Versions, ref: Ref) -> AlreadyExists:
    """The refusal of other content under a name that was published once."""
    free = free_patch(versions, ref)
    return AlreadyExists(
        f"{ref} was published, here or elsewhere, and names that content for ever.",
        f"Give another version; {free} is free.",
    )
