"""A script cache with a clock of its own, and what tests do to it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import sha256_bytes, write_tree
from core.journal import Journal
from core.journal.leases import Held
from core.journal.scripts import CacheFolder, FolderState, Item
from core.models import FileEntry, Ref, ScriptKey
from core.scripts.cache import CacheHit, ScriptCache, Staged
from core.scripts.entries import footprint, size_on_disk
from core.scripts.models import Listing
from core.settings import Settings

KIBIBYTE = 1 << 10
DAY = 86_400


def key_of(text: str, format_: str = "shell") -> ScriptKey:
    return ScriptKey(Ref.parse(text), format_)


def listing_of(key: ScriptKey, files: Mapping[str, bytes]) -> Listing:
    entries = tuple(FileEntry(p, len(b), sha256_bytes(b)) for p, b in sorted(files.items()))
    return Listing(key, entries, entries[0].path)


def index(
    journal: Journal, ref: Ref, *files: FileEntry, source: str = "library", format_: str = "shell"
) -> None:
    """Let the index say that a script is cached; nothing is written below ``cache/``."""
    name = f"scripts/{ref.playbook_id}-v{ref.version}/{format_}"
    key = ScriptKey(ref, format_)
    row = CacheFolder(
        name, FolderState.COMPLETE, key, 9, 1.0, 1.0, source, f"{format_}/a.sh", files
    )
    with journal.database.write() as connection:
        journal.cache_folders.put([row], connection)


def unindex(journal: Journal, ref: Ref, format_: str = "shell") -> None:
    """Let the index lose a script."""
    with journal.database.write() as connection:
        name = f"scripts/{ref.playbook_id}-v{ref.version}/{format_}"
        journal.cache_folders.delete([name], connection)


class CacheUnderTest:
    """``max_kib``, ``ttl`` and ``lease`` in KiB and seconds; ``now`` is the clock."""

    def __init__(
        self, home: Path, *, max_kib: float = 64, ttl: float = DAY, lease: float = 10, **more: Any
    ) -> None:
        self.now = 1_800_000_000.0
        self._claims: dict[ScriptKey, Held[Item]] = {}
        self.settings = Settings(
            home=home,
            cache_max_size_mb=max_kib / KIBIBYTE,
            cache_ttl_days=ttl / DAY,
            cache_lease_seconds=lease,
            **more,
        )
        self.open()

    def open(self) -> None:
        """As a new process does."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.settings.effective_journal_url)
        self.cache = ScriptCache(self.settings, self.journal, clock=lambda: self.now)

    def close(self) -> None:
        self.cache.close()
        self.journal.close()

    def reserve(self, key: ScriptKey, size_bytes: int, staged: str) -> None:
        """What a download does before its first byte."""
        downloads = self.journal.downloads
        lease = downloads.claim({key: f"staging/{staged}"}).lease
        try:
            with self.journal.database.write() as connection:
                self.cache.make_room(size_bytes, connection)
                downloads.reserve({key: size_bytes}, lease, connection)
        except BaseException:
            downloads.settle({key: None}, lease)
            raise
        self._claims[key] = lease

    def forget(self, key: ScriptKey, connection: Any) -> None:
        """What a download does in the transaction that makes its bytes an entry."""
        self.journal.downloads.settle({key: None}, self._claims[key], connection)

    def aside(self) -> list[CacheFolder]:
        """What is in quarantine, the oldest first."""
        return self.journal.cache_folders.of(FolderState.QUARANTINED)

    def stage(self, key: ScriptKey, files: Mapping[str, bytes], *, name: str = "") -> Staged:
        self.cache.layout.prepare()
        folder = self.cache.layout.staging / (name or uuid.uuid4().hex)
        write_tree(folder, dict(files))
        return Staged(folder, listing_of(key, files), "tenant")

    def add(self, key: ScriptKey, files: Mapping[str, bytes]) -> CacheHit:
        """Reserve, stage and promote."""
        name = uuid.uuid4().hex
        self.reserve(key, footprint(listing_of(key, files)), name)
        try:
            staged = self.stage(key, files, name=name)
            [hit] = self.cache.promote_many([staged], settle=lambda c: self.forget(key, c))
            return hit
        except BaseException:
            with self.journal.database.write() as connection:
                self.forget(key, connection)
            raise

    def bytes_of(self, key: ScriptKey) -> dict[str, bytes] | None:
        """What ``find`` proves, read from disk."""
        hit = self.cache.find(key)
        if hit is None:
            return None
        return {f.path: (hit.folder / f.path).read_bytes() for f in hit.listing.files}

    def folder(self, key: ScriptKey) -> Path:
        return self.cache.layout.place(key).folder

    def disk_bytes(self) -> int:
        layout = self.cache.layout
        folders = (layout.scripts, layout.staging, layout.quarantine, layout.trash)
        return sum(map(size_on_disk, folders))
