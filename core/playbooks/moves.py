"""What `PlaybookStore.move` is asked for, and the intents that come of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import EscherError, NotFound, UsageError
from core.files import read_bytes
from core.journal import Intent
from core.journal.versions import Versions
from core.models import (
    METADATA_FILE,
    SERVER_OWNED_FIELDS,
    Area,
    Move,
    Ref,
    parse_json_object,
    parse_metadata,
)
from core.playbooks.layout import Layout
from core.playbooks.staging import wish


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
            if not folder.is_dir() or _says_so(folder / METADATA_FILE, metadata):
                continue
        rows[ref] = replace(row, area=to_area, metadata=metadata)
        if is_decision(row.area, to_area):  # the wish to publish comes with it, in the same intent
            parsed = parse_metadata(metadata)
            wished = wish(parsed.storage_strategy, to_area, None, sensitive=parsed.sensitive)
            rows[ref] = replace(rows[ref], **wished)
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


def _says_so(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether the disk's server-owned fields are the row's (the row may have been first)."""
    try:
        disk = parse_json_object(read_bytes(path), METADATA_FILE, stored=True)
    except EscherError:
        return True  # there is nothing to bring them into
    return all(disk.get(name) == metadata.get(name) for name in SERVER_OWNED_FIELDS)
