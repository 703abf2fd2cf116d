"""Rules of versions: what one takes over from the version before, what it is called, where it stands.

``id@version`` exists once across ``local/``, ``synced/`` and ``ai-generated/``, and names one content
for ever once that was published (`core.journal.pins`). Nothing on disk changes here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import (
    AlreadyExists,
    EscherError,
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    Refused,
    Unchanged,
    UsageError,
)
from core.journal import Intent, Journal, VersionRecord
from core.journal.versions import Versions
from core.models import (
    METADATA_FILE,
    SERVER_OWNED_FIELDS,
    Area,
    FileEntry,
    Move,
    PlaybookDraft,
    Ref,
    Status,
    Strategy,
    SyncState,
    is_higher,
    next_patch,
    parse_metadata,
    parse_version,
)
from core.playbooks.compare import read_metadata
from core.playbooks.decisions import CAREFUL, new_requests
from core.playbooks.entry_points import makes, only_given
from core.playbooks.ids_from_names import id_from_name, same_name
from core.playbooks.paths import Layout
from core.playbooks.unix_times import kept_time


def id_of(draft: PlaybookDraft) -> str | None:
    """The id that a draft will get; None where it has none (and is refused for that)."""
    own, name = draft.metadata.get("playbook_id"), draft.metadata.get("name")
    if own is None and isinstance(name, str):
        return id_from_name(name)
    return own if isinstance(own, str) else None


def label_of(draft: PlaybookDraft) -> Ref:
    """What to call a draft in a result, as far as it names itself."""
    metadata = draft.metadata
    name = metadata.get("playbook_id") or metadata.get("name") or "?"
    return Ref(str(name)[:100], str(metadata.get("version") or "?")[:64])


def inherited_metadata(own: dict[str, Any], previous: VersionRecord) -> dict[str, Any]:
    """A draft's metadata with what it leaves out: id, author, and the care for secrets.

    What it says just as the journal does of the version before is no request of its own, and no
    entry point that somebody gave.
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
    if raw.get("created_at") == previous.metadata["created_at"]:
        raw["created_at"] = first_made(previous)
    return only_given(new_requests(raw, previous), previous)


def first_made(record: VersionRecord) -> int:
    """When a version was made, in seconds, also where it was stored before other units were refused."""
    return kept_time(record.metadata["created_at"], int(time.time()))


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


def strategy_of_successor(
    journal: Journal, metadata: Mapping[str, Any], previous: VersionRecord
) -> Strategy | None:
    """Review where the user ever chose it for the id, and nothing stands against it."""
    if metadata.get("sensitive") or area_of_successor(metadata, previous) is not Area.LOCAL:
        return None
    if journal.versions.sensitive_ids([previous.ref.playbook_id]):
        return None  # the new version will be sensitive, too
    chosen = journal.choices.is_for_review(previous.ref.playbook_id)
    return Strategy.REVIEW if chosen else None


def made_by_ai(record: VersionRecord) -> bool:
    """Whether an AI wrote a version, whatever its author is said to be since."""
    return record.intake == "ai" or record.metadata.get("author") == "ai_generated"


def waits_for_decision(metadata: Mapping[str, Any], former: VersionRecord) -> bool:
    """Whether ``former``, when its content or its place becomes another, waits in ``ai-generated/``.

    A hand that moves the folder out of there decides nothing, and neither does an edit.
    """
    is_now = metadata.get("author") == "ai_generated"
    if former.area is Area.AI_GENERATED:
        return is_now or made_by_ai(former)
    return is_now and not made_by_ai(former)


def intake_of(how: str, before: Iterable[VersionRecord]) -> str:
    """The intake of a version made of others: ``how``, but out of an import or an AI it stays that."""
    for record in before:
        if made_by_ai(record):
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
        raise taken_name(versions, ref)


def taken_name(versions: Versions, ref: Ref) -> AlreadyExists:
    """The refusal of other content under a name that was published once."""
    free = free_patch(versions, ref)
    return AlreadyExists(
        f"{ref} was published, here or elsewhere, and names that content for ever.",
        f"Give another version; {free} is free.",
    )


def plan_moves(
    versions: Versions, layout: Layout, batch: Sequence[Move], errors: list[EscherError]
) -> list[Intent]:
    """Intents for what is not yet as wanted; what can't be wanted goes to ``errors``."""
    refs = [move.ref for move in batch]
    rows = versions.get_many(refs)
    files = versions.files_many(refs)
    intents: dict[Ref, Intent] = {}
    for move in batch:
        ref, to_area = move.ref, move.to_area
        try:
            row = rows.get(ref)
            if row is None:
                raise NotFound(f"There is no {ref}.", "It may have been deleted meanwhile.")
            metadata = _changed(row.metadata, move.metadata)
        except EscherError as error:
            errors.append(error)
            continue
        if row.area is to_area and metadata == row.metadata:
            folder = layout.folder(to_area, ref)
            if not folder.is_dir() or _says_so(folder, metadata):
                continue
        rows[ref] = replace(row, area=to_area, metadata=metadata)
        if is_decision(row.area, to_area):  # the wish to publish comes with it, in the same intent
            parsed = parse_metadata(metadata)
            strategy, sensitive = parsed.storage_strategy, parsed.sensitive
            rows[ref] = replace(
                rows[ref], **sync_fields(strategy, to_area, None, sensitive=sensitive)
            )
        came_from = intents[ref].from_area if ref in intents else row.area
        intents[ref] = Intent(ref, "move", None, came_from, to_area, rows[ref], files.get(ref, ()))
    return list(intents.values())


