"""Two machines of one tenant: stores of their own, one server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.encryption import Envelope, MasterKey
from core.journal import Journal, VersionRecord
from core.models import Area, Ref, Strategy, SyncState
from core.playbooks.folder_copies import Trash, TrashEntry
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.store import PlaybookStore
from core.publishing.conflicts import Choice, ConflictResolver, Resolution
from core.publishing.publisher import Publisher
from core.publishing.pull import Puller, PullReport
from core.server.client import EscherServer
from core.settings import Settings
from support.playbooks import draft


class _Vectors:
    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]:
        return {ref: [0.1] * 384 for ref in metadatas}


class Machine:
    """A home with store, publisher, puller and conflict resolver; ``now`` is their clock."""

    def __init__(self, settings: Settings) -> None:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings = settings
        self.journal = Journal(settings.effective_journal_url)
        self.store = PlaybookStore(settings, self.journal, Envelope(MasterKey(b"k" * 32)))
        self.server = EscherServer(settings)
        self.folders = RemoteVersions(self.store, settings)
        self.skew = 0.0
        self.publisher = Publisher(
            self.journal,
            self.server,
            self.store,
            _Vectors(),
            settings,
            folders=self.folders,
            clock=self.clock,
            random=lambda: 0.0,
        )
        self.puller = Puller(self.journal, self.server, self.folders, clock=self.clock)
        self.resolver = ConflictResolver(self.journal, self.folders, self.server)

    def clock(self) -> float:
        return time.time() + self.skew

    def close(self) -> None:
        self.server.close()
        self.journal.close()

    # -- as a user ---------------------------------------------------------------------------
    def create(self, script: str = "echo one", **fields: Any) -> Ref:
        """``stop-rds@1.0.0``, to be published for review, unless ``fields`` say otherwise."""
        wanted = {
            "playbook_id": "stop-rds",
            "version": "1.0.0",
            **fields,
        }
        strategy = Strategy(wanted.pop("storage_strategy", Strategy.REVIEW))
        files = {"shell/run.sh": f"#!/bin/sh\n{script}\n".encode()}
        return self.store.create(draft("Stop idle RDS", files, **wanted), strategy=strategy).ref

    def publish(self, *refs: Ref) -> dict[Ref, str]:
        """What is due (or ``refs``), through all steps; the last outcome's state of each."""
        wanted = list(refs) or [
            record.ref for record in self.journal.versions.wanting_publish(self.clock())
        ]
        self.publisher.upload(wanted)
        self.publisher.publish(wanted)
        return {ref: o.state.value for ref, o in self.publisher.settle(wanted).items()}

    def created_and_published(self, script: str = "echo one", **fields: Any) -> Ref:
        ref = self.create(script, **fields)
        assert self.publish(ref) == {ref: "done"}
        return ref

    def delete(self, ref: Ref) -> None:
        """Ask for it; `publisher.delete` does it."""
        if ref not in self.publisher.request_delete([ref]):
            self.store.delete([ref])

    def deleted(self, ref: Ref) -> None:
        self.delete(ref)
        self.publisher.delete([ref])

    def edit(self, ref: Ref, script: str) -> None:
        """With a text editor, on disk."""
        (self.folder(ref) / "shell" / "run.sh").write_text(f"#!/bin/sh\n{script}\n")

    def pull(self, *, accept_deletions: bool = False) -> PullReport:
        return self.puller.pull(accept_deletions=accept_deletions)

    def pull_all(self) -> PullReport:
        """A full pass."""
        self.journal.pull_state.want_full_pass("a test")
        return self.puller.pull()

    def resolve(self, ref: Ref, **choice: str) -> Resolution:
        return self.resolver.resolve(ref, Choice(**choice))

    # -- as a test ---------------------------------------------------------------------------
    def record(self, ref: Ref) -> VersionRecord:
        return self.store.get(ref)

    def has(self, ref: Ref) -> bool:
        return self.journal.versions.get(ref) is not None

    def state(self, ref: Ref) -> tuple[SyncState, Area, str]:
        record = self.record(ref)
        return record.sync_state, record.area, record.status.value

    def folder(self, ref: Ref) -> Path:
        return self.store.folder(ref)

    def script(self, ref: Ref) -> str:
        return (
            (self.folder(ref) / "shell" / "run.sh").read_text().removeprefix("#!/bin/sh\n").strip()
        )

    def names(self, ref: Ref) -> list[str]:
        """What stands in the folder, by name."""
        return sorted(path.name for path in self.folder(ref).iterdir())

    def on_disk(self, ref: Ref) -> dict[str, Any]:
        """``metadata.json`` as it stands."""
        return dict(json.loads((self.folder(ref) / "metadata.json").read_text()))

    def trash_entries(self) -> list[TrashEntry]:
        return Trash(self.settings.trash_path).entries()

    def trash(self) -> list[str]:
        """The scripts of what is in the trash."""
        found = sorted(self.settings.trash_path.glob("*-v*/shell/run.sh"))
        return [path.read_text().removeprefix("#!/bin/sh\n").strip() for path in found]

    def copies(self, playbook_id: str = "stop-rds") -> list[str]:
        """The scripts of kept copies."""
        found = sorted((self.settings.conflicts_path / playbook_id).glob("v*/shell/run.sh"))
        return [path.read_text().removeprefix("#!/bin/sh\n").strip() for path in found]
