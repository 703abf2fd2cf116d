"""Workers die, the broker forgets: everything acknowledged is still published, exactly once."""

from __future__ import annotations

import pytest
import redis
from support.playbooks import draft
from support.postgres import on_both_engines
from support.server_side import assert_server_equals_disk
from support.service import MakeService, ServiceUnderTest, eventually, kill

VERSIONS = 300


def fill(service: ServiceUnderTest, count: int = VERSIONS) -> None:
    """Store ``count`` small playbooks without a word to any worker."""
    with service.service() as opened:
        for start in range(0, count, 50):
            drafts = [
                draft(f"Chaos playbook {number}", {
                    "shell/main.sh": f"#!/bin/sh\necho {number}\n".encode(),
                    "python/main.py": f"print({number})\n".encode(),
                })
                for number in range(start, start + 50)
            ]  # fmt: skip
            results = opened.store.create_many(drafts)
            assert all(result.error is None for result in results)


def begin_publish(service: ServiceUnderTest) -> str:
    return str(service.json("publish", "--all", "--as", "review")["job_id"])


def assert_all_published_once(service: ServiceUnderTest, count: int = VERSIONS) -> None:
    stats = service.server_stats()
    assert (stats["versions"], stats["revisions"]) == (count, count)
    assert_server_equals_disk(service, count)
    assert service.json("verify")["clean"]


@pytest.fixture
def service(new_service: MakeService) -> ServiceUnderTest:
    """Small batches, so that there is a middle to be killed in; what is put off waits for a sync."""
    made = new_service(publish_batch_size="16", sync_interval_minutes="1")
    made.up()
    return made


@on_both_engines
@pytest.mark.timeout(600)
def test_workers_killed_in_the_middle(service: ServiceUnderTest) -> None:
    fill(service)
    workers = service.processes("worker-transfer", "worker-embed")
    job_id = begin_publish(service)
    eventually(lambda: service.counts()["published"] >= 30, 120, "the publish is under way")
    kill(workers)
    assert service.counts()["published"] < VERSIONS
    eventually(lambda: service.counts()["published"] == VERSIONS, 240, "completed by itself")
    assert_all_published_once(service)
    with service.api as api:
        path = f"/v1/jobs/{job_id}"
        eventually(lambda: api.get(path).json()["state"] == "succeeded", 60, "the job knows")


@pytest.mark.timeout(600)
def test_the_whole_service_killed_and_the_broker_wiped(
    new_service: MakeService,
) -> None:
    service = new_service(publish_batch_size="16")
    service.up()
    fill(service)
    workers = service.processes("worker-transfer", "worker-embed")
    begin_publish(service)
    eventually(lambda: service.counts()["published"] >= 30, 120, "the publish is under way")
    kill(workers)
    assert service.counts()["published"] < VERSIONS
    with redis.Redis(unix_socket_path=str(service.settings.broker_socket)) as broker:
        broker.flushall()
    service.down()  # on a fast machine workers that were started anew finish before this ends
    service.up()
    eventually(lambda: service.counts()["published"] == VERSIONS, 240, "completed by itself")
    assert_all_published_once(service)


@pytest.mark.timeout(600)
def test_the_broker_is_restarted_under_load(new_service: MakeService) -> None:
    """What workers had taken before counts as under way for two minutes; a soon sync ends them."""
    service = new_service(publish_batch_size="16")
    service.up()
    fill(service)
    broker = service.processes("broker")
    begin_publish(service)
    eventually(lambda: service.counts()["published"] >= 30, 120, "the publish is under way")
    kill(broker)
    assert service.counts()["published"] < VERSIONS
    eventually(lambda: service.counts()["published"] == VERSIONS, 240, "completed by itself")
    assert_all_published_once(service)


@pytest.mark.timeout(600)
def test_the_server_and_the_workers_gone_together(service: ServiceUnderTest) -> None:
    """The server stops again and again in the middle of a publish, and the workers with it."""
    fill(service)
    begin_publish(service)
    names, killed = ("server", "worker-transfer"), set[int]()

    def started_anew() -> bool:
        running = service.components()
        return all(name in running and running[name] not in killed for name in names)

    for enough in (30, 90, 150):
        eventually(lambda: service.counts()["published"] >= enough, 120, "under way")  # noqa: B023
        eventually(started_anew, 60, "what was killed the time before runs again")
        processes = service.processes(*names)
        killed.update(process.pid for process in processes)
        kill(processes)
    eventually(lambda: service.counts()["published"] == VERSIONS, 240, "completed by itself")
    eventually(lambda: "server" in service.components(), 60, "the server is back, too")
    with service.service() as opened:
        eventually(opened.server.reachable, 60, "and answers")
    assert_all_published_once(service)
