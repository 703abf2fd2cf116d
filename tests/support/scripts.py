"""A home with its script cache over the reference server, and versions published there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from core.files import sha256_bytes
from core.journal import Journal
from core.journal.script_lookup import ToldStatus
from core.models import FileEntry, Ref, ScriptKey, Status, content_digest
from core.scripts.cache import ScriptCache
from core.scripts.downloads import ScriptDownloads
from core.scripts.library import LibraryCache
from core.scripts.models import CacheHit, Listing
from core.scripts.transfer import insert
from core.server.client import EscherServer
from core.server.http import Retrier, RetryPolicy
from core.service.home import Home
from core.settings import Settings


def entries(contents: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """The files as the journal has them."""
    return tuple(
        FileEntry(path, len(content), sha256_bytes(content))
        for path, content in sorted(contents.items())
    )


def publish(server: EscherServer, ref: Ref, contents: Mapping[str, bytes]) -> None:
    """Bring a version with these files to the server."""
    metadata = {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "name": f"Playbook {ref.playbook_id}",
        "description": "Does what it says.",
        "cloud_provider": ["aws"],
        "storage_strategy": "uploaded_for_review",
        "status": "ready",
        "created_at": 1,
        "updated_at": 1,
    }
    server.publish(
        ref,
        metadata=metadata,
        vector=[0.1] * 384,
        embedding_model="none",
        content_digest=content_digest(metadata, entries(contents)),
        s3_paths=server.upload(ref, contents),
        base_revision=None,
    )


def approve(settings: Settings, ref: Ref, token: str) -> None:
    """As a reviewer whose token that is."""
    reviewer = EscherServer(settings.model_copy(update={"server_token": SecretStr(token)}))
    reviewer.set_status(ref, Status.APPROVED)
    reviewer.close()


def put_in_cache(
    service: Home, key: ScriptKey, files: Mapping[str, bytes], status: str = "approved"
) -> Path:
    """An entry as a download leaves it, with the status that the server told; its folder."""
    told = ToldStatus(status, None, None, None, int(time.time()))
    service.journal.script_rows.note_told({key.ref: told})
    listing = Listing(key, entries(files), min(files))
    return insert(service.journal, service.cache, listing, files).folder


class DownloadsUnderTest:
    """Everything of Flow 3 for one home in this process; ``slept`` are the pauses of retries."""

    def __init__(self, settings: Settings, clock: Callable[[], float] | None = None) -> None:
        self.settings = settings
        self.slept: list[float] = []
        settings.home.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(settings.effective_journal_url)
        retrier = Retrier(RetryPolicy(), sleep=self.slept.append)
        self.server = EscherServer(settings, retrier=retrier)
        times = {"clock": clock} if clock is not None else {}
        self.cache = ScriptCache(settings, self.journal, **times)
        self.library = LibraryCache(settings, self.journal, lambda: self.server, **times)
        self.downloads = ScriptDownloads(
            settings, self.journal, self.server, self.cache, self.library,
            random=lambda: 1.0, **times,
        )  # fmt: skip

    def add(
        self, playbook_id: str, contents: Mapping[str, bytes] | None = None, version: str = "1.0.0"
    ) -> ScriptKey:
        """Publish a version; the key of its first format."""
        files = contents or {"shell/run.sh": f"echo {playbook_id}\n".encode()}
        ref = Ref(playbook_id, version)
        publish(self.server, ref, files)
        return ScriptKey(ref, min(files).partition("/")[0])

    def read(self, hit: CacheHit) -> dict[str, bytes]:
        """``{path: bytes}`` of an entry."""
        return {file.path: (hit.folder / file.path).read_bytes() for file in hit.listing.files}

    @property
    def staging(self) -> list[Path]:
        return list(self.cache.layout.staging.glob("*"))

    def requests(self) -> int:
        """How many requests the server has counted for this tenant, this one left out."""
        return self.server.reference_stats()["requests"]

    def bytes_sent(self) -> int:
        """Bytes of object bodies that the server has sent to this tenant."""
        return self.server.reference_stats()["bytes_sent"]

    def close(self) -> None:
        self.cache.close()
        self.server.close()
        self.journal.close()


def fetch_all(values: dict[str, str], keys: list[tuple[str, str, str]], start: float) -> list[str]:
    """In a process of its own: fetch all, beginning at ``start``; the checksums that came."""
    import time

    under = DownloadsUnderTest(Settings(_env_file=None, **values))  # type: ignore[arg-type, call-arg]
    try:
        time.sleep(max(0.0, start - time.time()))  # all processes at the same moment
        found = []
        for playbook_id, version, format_ in keys:
            hit = under.downloads.fetch(ScriptKey(Ref(playbook_id, version), format_))
            found += [sha256_bytes(content) for content in under.read(hit).values()]
        return found
    finally:
        under.close()
