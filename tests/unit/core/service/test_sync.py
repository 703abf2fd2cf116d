"""One sync: what it costs, what it leaves alone, and what holds back nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.playbooks import draft

from core.errors import LeaseHeld, ServerBusy, ServerUnreachable
from core.models import Ref, Strategy, SyncState
from core.service import PlaybookService
from core.service.sync import OFFLINE_SINCE
from core.settings import Settings

PUBLIC = {"strategy": Strategy.REVIEW}
QUIET = {"edit_quiet_seconds": 0}


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    """A home at the reference server, where an edit is quiet at once."""
    return open_home(tenant_settings, **QUIET)


def state(service: PlaybookService, ref: Ref) -> SyncState:
    record = service.journal.versions.get(ref)
    assert record is not None
    return record.sync_state


_NO_OP = """
import json, sys
from core.playbooks import compare
compare.CLOCK_NS = -1_000_000_000  # stats vouch for what they are of without a wait
from core.service import PlaybookService
from core.settings import load_settings

opened, seen = [], False

def hook(event, arguments):
    if seen and event == "open":
        opened.append(str(arguments[0]))

with PlaybookService.open(load_settings()) as service:
    first = service.sync.run()
    before = service.server.reference_stats()["requests"]
    sys.addaudithook(hook)
    seen = True
    plan = service.sync.run()
    seen = False
    calls = service.server.reference_stats()["requests"] - before - 1
    print(json.dumps({
        "scanned": plan.scan.scanned, "unchanged": plan.scan.unchanged, "calls": calls,
        "opened": [path for path in opened if "/playbooks/" in path], "all": len(opened),
    }))
"""


def test_a_sync_that_finds_nothing_reads_no_content_and_makes_one_call(
    service: PlaybookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [service.create(draft(f"Thing {number}"), **PUBLIC).ref for number in range(3)]
    service.create(draft("A private thing"))
    service.publish_refs(service.request_publish([str(ref) for ref in refs], None).accepted)
    settings = service.settings
    assert settings.server_token is not None
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "ESCHER_HOME": str(settings.home),
        "ESCHER_SERVER_URL": settings.server_url,
        "ESCHER_TENANT_ID": settings.tenant_id,
        "ESCHER_SERVER_TOKEN": settings.server_token.get_secret_value(),
    }
    done = subprocess.run(
        [sys.executable, "-c", _NO_OP],
        env=environment, cwd=settings.home, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["scanned"], found["unchanged"], found["calls"]) == (4, 4, 1)
    assert found["opened"] == []


class TestAServerThatLetsNobodyIn:
    @pytest.mark.parametrize("kind", ["away", "another token"])
    def test_what_waits_for_it_waits_and_goes_out_when_it_does(
        self, open_home: Any, tenant_settings: Settings, kind: str
    ) -> None:
        shut = {"server_url": "http://127.0.0.1:9"}
        if kind == "another token":
            from pydantic import SecretStr

            shut = {"server_token": SecretStr("CANARY-OF-NOBODY")}
        service = open_home(tenant_settings, **QUIET, **shut)
        ref = service.create(draft(), **PUBLIC).ref
        for _ in range(5):
            report = service.sync_all_metadata()
            assert "127.0.0.1" in report["offline"]
            assert "CANARY" not in json.dumps(report)
            assert report["queued"]["publish"] == 0
        row = service.journal.versions.get(ref)
        assert (row.sync_state, row.attempts, row.error) == (SyncState.PENDING, 0, None)
        assert service.journal.facts.get(OFFLINE_SINCE) is not None
        service.close()

        again = open_home(tenant_settings, **QUIET)
        assert again.sync_all_metadata()["offline"] is None
        assert state(again, ref) is SyncState.PUBLISHED, "at once, after however many tries"
        assert again.journal.facts.get(OFFLINE_SINCE) is None

    def test_it_is_asked_once_for_all_that_vanished(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import shutil

        refs = [service.create(draft(f"Thing {number}"), **PUBLIC).ref for number in range(4)]
        service.sync_all_metadata()
        for ref in refs:
            shutil.rmtree(service.store.folder(ref))
        asked: list[Ref] = []

        def fetch(ref: Ref) -> dict[str, bytes]:
            asked.append(ref)
            raise ServerUnreachable("Nobody answers.")

        monkeypatch.setattr(service.contents, "fetch", fetch)
        report = service.sync_all_metadata()
        assert (len(asked), report["failed"]) == (1, 0)
        assert sorted(report["deferrals"]) == sorted(map(str, refs))
        monkeypatch.undo()
        assert sorted(service.sync_all_metadata()["edits"]["restored"]) == sorted(map(str, refs))


class TestContentsWantedAtOnce:
    @pytest.mark.parametrize("error", [LeaseHeld("busy"), ServerBusy("not this one")])
    def test_one_that_does_not_come_holds_back_no_other(
        self, service: PlaybookService, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        refs = [Ref(f"p-{number}", "1.0.0") for number in range(5)]
        service.settings.sync_pull_scripts = True
        monkeypatch.setattr(service.journal.versions, "unfetched", lambda: list(refs))
        monkeypatch.setattr(service.pulled_folders, "fetch_contents", lambda *_: True)

        def fetch(ref: Ref) -> dict[str, bytes]:
            if ref == refs[2]:
                raise error
            return {}

        monkeypatch.setattr(service.contents, "fetch", fetch)
        plan = service.sync.run()
        assert sorted(plan.fetched) == [refs[0], refs[1], refs[3], refs[4]]
        assert list(plan.deferred) == [str(refs[2])]


def test_what_syncs_set_aside_is_brought_back_when_asked(service: PlaybookService) -> None:
    failed, private, leaving = (
        service.create(draft(name), **PUBLIC).ref for name in ("Failed", "Private", "Leaving")
    )
    later = 4_000_000_000
    rows = service.journal.versions
    rows.set(failed, sync_state=SyncState.FAILED, error="No.", publish_as="uploaded_for_review")
    rows.set(private, sync_state=SyncState.FAILED, error="Not deleted.", publish_as=None)
    rows.set(leaving, sync_state=SyncState.DEFERRED, deleting=True, next_attempt_at=later)
    service.sync.retry_set_aside()
    assert state(service, failed) is SyncState.PENDING
    assert state(service, private) is SyncState.FAILED, "it was not to be published"
    assert [row.ref for row in service.journal.versions.wanting_delete(0)] == [leaving]
