"""Jobs of the kind ``download`` by version: every version has an outcome, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.playbooks import draft
from support.scripts import publish

from core.models import DONE, OutcomeState, Ref, Strategy
from core.service import PlaybookService
from core.settings import Settings

BARE = Ref("bare", "1.0.0")
ELSEWHERE = Ref("elsewhere", "1.0.0")


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    return open_home(tenant_settings)


def _steps(
    service: PlaybookService, ref: Ref, format_: str | None = None
) -> list[tuple[str, str | None]]:
    """Both steps' outcomes: the state, and the kind of error."""
    scripts = service.scripts
    outcomes = [scripts.download([ref], format_)[ref], scripts.verify([ref], format_)[ref]]
    return [(outcome.state.value, outcome.error_type) for outcome in outcomes]


def test_a_version_of_the_server_comes_in_all_its_formats(service):
    publish(service.server, ELSEWHERE, {"shell/a.sh": b"a", "python/a.py": b"b"})
    assert service.scripts.download([ELSEWHERE]) == {ELSEWHERE: DONE}
    assert service.scripts.verify([ELSEWHERE]) == {ELSEWHERE: DONE}
    formats = {entry["format"] for entry in service.script_manager.usage()["entries"]}
    assert formats == {"shell", "python"}


@pytest.mark.parametrize("format_", [None, "shell"])
def test_a_version_without_scripts_fails_and_is_not_asked_for_for_ever(service, format_):
    publish(service.server, BARE, {"parameters.json": b'{"parameters": []}'})
    assert _steps(service, BARE, format_) == [("failed", "NotFound")] * 2


def test_a_version_that_nobody_has_fails(service):
    assert _steps(service, ELSEWHERE) == [("failed", "NotFound")] * 2
    assert _steps(service, ELSEWHERE, "shell") == [("failed", "NotFound")] * 2


def test_what_is_not_published_is_left_alone(service):
    plain = service.create(draft()).ref
    secret = service.create(draft("Rotate the keys", sensitive=True)).ref
    for ref in (plain, secret):
        assert [state for state, _ in _steps(service, ref)] == ["skipped", "skipped"]
    assert service.script_manager.usage()["entries"] == []


def test_a_published_version_has_no_format_but_its_own(service):
    ref = service.create(draft()).ref
    service.publish_refs(service.request_publish(None, Strategy.REVIEW).accepted)
    assert _steps(service, ref, "terraform") == [("failed", "NotFound")] * 2
    assert service.scripts.download([ref])[ref].state is OutcomeState.DONE


def test_without_a_server_it_waits(tenant_settings):
    nowhere = tenant_settings.model_copy(update={"server_url": "http://127.0.0.1:9"})
    with PlaybookService.open(nowhere) as offline:
        assert _steps(offline, ELSEWHERE)[0] == ("deferred", "ServerUnreachable")
