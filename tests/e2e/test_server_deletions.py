"""What the server takes away, and what of its feed can't be read, at each door: CLI, jobs, HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.hostile_server import HostileServer, running_hostile
from support.service import ServiceUnderTest

from core.models import Ref

REFS = [Ref(f"theirs-{number}", "1.0.0") for number in range(12)]
BAD = Ref("torn", "1.0.0")


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    """Tells all that it has, whatever the cursor."""
    with running_hostile() as made:
        made.lie(
            "changes",
            lambda _honest, _asked: {
                "changes": list(made.items.values()), "cursor": "1", "more": False,
            },
        )  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def laptop(module_home: Any, server: HostileServer) -> ServiceUnderTest:
    made: ServiceUnderTest = module_home(
        server_url=server.url,
        server_embedded="false",
        server_token="t",
        sync_interval_minutes="60",
        sync_pull_scripts="true",
    )
    return made


def tear(server: HostileServer) -> None:
    """One item of the feed can't be read."""
    server.add(BAD, content_digest="sha256:" + "0" * 64, revision=len(server.asked))


def test_many_deletions_wait_for_the_user_and_go_into_the_trash(
    laptop: ServiceUnderTest, server: HostileServer
) -> None:
    for ref in REFS:
        server.add(ref)
    tear(server)
    torn = laptop.json("sync", "--wait", code=1)
    assert torn["state"] == "partial"
    assert torn["result"]["partial"] is True
    assert list(torn["result"]["failures"]) == [str(BAD)]
    assert torn["result"]["fetched"] == len(REFS)

    for ref in REFS:
        server.remove(ref)
    said = laptop.cli("sync", "--wait")
    assert "12 deletions of the server wait" in said.stdout + said.stderr
    assert laptop.json("status")["sync"]["deletions_waiting"] == len(REFS)
    assert laptop.cli("trash", "ls").stdout.strip() == "the trash is empty"
    checks = laptop.json("doctor", code=1)["checks"]
    many, one = (check for check in checks if check["name"] == "server's changes")
    assert (many["ok"], "12 deletions wait" in many["detail"]) == (False, True)
    assert "--accept-deletions" in many["remedy"]
    assert (one["ok"], "1 changes of the server" in one["detail"]) == (False, True)
    server.add(BAD, revision=len(server.asked))
    shown = laptop.json("resolve", str(REFS[-1]), "--format", "shell", "--allow-unreviewed")
    assert any("deleted on the server" in warning for warning in shown["warnings"])

    laptop.json("sync", "--wait", "--accept-deletions", code=0)
    listed = laptop.json("trash", "ls")["items"]
    assert {(item["playbook_id"], item["version"]) for item in listed} == set(REFS[:-1])
    assert laptop.json("show", str(REFS[-1])), "its path was just handed out: it goes later"
    back = laptop.json("trash", "restore", str(REFS[0]))
    assert (back["playbook_id"], back["version"]) == (REFS[0].playbook_id, "1.0.1")
    shown = laptop.json("show", f"{REFS[0].playbook_id}@1.0.1")
    assert shown["metadata"]["storage_strategy"] == "local_only"
    assert laptop.cli("trash", "restore", str(REFS[0])).returncode == 3, "it is there no more"
    assert len(laptop.json("trash", "ls")["items"]) == len(REFS) - 2


def test_the_same_over_http_and_with_workers(
    laptop: ServiceUnderTest, server: HostileServer
) -> None:
    laptop.up()
    tear(server)
    torn = laptop.json("sync", "--wait", code=1)
    assert (torn["state"], list(torn["result"]["failures"])) == ("partial", [str(BAD)])
    with laptop.api as api:
        asked = api.post("/v1/jobs", json={"kind": "sync", "accept_deletions": True})
        assert asked.status_code == httpx.codes.ACCEPTED
        wrong = api.post("/v1/jobs", json={"kind": "embed", "accept_deletions": True})
        assert wrong.status_code == httpx.codes.BAD_REQUEST
        listed = api.get("/v1/trash").json()
        assert listed == laptop.json("trash", "ls")
        back = api.post(f"/v1/trash/{REFS[1].playbook_id}/1.0.0/restoration")
        assert (back.status_code, back.json()["version"]) == (httpx.codes.CREATED, "1.0.1")
        again = api.post(f"/v1/trash/{REFS[1].playbook_id}/1.0.0/restoration")
        assert again.status_code == httpx.codes.NOT_FOUND
        hostile = api.post("/v1/trash/..%2Fx/1.0.0/restoration")
        assert hostile.status_code in {httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND}
