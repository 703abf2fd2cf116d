"""A store of versions in a real journal, and a publisher over the reference server."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.errors import EscherError, StorageError
from core.files import sha256_bytes
from core.journal import Journal, VersionRecord
from core.models import Area, FileEntry, Move, Ref, SyncState, content_digest
from core.publishing.publisher import Publisher
from core.server.client import EscherServer
from core.server.http import Retrier, RetryPolicy
from core.settings import Settings


class MemoryStore:
    """The store's side of publishing, in memory; the rows are in the journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.contents: dict[Ref, dict[str, bytes]] = {}
        self.moves: list[Move] = []
        self.broken: dict[Ref, EscherError] = {}
        self.before_read: Callable[[Ref], None] = lambda ref: None

    def add(self, playbook_id: str, script: bytes = b"echo hello\n", **metadata: Any) -> Ref:
        ref = Ref(playbook_id, metadata.pop("version", "1.0.0"))
        area = metadata.pop("area", Area.LOCAL)
        body = {
            "playbook_id": ref.playbook_id,
            "version": ref.version,
            "name": f"Playbook {playbook_id}",
            "description": "Does what it says.",
            "cloud_provider": ["aws"],
            "storage_strategy": "uploaded_for_review",
            "status": "ready",
            "created_at": 1,
            "updated_at": 1,
            **metadata,
        }
        self.put(ref, {"shell/run.sh": script}, body, area)
        return ref

    def put(
        self, ref: Ref, contents: dict[str, bytes], metadata: dict[str, Any], area: Area, **row: Any
    ) -> None:
        entries = [
            FileEntry(path, len(content), sha256_bytes(content))
            for path, content in contents.items()
        ]
        record = VersionRecord(ref, area, content_digest(metadata, entries), metadata, **row)
        with self.journal.database.write() as connection:
            self.journal.versions.put([(record, tuple(entries))], connection)
        self.contents[ref] = contents

    def edit(self, ref: Ref, script: bytes) -> None:
        """An update in place: other content, everything of the row kept."""
        record = self.record(ref)
        entry = FileEntry("shell/run.sh", len(script), sha256_bytes(script))
        changed = dataclasses.replace(
            record, content_digest=content_digest(record.metadata, [entry])
        )
        with self.journal.database.write() as connection:
            self.journal.versions.put([(changed, ())], connection)
        self.contents[ref] = {"shell/run.sh": script}

    def record(self, ref: Ref) -> VersionRecord:
        record = self.journal.versions.get(ref)
        assert record is not None
        return record

    # -- what publishing asks of a store ----------------------------------------------------
    def published_files(self, ref: Ref) -> dict[str, bytes]:
        self.before_read(ref)
        if ref in self.broken:
            raise self.broken[ref]
        return dict(self.contents[ref])

    def check_uploadable(self, ref: Ref) -> None:
        """Nothing here is sensitive."""

    def is_edited(self, ref: Ref) -> bool:
        """Nobody edits in memory."""
        return False

    def move(self, changes: Sequence[Move]) -> None:
        for move in changes:
            if move.ref in self.broken:
                raise self.broken[move.ref]
        for move in changes:
            metadata = {**self.record(move.ref).metadata, **move.metadata}
            self.journal.versions.set(move.ref, metadata=metadata, area=move.to_area)
        self.moves += changes

    def delete(self, refs: Sequence[Ref]) -> None:
        for ref in refs:
            if ref in self.broken:
                raise StorageError(f"{ref} does not go")
        with self.journal.database.write() as connection:
            self.journal.versions.delete(refs, connection)
        for ref in refs:
            self.contents.pop(ref, None)


class Embedder:
    """Vectors for everything but what is said to be missing."""

    def __init__(self) -> None:
        self.missing: set[Ref] = set()
        self.calls: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]:
        self.calls.append(len(metadatas))
        self.before()
        return {ref: [0.1] * 384 for ref in metadatas if ref not in self.missing}


@dataclasses.dataclass
class PublisherUnderTest:
    """All of it together; ``now`` is the publisher's clock."""

    store: MemoryStore
    embedder: Embedder
    server: EscherServer
    publisher: Publisher
    journal: Journal
    settings: Settings
    sleeps: list[float]
    now: float

    def publish(self, *refs: Ref) -> dict[Ref, str]:
        """Request and run all steps; the last outcome's state of each."""
        self.publisher.request(list(refs))
        return self.run(*refs)

    def run(self, *refs: Ref) -> dict[Ref, str]:
        self.publisher.upload(refs)
        self.publisher.publish(refs)
        return {ref: outcome.state.value for ref, outcome in self.publisher.settle(refs).items()}

    def state(self, ref: Ref) -> SyncState:
        return self.store.record(ref).sync_state

    def another_machine(self, tmp_path: Path) -> EscherServer:
        return EscherServer(self.settings.model_copy(update={"home": tmp_path / "other"}))


@pytest.fixture
def under(tenant_settings: Settings, tmp_path: Path):
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    store, embedder, sleeps = MemoryStore(journal), Embedder(), []
    retrier = Retrier(RetryPolicy(), sleep=sleeps.append, random=lambda: 1.0)
    server = EscherServer(tenant_settings, retrier=retrier)
    under = PublisherUnderTest(
        store, embedder, server, None, journal, tenant_settings, sleeps, time.time()  # type: ignore[arg-type]
    )  # fmt: skip
    under.publisher = Publisher(
        journal,
        server,
        store,
        embedder,
        tenant_settings,
        folders=store,
        clock=lambda: under.now,
        random=lambda: 1.0,
    )
    yield under
    server.close()
    journal.close()
