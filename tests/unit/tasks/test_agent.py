from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.playbooks import draft

from core.journal import JobState
from core.models import Ref, SyncState
from core.service import PlaybookService
from tasks import jobs, workflows
from tasks.agent import LocalSearch, SyncOnChange


def until(check: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def add(service: PlaybookService, name: str, **columns: Any) -> Ref:
    """A stored version; ``columns`` of its row as a publish would have left them."""
    ref = service.create(draft(name, sensitive=columns.pop("sensitive", False))).ref
    if columns:
        assert service.journal.versions.set(ref, **columns)
    return ref


def found(service: PlaybookService) -> list[str]:
    return [str(result["playbook_id"]) for result in LocalSearch(service)("idle", {}, 10)]


# -- searches -----------------------------------------------------------------------------------
@pytest.fixture
def three(service: PlaybookService) -> None:
    add(service, "Stop idle databases", revision=1)
    add(service, "Stop idle clusters")
    add(service, "Stop idle vaults", sensitive=True)
    add(service, "Stop idle safes", sensitive=True, revision=1)  # which should not be
    add(service, "Stop idle nodes", revision=1, deleting=True)


def test_published_versions_only(service: PlaybookService, three: None) -> None:
    assert found(service) == ["stop-idle-databases"]


def test_private_ones_when_shared_and_sensitive_ones_never(
    service: PlaybookService, three: None
) -> None:
    service.settings.share_private_with_agent = True
    assert sorted(found(service)) == ["stop-idle-clusters", "stop-idle-databases"]


def test_private_ones_take_no_place(service: PlaybookService) -> None:
    for number in range(5):
        add(service, f"Stop idle idle idle {number}")
    add(service, "Stop idle databases, all of them", revision=1)
    (result,) = LocalSearch(service)("idle", {}, 1)
    assert result["playbook_id"] == "stop-idle-databases-all-of-them"


# -- changes ------------------------------------------------------------------------------------
class Worker:
    """Runs a sync the moment it is sent: what the server holds is then known here."""

    def __init__(self, service: PlaybookService) -> None:
        self.service = service
        self.pulls: list[dict[Ref, int]] = []
        self.syncs = 0

    def __call__(self, _signature: Any, *, inline: bool) -> None:
        assert not inline
        self.syncs += 1
        for ref, revision in self.pulls.pop(0).items() if self.pulls else ():
            assert self.service.journal.versions.set(ref, revision=revision)
        for job in self.service.journal.jobs.unfinished():
            self.service.journal.jobs.finish(job.job_id, JobState.SUCCEEDED)


@pytest.fixture
def worker(service: PlaybookService, monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker(service)
    monkeypatch.setattr(jobs, "is_running", lambda _: True)
    monkeypatch.setattr(workflows, "dispatch", worker)
    return worker


@pytest.fixture
def on_change(service: PlaybookService) -> Iterator[SyncOnChange]:
    watcher = SyncOnChange(service, quiet_seconds=0.05)
    watcher.start()
    yield watcher
    watcher.stop()


@pytest.fixture
def settled(service: PlaybookService, on_change: SyncOnChange, worker: Worker) -> Any:
    """Once a later notice has had its sync, the ones before have had theirs."""

    def wait() -> int:
        before = worker.syncs
        on_change.missed()
        until(lambda: worker.syncs > before)
        return worker.syncs - 1

    return wait


def test_many_notices_are_one_sync(
    service: PlaybookService, worker: Worker, on_change: SyncOnChange, settled: Any
) -> None:
    refs = [add(service, f"Stop {name}", revision=1) for name in ("a", "b", "c")]
    worker.pulls.append(dict.fromkeys(refs, 2))
    for ref in refs:
        on_change.changed(ref.playbook_id, ref.version, 2)
    until(lambda: worker.syncs)
    assert settled() == 1


def test_what_is_known_and_what_this_home_publishes_needs_no_sync(
    service: PlaybookService, worker: Worker
) -> None:
    known = add(service, "Stop a", revision=3)
    pending = add(service, "Stop b", sync_state=SyncState.PENDING.value)
    leaving = add(service, "Stop c", revision=1, deleting=True)
    # its thread is not started: the step itself, so that "nothing" has a moment
    SyncOnChange(service)._catch_up({known: 3, pending: 1, leaving: 2}, everything=False)
    assert worker.syncs == 0


def test_what_a_sync_did_not_bring_is_asked_for_once_more(
    service: PlaybookService, worker: Worker, on_change: SyncOnChange
) -> None:
    ref = add(service, "Stop a", revision=1)
    worker.pulls += [{}, {ref: 2}]
    on_change.changed(*ref, 2)
    until(lambda: (record := service.journal.versions.get(ref)) and record.revision == 2)
    assert worker.syncs == 2


def test_without_workers_one_sync_is_journalled(
    service: PlaybookService, on_change: SyncOnChange
) -> None:
    for revision in range(1, 4):
        on_change.changed("unknown", "1.0.0", revision)
        until(service.journal.jobs.recent)
    queued = [(job.kind, job.state) for job in service.journal.jobs.recent()]
    assert queued == [("sync", JobState.QUEUED)]


def test_a_sync_whose_message_was_lost_is_sent_for_once_more(
    service: PlaybookService,
    worker: Worker,
    on_change: SyncOnChange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.journal.jobs.create("sync", {})  # and nobody comes for it
    monkeypatch.setattr("tasks.agent.LOST_SECONDS", -1.0)
    on_change.changed("unknown", "1.0.0", 1)
    until(lambda: worker.syncs)
    assert len(service.journal.jobs.recent()) == 1
