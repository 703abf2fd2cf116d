"""What a server that was taken over can make the client do: nothing but fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hostile_server import HostileServer, running_hostile

from core.errors import NotFound
from core.models import FileEntry, Ref, Status, content_digest
from core.server.client import EscherServer
from core.server.retry import Retrier
from core.settings import Settings

REF = Ref("stop", "1.0.0")
CONTENT = {"shell/run.sh": b"echo run\n", "parameters.json": b"{}"}


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.fixture
def client(hostile: HostileServer, tmp_path: Path) -> Iterator[EscherServer]:
    settings = Settings(home=tmp_path, server_url=hostile.url, server_token="CANARY-TOKEN")
    client = EscherServer(settings, retrier=Retrier(sleep=lambda _: None))
    yield client
    client.close()


def test_without_lies_it_is_a_server_of_the_contract(
    hostile: HostileServer, client: EscherServer, tmp_path: Path
) -> None:
    hostile.add(REF, CONTENT, status="approved")
    [change] = client.changes().changes
    script = client.script(REF, "shell")
    assert script.manifest is not None
    entries = [FileEntry(entry.path, 0, entry.checksum) for entry in script.manifest]
    assert content_digest(script.metadata or {}, entries) == change.content_digest
    assert script.content_digest == change.content_digest
    assert (script.status, script.published_by) == (Status.APPROVED, "somebody")
    client.download(script.files[0], tmp_path / "run.sh", renew=lambda: script.files[0])
    assert (tmp_path / "run.sh").read_bytes() == CONTENT["shell/run.sh"]
    other = Ref("other", "1.0.0")
    s3_paths = client.upload(other, CONTENT)
    metadata = {**(change.metadata or {}), "playbook_id": "other"}
    published = client.publish(
        other, metadata=metadata, vector=None, embedding_model=None,
        content_digest=change.content_digest, s3_paths=s3_paths, base_revision=None,
    )  # fmt: skip
    assert published.revision == 1
    assert client.script(Ref("stop", "latest")).version == "1.0.0"
    client.delete(other, 1)
    assert [item.deleted for item in client.changes().changes] == [False, True]
    with pytest.raises(NotFound):
        client.script(other)
