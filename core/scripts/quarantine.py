"""Bytes that were not what they claimed, kept for a while so that somebody can look at them.

They count towards the cache's size, are the first to go when room is needed, never take more than a
share of it, and are gone after the TTL.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from core.errors import storage_error
from core.journal import Journal
from core.journal.script_cache import QuarantineRow
from core.scripts.entries import ScriptKey
from core.scripts.layout import CacheLayout, folder_name, ref_of, size_on_disk

SHARE = 0.1  # of the cache's size
UNKNOWN = "unknown"  # the folder of what belonged to no entry
STRAY = "it was in the quarantine already, and nobody knows since when or why"

log = logging.getLogger(__name__)


class Quarantine:
    """Puts things aside. Its methods run under the exclusive lock, in a write transaction."""

    def __init__(
        self, journal: Journal, layout: CacheLayout, clock: Callable[[], float], max_bytes: int
    ) -> None:
        self._rows = journal.script_cache
        self._layout = layout
        self._clock = clock
        self._max_bytes = int(max_bytes * SHARE)

    def put(self, path: Path, key: ScriptKey | None, reason: str, connection: Connection) -> None:
        """Move what stands at ``path`` aside; nothing there is fine."""
        if not os.path.lexists(path):
            return
        hex_ = uuid.uuid4().hex
        name = f"{UNKNOWN}/{hex_}"
        if key is not None:
            name = f"{folder_name(key.ref)}/{key.format}-{hex_}"
        log.warning("%s goes into quarantine: %s", key or path, reason)
        try:
            self._layout.set_aside(path, name)
        except OSError as error:
            raise storage_error(error, f"Putting {path} into quarantine") from error
        self._enter(name, key, reason, connection)
        self._bound(connection)

    def put_entry(self, key: ScriptKey, reason: str, connection: Connection) -> None:
        """Move a cached entry aside, its manifest and row gone with it."""
        place = self._layout.place(key)
        if not self._layout.drop_link(place):
            self.put(place.folder, key, reason, connection)
        try:
            self._layout.remove_entry(place)
        except OSError as error:
            raise storage_error(error, f"Removing {place.manifest}") from error
        self._rows.delete([(key.ref, key.format)], connection)

    def reconcile(self, connection: Connection) -> None:
        """Make the rows say what is there."""
        there = set(self._layout.quarantined())
        known = {row.name for row in self._rows.quarantined(connection)}
        self._rows.delete_quarantined(sorted(known - there), connection)
        for name in sorted(there - known):
            folder, _, rest = name.partition("/")
            ref = ref_of(folder)
            format_ = rest.rpartition("-")[0]
            key = ScriptKey(ref, format_) if ref is not None and format_ else None
            self._enter(name, key, STRAY, connection)
        self._bound(connection)

    def _enter(self, name: str, key: ScriptKey | None, reason: str, connection: Connection) -> None:
        row = QuarantineRow(
            name=name,
            playbook_id=key.ref.playbook_id if key else "",
            version=key.ref.version if key else "",
            format=key.format[:32] if key else "",
            size_bytes=size_on_disk(self._layout.quarantine / name),
            at=self._clock(),
            reason=reason,
        )
        self._rows.put_quarantined(row, connection)

    def _bound(self, connection: Connection) -> None:
        rows = self._rows.quarantined(connection)
        excess = sum(row.size_bytes for row in rows) - self._max_bytes
        gone: list[str] = []
        for row in rows:
            if excess <= 0:
                break
            self._layout.drop_quarantined(row.name)
            gone.append(row.name)
            excess -= row.size_bytes
        self._rows.delete_quarantined(gone, connection)
        self._layout.sweep()
