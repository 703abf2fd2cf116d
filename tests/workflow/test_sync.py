"""Both ways under `up`: an editor here, a reviewer there, another machine, a server that goes away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder
from support.postgres import on_both_engines
from support.remote_playbooks import publish_remotely
from support.server_side import assert_server_equals_disk, server_objects
from support.service import MakeService, ServiceUnderTest, eventually

from core.files import sha256_bytes
from core.models import Ref, Status
from core.service import PlaybookService

# Far below the hour between two ticks; what is promised is seconds, and benchmarks measure it.
SOON = 60
EDITED = b"#!/usr/bin/env bash\necho 'edited by hand'\n"


@pytest.fixture(scope="module")
def patients(module_home: MakeService) -> Callable[[str], ServiceUnderTest]:
    """One for each engine of the journal, started by the first test that wants it."""

    @functools.cache
    def of(engine: str) -> ServiceUnderTest:
        made = module_home(engine, sync_interval_minutes="60", edit_quiet_seconds="1")
        made.up()
        return made

    return of


@pytest.fixture
def patient(patients: Callable[[str], ServiceUnderTest], engine: str) -> ServiceUnderTest:
    """A running service whose beat stays out of the test: an hour between two syncs."""
    return patients(engine)


def publish_one(service: ServiceUnderTest, folder: Path, name: str) -> Ref:
    write_folder(folder, draft(name))
    made = service.json("create", str(folder), "--strategy", "review")
    ref = Ref(made["playbook_id"], made["version"])
    eventually(lambda: service.sync_state(ref) == "published", 60, "published")
    return ref


def status(opened: PlaybookService, ref: Ref) -> Status | None:
    row = opened.journal.versions.get(ref)
    return None if row is None else row.status


@on_both_engines
def test_an_edit_in_an_editor_is_the_next_version_for_review(
    patient: ServiceUnderTest, tmp_path: Path
) -> None:
    service = patient
    ref = publish_one(service, tmp_path / "p", "Edit me")
    published = server_objects(service)[ref]
    script = (
        service.home / "playbooks" / "synced" / ref.playbook_id / "v1.0.0" / "shell" / "main.sh"
    )
    for text in (b"#!/usr/bin/env bash\necho 'ed", EDITED):  # saved twice while typing
        script.write_bytes(text)

    successor = Ref(ref.playbook_id, "1.0.1")
    eventually(lambda: successor in server_objects(service), SOON, "the edit is on the server")
    assert server_objects(service)[successor] == {"shell/main.sh": sha256_bytes(EDITED)}
    assert server_objects(service)[ref] == published, "a published version never changes"

    def is_back() -> bool:
        try:
            return sha256_bytes(script.read_bytes()) == published["shell/main.sh"]
        except FileNotFoundError:  # between two renames
            return False

    eventually(is_back, SOON, "the published content is back")
    eventually(lambda: service.sync_state(successor) == "published", SOON, "settled")
    shown = service.json("show", str(successor))["metadata"]
    assert (shown["status"], shown["storage_strategy"]) == ("pending_review", "uploaded_for_review")


def test_an_approval_comes_over_the_link_and_not_with_the_next_tick(
    patient: ServiceUnderTest, tmp_path: Path
) -> None:
    service = patient
    ref = publish_one(service, tmp_path / "p", "Approve me")
    with service.service() as opened:
        opened.server.set_status(ref, Status.APPROVED)
        eventually(lambda: status(opened, ref) is Status.APPROVED, SOON, "approved here, too")
    shown = service.json("show", str(ref))["metadata"]
    assert shown["storage_strategy"] == "uploaded_trusted"


def test_without_the_link_a_rejection_is_here_within_one_interval(
    new_service: MakeService, tmp_path: Path
) -> None:
    service = new_service(agent_enabled="false")  # and a sync every three seconds
    service.up()
    ref = publish_one(service, tmp_path / "p", "Reject me")
    with service.service() as opened:
        opened.server.set_status(ref, Status.REJECTED, "It deletes what it should stop.")
        eventually(lambda: status(opened, ref) is Status.REJECTED, SOON, "rejected here, too")
    shown = service.json("show", str(ref))["metadata"]
    assert shown["status"] == "rejected"
    assert "It deletes what it should stop." in service.cli("show", str(ref)).stdout


def test_what_another_machine_published_comes_and_its_script_when_wanted(
    patient: ServiceUnderTest,
) -> None:
    service = patient
    ref = Ref("from-elsewhere", "2.1.0")
    script = b"#!/bin/sh\necho elsewhere\n"
    with service.service() as opened:
        publish_remotely(opened.server, ref, {"shell/run.sh": script})
    eventually(lambda: service.sync_state(ref), SOON, "it is here")
    service.json("show", str(ref))
    folder = service.home / "playbooks" / "synced" / "from-elsewhere" / "v2.1.0"
    assert [path.name for path in folder.iterdir()] == ["metadata.json"]
    found = eventually(
        lambda: service.json("search", "Remote from-elsewhere")["results"], 60, "found by search"
    )
    assert found[0]["playbook_id"] == ref.playbook_id
    resolved = service.json("resolve", "from-elsewhere", "--format", "shell")
    assert Path(resolved["path"]).read_bytes() == script
    assert service.json("verify")["clean"]

    with service.service() as opened:
        record = opened.journal.versions.get(ref)
        assert record is not None
        opened.server.delete(ref, record.revision)
    eventually(lambda: service.sync_state(ref) is None, SOON, "deleted here, too")
    service.json("show", str(ref), code=3)
    assert not folder.exists()


def test_the_server_away_for_a_while_costs_nothing(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    (server,) = service.processes("server")
    server.suspend()  # as a server that is overloaded: it takes connections and says nothing
    try:
        names = [f"Offline thing {number}" for number in range(20)]
        for number, name in enumerate(names):
            write_folder(tmp_path / str(number), draft(name))
        report = service.json("import", str(tmp_path), "--strategy", "review")
        assert report["imported"] == len(names)
        found = service.json("search", "offline thing 7")  # all of this works offline
        assert found["results"]
    finally:
        server.resume()
    eventually(lambda: service.counts()["published"] == len(names), 120, "all went out")
    stats = service.server_stats()
    assert (stats["versions"], stats["revisions"]) == (len(names), len(names)), "each once"
    assert_server_equals_disk(service, len(names))


@on_both_engines
def test_many_who_ask_at_once_get_one_sync_at_a_time(patient: ServiceUnderTest) -> None:
    service = patient
    with service.api as api:
        asked = [api.post("/v1/jobs", json={"kind": "sync"}).json()["job_id"] for _ in range(20)]

        def done() -> bool:
            jobs: list[dict[str, Any]] = [api.get(f"/v1/jobs/{job}").json() for job in asked]
            return all(job["state"] == "succeeded" for job in jobs)

        eventually(done, SOON, "each is answered")
        report = api.get("/v1/sync").json()
    assert report["offline"] is None
    # The claim is given back a moment after the last who asked has its answer.
    eventually(lambda: not service.json("status")["sync"]["running"], SOON, "no sync goes on")
