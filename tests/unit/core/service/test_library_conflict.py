"""Where the Escher Library says something else under a known name: ours is answered, the user chooses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.hostile_server import HostileServer, running_hostile

from core.errors import IntegrityError, Refused, UsageError
from core.models import Ref
from core.service import PlaybookService
from core.settings import Settings

REF = Ref("escher-stop", "1.0.0")
OLD, NEW = {"shell/run.sh": b"echo old\n"}, {"shell/run.sh": b"echo new\n"}


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.fixture
def here(hostile, tmp_path) -> Iterator[PlaybookService]:
    settings = Settings(
        home=tmp_path / "home", server_url=hostile.url, server_token="t", cache_ttl_days=0.00001
    )
    with PlaybookService.open(settings) as service:
        hostile.add(REF, OLD, status="approved")
        assert service.locate_script(str(REF), "shell").path.read_bytes() == b"echo old\n"
        hostile.replace(REF, NEW, status="approved")
        time.sleep(1)  # the entry is older than the TTL
        yield service


@pytest.mark.parametrize("target", [str(REF), REF.playbook_id])
def test_the_known_content_goes_on_being_answered_with_a_warning(here, target):
    for _ in range(2):
        script = here.locate_script(target, "shell")
        assert script.path.read_bytes() == b"echo old\n"
        assert any("the server" in words.lower() for words in script.info.warnings)
    assert [c.ref for c in here.journal.conflicts.entries()] == [REF]


def test_nothing_is_answered_where_nothing_of_it_is_here(here):
    here.cache.quarantine(here.locate_script(str(REF), "shell").listing.key, "gone")
    with pytest.raises(IntegrityError):
        here.locate_script(str(REF), "shell")


def test_a_full_pass_does_not_take_the_conflict_away(here):
    here.locate_script(str(REF), "shell")
    here.journal.pull_state.want_full_pass("a test")
    here.puller.pull()
    assert [c.ref for c in here.journal.conflicts.entries()] == [REF]


def test_theirs_is_taken_only_as_the_conflict_shows_it(here, hostile):
    here.locate_script(str(REF), "shell")
    with pytest.raises(UsageError):
        here.resolve_conflict(REF, rename="mine")
    hostile.replace(REF, {"shell/run.sh": b"echo another\n"}, status="approved")
    with pytest.raises(Refused):
        here.resolve_conflict(REF, take="theirs")
    hostile.replace(REF, NEW, status="approved")
    with pytest.raises(Refused):
        here.resolve_conflict(REF, take="theirs")
    assert here.resolve_conflict(REF, take="theirs").ref == REF
    assert here.journal.conflicts.entries() == []
    script = here.locate_script(str(REF), "shell")
    assert script.path.read_bytes() == b"echo new\n"
    assert script.info.warnings == ()