def is_decision(from_area: Area | None, to_area: Area | None) -> bool:
    """Whether a move is the user's decision on what an AI made: it brings the wish to publish."""
    return from_area is Area.AI_GENERATED and to_area is Area.LOCAL


def _changed(metadata: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if foreign := sorted(set(changes) - SERVER_OWNED_FIELDS):
        raise UsageError(
            f"{', '.join(foreign)} belongs to the content.", "Change it with an update."
        )
    taken_away = {key for key, value in changes.items() if value is None}
    changed = {k: value for k, value in (metadata | changes).items() if k not in taken_away}
    if changed != metadata and "updated_at" not in changes:
        changed["updated_at"] = int(time.time())
    return parse_metadata(changed).as_json()


def _says_so(folder: Path, metadata: dict[str, Any]) -> bool:
    """Whether the disk's server-owned fields are the row's (the row may have been first)."""
    try:
        disk = read_metadata(folder)
    except EscherError:
        return True  # there is nothing to bring them into
    return all(disk.get(name) == metadata.get(name) for name in SERVER_OWNED_FIELDS)


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
        if row and intent.record and _is_same(row, intent.record, intent.files):
            errors[str(intent.staged)] = Unchanged(
                f"{ref} exists already, with this very content.", "There is nothing to do."
            )
        elif row or ref in seen or _differs_in_case_only(versions, ref):
            errors[str(intent.staged)] = _exists(ref, row, intent.record)
        elif intent.record and pins.get(ref) not in {None, intent.record.content_digest}:
            errors[str(intent.staged)] = taken_name(versions, ref)
        elif areas := layout.areas_with(ref):
            errors[str(intent.staged)] = AlreadyExists(
                f"A folder of {ref} stands in {areas[0]}/ that the journal does not know.",
                "`escher-playbooks verify` tells what to do about it.",
            )
        seen.add(ref)
    return errors


def _is_same(row: VersionRecord, new: VersionRecord, files: Sequence[FileEntry]) -> bool:
    """Whether ``new`` is what ``row`` holds; of a version from before, but for modes."""
    if makes(row.content_digest, new.metadata, new.filled, files):
        return True
    unmarked = [replace(file, executable=False) for file in files]
    return not row.modes_known and makes(row.content_digest, new.metadata, new.filled, unmarked)


def _exists(ref: Ref, row: VersionRecord | None, new: VersionRecord | None) -> AlreadyExists:
    """The refusal of a second content under a name; what it advises replaces no other playbook."""
    if row is not None and new is not None and not same_name(row.name, new.name):
        return AlreadyExists(
            f"{ref} exists already, and is another playbook: {row.name!r}.",
            f"Give {new.name!r} an id of its own (--id, or playbook_id in {METADATA_FILE}).",
        )
    if row is None:  # in this batch, or with other letters in a prerelease
        return AlreadyExists(f"{ref} exists already.", "Give each version once.")
    return AlreadyExists(
        f"{ref} exists already, with other content.",
        "If this is a later state of it, give a higher version, or use `escher-playbooks update`;"
        " if it is another playbook, give it an id of its own (--id).",
    )


def refuse_clear(versions: Versions, intents: Sequence[Intent]) -> dict[str, EscherError]:
    """Errors by staged name where another process has just made the id a sensitive one."""
    clear = [i for i in intents if i.record is not None and not i.record.sensitive]
    secret = versions.sensitive_ids([i.ref.playbook_id for i in clear])
    return {
        str(i.staged): LeaseHeld(f"{i.ref.playbook_id} is sensitive since just now.", "Try again.")
        for i in clear
        if i.ref.playbook_id in secret
    }


def check_unchanged(versions: Versions, known: VersionRecord) -> VersionRecord:
    """The row of ``known`` as it is now; `LeaseHeld` where its content or place is another."""
    current = versions.get(known.ref)
    if current is None or _identity(current) != _identity(known):
        raise LeaseHeld(f"{known.ref} was changed meanwhile.", "Try again.")
    return current


def _identity(row: VersionRecord) -> tuple[object, ...]:
    return row.area, row.generation, row.content_digest, row.metadata, row.revision


def _differs_in_case_only(versions: Versions, ref: Ref) -> bool:
    """1.0.0-RC beside 1.0.0-rc: one folder on some file systems."""
    if parse_version(ref.version).prerelease is None:
        return False
    others = versions.of_playbook(ref.playbook_id)
    return any(other.ref.version.lower() == ref.version.lower() for other in others)


def sync_fields(
    choice: Strategy | None, area: Area, old: VersionRecord | None, *, sensitive: bool = False
) -> dict[str, Any]:
    """``sync_state`` and ``publish_as`` of new content; what is sensitive never leaves."""
    if old is not None and old.sync_state is SyncState.CONFLICT:  # new content decides nothing
        return {
            "sync_state": old.sync_state,
            "publish_as": None if sensitive else old.publish_as,
            "error_type": old.error_type,
            "error": old.error,
        }
    if choice is not None:
        publish_as = choice if choice.is_uploaded else None
    else:
        publish_as = old.publish_as if old else None
    if area is Area.AI_GENERATED or publish_as is None or sensitive:
        return {"sync_state": SyncState.LOCAL}
    return {"sync_state": SyncState.PENDING, "publish_as": publish_as}
