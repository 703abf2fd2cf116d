"""Where the entry script of a stored version stands, its bytes proven to be the right ones.

Holds what is on disk so far; cache and download come with the script manager (``core.scripts``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import NotFound, UsageError
from core.journal import Journal
from core.models import FORMATS, Area, FileEntry, Ref, entry_script
from core.playbooks.store import PlaybookStore


@dataclass(frozen=True, slots=True)
class LocatedScript:
    """A verified script: the answer of ``resolve`` and ``GET /v1/scripts/…``."""

    ref: Ref
    path: Path
    file: FileEntry
    source: str  # local | synced

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "checksum": self.file.checksum,
            "size_bytes": self.file.size_bytes,
            "source": self.source,
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
        }


def locate_script(store: PlaybookStore, journal: Journal, ref: Ref, format_: str) -> LocatedScript:
    """The entry script of one format; `IntegrityError` unless every byte is what the journal knows."""
    if format_ not in FORMATS:
        raise UsageError(f"Format {format_!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
    record = store.get(ref)
    files = {file.entry.path: file.entry for file in journal.versions.files(ref)}
    entry, _ = entry_script(format_, list(files), record.metadata.get("entry_points"))
    if entry is None:
        raise NotFound(
            f"{ref} has no {format_} script.", "`escher-playbooks show` lists its files."
        )
    if record.sensitive:
        raise UsageError(
            f"{ref} is sensitive: its scripts stand encrypted on disk.",
            "Resolving sensitive playbooks comes with the script manager.",
        )
    store.read(ref)
    record = store.get(ref)  # it may have been published, and moved, in between
    source = "synced" if record.area is Area.SYNCED else "local"
    return LocatedScript(ref, store.folder(ref) / entry, files[entry], source)
