from __future__ import annotations

from collections.abc import Callable

import pytest
from support.playbooks import draft

from core.errors import NotFound, UsageError
from core.models import DONE, Ref, Strategy
from core.service import PlaybookService

REF = Ref("stop-idle-databases", "1.0.0")


@pytest.fixture
def there(machines):
    return machines[1]


@pytest.fixture
def here(machines, open_home: Callable[..., PlaybookService]) -> PlaybookService:
    return open_home(machines[0].settings)


def publish(there, name="Stop idle databases", script=b"echo theirs\n"):
    there.store.create(draft(name, {"shell/main.sh": script}), strategy=Strategy.REVIEW)
    there.publish()


def test_what_another_machine_published_is_found_here_before_its_scripts_are(here, there):
    publish(there)
    report = here.puller.pull()
    assert report.pulled == [REF]
    assert here.index_refs([REF]) == {REF: DONE}
    [found] = here.indexing.search("idle databases", {}).results
    assert (found.playbook_id, found.status) == ("stop-idle-databases", "pending_review")
    assert here.journal.versions.unindexed() == []
    # when the content has come, the point is to hold it, too
    here.pulled_folders.fetch_contents(REF, {"shell/main.sh": b"echo theirs\n"})
    assert here.journal.versions.unindexed() == [REF]
    assert here.index_refs([REF]) == {REF: DONE}
    assert here.verify().clean


def test_a_conflict_is_listed_and_settled(here, there):
    publish(there)
    here.create(draft(files={"shell/main.sh": b"echo ours\n"}))
    assert [decided.ref for decided in here.puller.pull().conflicts] == [REF]
    assert [found.ref for found in here.journal.conflicts.entries()] == [REF]
    assert here.status()["journal"]["conflicts"] == 1
    with pytest.raises(UsageError):
        here.resolve_conflict(REF)
    done = here.resolve_conflict(REF, as_version="1.1.0")
    assert done.changed == [Ref(REF.playbook_id, "1.1.0"), REF]
    assert here.journal.conflicts.entries() == []
    assert len(here.journal.conflicts.entries(everything=True)) == 1
    with pytest.raises(NotFound):
        here.resolve_conflict(REF, take="theirs")


@pytest.mark.parametrize("theirs", ["2.0.0", "1.0.0", "0.1.0"])
def test_ours_of_an_id_that_somebody_else_uses_runs_with_a_warning(here, theirs):
    here.create(draft("Stop idle databases"))
    here.journal.conflicts.open(Ref(REF.playbook_id, theirs), "private_id", "Theirs waits.")
    for target in (REF.playbook_id, str(REF)):
        warnings = here.locate_script(target, "shell").info.warnings
        assert any("`escher-playbooks conflicts` shows it" in words for words in warnings)


def test_what_somebody_else_has_under_a_private_id_is_not_taken_into_the_cache(here, there):
    publish(there)
    here.create(draft("Stop idle databases"), version="0.9.0")
    with pytest.raises(NotFound, match="is private here"):
        here.cache_script(*REF, "shell", "main.sh", b"echo theirs\n")
    assert here.scripts.download([REF], "shell")[REF].error_type == "Refused"
    assert here.script_manager.usage()["entries"] == []
