"""A script cache with a clock of its own, and what tests do to it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert

from core.files import sha256_bytes, write_tree
from core.journal import Journal
from core.journal.tables import downloads
from core.models import FileEntry, Ref
from core.scripts.cache import CacheHit, ScriptCache, Staged
from core.scripts.models import Listing, ScriptKey
from core.scripts.paths import size_on_disk
from core.settings import Settings

KIBIBYTE = 1 << 10
DAY = 86_400


def key_of(text: str, format_: str = "shell") -> ScriptKey:
    return ScriptKey(Ref.parse(text), format_)


def listing_of(key: ScriptKey, files: Mapping[str, bytes]) -> Listing:
    entries = tuple(FileEntry(p, len(b), sha256_bytes(b)) for p, b in sorted(files.items()))
    return Listing(key, entries, entries[0].path)


class CacheUnderTest:
    """``max_kib``, ``ttl`` and ``lease`` in KiB and seconds; ``now`` is the clock."""

    def __init__(
        self, home: Path, *, max_kib: float = 64, ttl: float = DAY, lease: float = 10, **more: Any
    ) -> None:
        self.now = 1_800_000_000.0
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
        row = {**_columns(key), "state": "running", "staged": staged}
        with self.journal.database.write() as connection:
            self.cache.make_room(size_bytes, connection)
            connection.execute(insert(downloads).values(**row, reserved_bytes=size_bytes))

    def forget(self, key: ScriptKey, connection: Any) -> None:
        matches = [downloads.c[name] == value for name, value in _columns(key).items()]
        connection.execute(delete(downloads).where(*matches))

    def stage(self, key: ScriptKey, files: Mapping[str, bytes], *, name: str = "") -> Staged:
        self.cache.layout.prepare()
        folder = self.cache.layout.staging / (name or uuid.uuid4().hex)
        write_tree(folder, dict(files))
        return Staged(folder, listing_of(key, files), "tenant")

    def add(self, key: ScriptKey, files: Mapping[str, bytes]) -> CacheHit:
        """Reserve, stage and promote."""
        name = uuid.uuid4().hex
        self.reserve(key, self.cache.footprint(listing_of(key, files)), name)
        try:
            staged = self.stage(key, files, name=name)
            return self.cache.promote(
                staged.folder, staged.listing, "tenant", settle=lambda c: self.forget(key, c)
            )
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


def _columns(key: ScriptKey) -> dict[str, str]:
    return {
        "playbook_id": key.ref.playbook_id,
        "version": key.ref.version,
        "format": key.format,
    }
