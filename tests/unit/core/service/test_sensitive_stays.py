"""What is sensitive does not leave, whatever is edited: the reference server's bytes tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from support.playbooks import draft

from core.models import Ref, Strategy, SyncState
from core.service import PlaybookService
from core.settings import Settings

REF = Ref("stop-idle-databases", "1.0.0")


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    return open_home(tenant_settings, edit_quiet_seconds=0)


def bytes_there(service: PlaybookService) -> int:
    settings = service.settings
    assert settings.server_token is not None
    answer = requests.get(
        f"{settings.server_url}/api/reference/stats",
        headers={"Authorization": f"Bearer {settings.server_token.get_secret_value()}"},
        timeout=5,
    )
    return int(answer.json()["tenants"].get(settings.tenant_id, {}).get("bytes_received", 0))


def rewrite(folder: Path, **fields: object) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


@pytest.mark.parametrize("tamper", ["flag", "flag and strategy", "clear text", "all of it"])
def test_an_edit_opens_nothing(service, tamper):
    service.create(draft(sensitive=True))
    folder, script = service.store.folder(REF), service.store.folder(REF) / "shell" / "main.sh"
    if tamper != "clear text":
        wish = {} if tamper == "flag" else {"storage_strategy": "uploaded_for_review"}
        rewrite(folder, sensitive=False, **wish)
    if tamper in {"clear text", "all of it"}:
        script.write_bytes(b"echo CANARY\n")
    assert service.resolve_script(REF.playbook_id, "shell").read_bytes().startswith(b"#!")
    report = service.sync_all_metadata()
    for _ in range(2):
        service.request_publish(None, Strategy.REVIEW)
        report = service.sync_all_metadata()
    assert bytes_there(service) == 0
    assert list(report["edits"]["held"]) == [str(REF)], "until it is settled"
    assert service.status()["journal"]["held"] == 1
    assert [p.ref for p in service.verify().problems] == [str(REF)]
    assert service.store.get(REF).sensitive
    service.held.discard(service.held.of(REF.playbook_id))
    assert service.verify().clean


def test_marked_by_an_edit_what_was_to_be_published_stays(service):
    service.create(draft(), strategy=Strategy.REVIEW)
    rewrite(service.store.folder(REF), sensitive=True)
    service.publisher.upload([REF])  # before any sync has seen it
    assert bytes_there(service) == 0
    report = service.sync_all_metadata()
    assert "sealed and stays here" in report["edits"]["waiting"][str(REF)]
    service.sync_all_metadata()
    assert bytes_there(service) == 0
    assert service.store.get(REF).sync_state is SyncState.LOCAL


def test_marked_by_an_edit_a_published_one_has_a_sealed_successor(service):
    service.create(draft(), strategy=Strategy.REVIEW)
    service.sync_all_metadata()
    before = bytes_there(service)
    rewrite(service.store.folder(REF), sensitive=True)
    (service.store.folder(REF) / "shell" / "main.sh").write_bytes(b"echo CANARY\n")
    report = service.sync_all_metadata()
    service.sync_all_metadata()
    successor = Ref(REF.playbook_id, "1.0.1")
    assert "can't be taken back" in report["edits"]["waiting"][str(successor)]
    assert service.store.get(successor).sensitive
    assert bytes_there(service) == before


def test_declassified_it_leaves_when_somebody_chooses(service):
    service.create(draft(sensitive=True))
    service.declassify(REF)
    service.sync_all_metadata()
    assert bytes_there(service) == 0
    service.publish_metadata(REF.playbook_id, Strategy.REVIEW)
    assert service.store.get(REF).is_published
