"""Jobs of the kind ``download`` whose messages nobody has: the next sync goes on with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rag import open_service
from support.reference import Reference, running_reference
from support.scripts import publish

from core.journal import JobState
from core.models import Ref
from core.service import PlaybookService
from core.settings import Settings
from tasks import base, jobs

ELSEWHERE = Ref("elsewhere", "1.0.0")
CANARY = b"echo CANARY-SCRIPT\n"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with running_reference(tmp_path_factory.mktemp("escher-server")) as running:
        yield running


@pytest.fixture
def service(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PlaybookService]:
    tenant_id, token = reference.tenant()
    settings = Settings(
        home=tmp_path / "home", server_url=reference.url, tenant_id=tenant_id, server_token=token
    )
    monkeypatch.setattr(base, "_service", None)
    with open_service(settings) as opened:
        publish(opened.server, ELSEWHERE, {"shell/a.sh": CANARY})
        yield opened


def test_a_job_without_a_message_is_done_by_the_next_sync(service):
    job = jobs.submit(service, "download", refs=[str(ELSEWHERE)], format_="shell")
    assert (job.state, job.total) == (JobState.QUEUED, 1)
    jobs.submit(service, "sync", wait=True)
    done = service.journal.jobs.get(job.job_id)
    assert (done.state, done.succeeded) == (JobState.SUCCEEDED, 1)
    assert [entry["playbook_id"] for entry in service.script_manager.usage()["entries"]] == [
        "elsewhere"
    ]
    assert "CANARY" not in str(done)


def test_a_version_that_has_nothing_to_download_ends_its_job(service):
    bare = Ref("bare", "1.0.0")
    publish(service.server, bare, {"parameters.json": b'{"parameters": []}'})
    job = jobs.submit(service, "download", refs=[str(bare), str(ELSEWHERE)], wait=True)
    states = {item.ref: item.state for item in service.journal.jobs.get(job.job_id).items}
    assert states == {str(bare): JobState.FAILED, str(ELSEWHERE): JobState.SUCCEEDED}
    assert job.state is JobState.PARTIAL
