"""A server that aims uploads or downloads elsewhere: the version fails for good, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hostile_server import (
    HostileServer,
    point_downloads_at,
    point_uploads_at,
    running_hostile,
)
from support.machines import Machine
from support.scripts import DownloadsUnderTest

from core.models import OutcomeState, Ref, ScriptKey, SyncState
from core.settings import Settings

REF = Ref("stop-rds", "1.0.0")
URLS = [
    ("https://169.254.169.254/latest?signature=CANARY", "169.254.169.254"),
    ("http://127.0.0.1:6379/?signature=CANARY", "127.0.0.1:6379"),
    ("https://storage.evil.example/?signature=CANARY", "storage.evil.example:443"),
]


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.mark.parametrize(("url", "named"), URLS)
def test_a_publication_fails_and_is_not_tried_again_by_itself(
    hostile: HostileServer, tmp_path: Path, url: str, named: str
) -> None:
    machine = Machine(Settings(home=tmp_path, server_url=hostile.url, server_token="TOKEN"))
    hostile.lie("upload", point_uploads_at(url))
    ref = machine.create()
    machine.publisher.upload([ref])
    record = machine.record(ref)
    assert (record.sync_state, record.next_attempt_at) == (SyncState.FAILED, None)
    assert named in (record.error or "")
    assert "CANARY" not in (record.error or "")
    assert hostile.objects == {}
    machine.publisher.upload(
        [record.ref for record in machine.journal.versions.wanting_publish(machine.clock())]
    )
    assert len(hostile.asked_of("upload")) == 1
    hostile.honest("upload")
    machine.publisher.request([ref])  # asked for again, it goes
    assert machine.publish(ref) == {ref: "done"}
    machine.close()


@pytest.mark.parametrize(("url", "named"), URLS)
def test_a_download_fails_and_leaves_nothing(
    hostile: HostileServer, tmp_path: Path, url: str, named: str
) -> None:
    under = DownloadsUnderTest(
        Settings(home=tmp_path, server_url=hostile.url, server_token="TOKEN")
    )
    hostile.add(REF, status="approved")
    hostile.lie("script", point_downloads_at(url))
    key = ScriptKey(REF, "shell")
    outcome = under.downloads.download([key])[key]
    assert (outcome.state, outcome.error_type) == (OutcomeState.FAILED, "ForbiddenUrl")
    assert outcome.next_attempt_at is None
    assert named in (outcome.error or "")
    assert "CANARY" not in (outcome.error or "")
    under.close()
