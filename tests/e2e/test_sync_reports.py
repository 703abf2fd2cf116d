"""What a sync says it did, and what waits while the server is away: a home without `up`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from support.playbooks import draft, write_folder
from support.remote_playbooks import publish_remotely
from support.service import ServiceUnderTest, eventually
from support.tenant_server import TenantServer, create, tenant_settings

from core.models import Ref

THEIRS = b"#!/bin/sh\necho theirs\n"
GOING = Ref("going-away", "1.0.0")


@pytest.fixture(scope="module")
def laptop(module_home: Any) -> ServiceUnderTest:
    made: ServiceUnderTest = module_home(**tenant_settings())
    return made


@pytest.fixture(scope="module")
def server(laptop: ServiceUnderTest) -> Iterator[TenantServer]:
    made = TenantServer(laptop)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def first_report(laptop: ServiceUnderTest, server: TenantServer) -> dict[str, Any]:
    """Of a sync that brought `GOING`, which another machine has published."""
    with laptop.service() as opened:
        publish_remotely(opened.server, GOING, {"shell/main.sh": THEIRS})
    return dict(laptop.json("sync", "--wait")["result"])


def test_a_sync_reports_what_it_did_and_leaves_alone_what_it_can_not_read(
    laptop: ServiceUnderTest, server: TenantServer, first_report: dict[str, Any]
) -> None:
    names = {"scanned", "unchanged", "published", "updated", "deleted", "pulled", "conflicts",
             "deferred", "failed", "failures", "bytes", "duration_ms"}  # fmt: skip
    assert names <= set(first_report)
    assert (first_report["pulled"], first_report["failed"]) == (len(server.live()), 0)

    local = laptop.home / "playbooks" / "local"
    edited = create(laptop, "Edited by hand", "--strategy", "keep")
    broken = create(laptop, "Broken by hand", "--strategy", "keep")
    script = local / edited.playbook_id / "v1.0.0" / "shell" / "main.sh"
    script.write_bytes(THEIRS)
    torn = local / broken.playbook_id / "v1.0.0" / "metadata.json"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:20])
    source = write_folder(laptop.home.parent / "shared", draft("Copied by hand"))
    shutil.copytree(source, local / "copied-by-hand" / "v1.0.0")  # as cp -r
    reports: list[dict[str, Any]] = []

    def is_quiet() -> bool:
        laptop.cli("sync", "--wait")
        last = laptop.home / "cache" / "metadata" / "last_sync.json"
        reports.append(json.loads(last.read_text()))
        return "quiet_in_seconds" not in reports[-1]

    eventually(is_quiet, 30, "the edits are quiet")
    taken = [ref for report in reports for kind in ("updated", "added")
             for ref in report["edits"][kind]]  # fmt: skip
    assert sorted(taken) == ["copied-by-hand@1.0.0", str(edited)]

    said = laptop.cli("sync", "--wait")
    assert said.returncode == 1, "somebody has to look at something"
    assert f"{torn.parent}: metadata.json is not JSON" in said.stderr
    last = laptop.json("sync", "--wait", code=1)["result"]
    assert (last["failed"], list(last["failures"])) == (1, [str(torn.parent)])
    assert f"scanned {last['scanned']}, unchanged {last['scanned'] - 1}" in said.stdout
    assert torn.read_bytes() == whole[:20], "left alone"
    torn.write_bytes(whole)
    assert laptop.json("sync", "--wait")["result"]["failed"] == 0


def test_while_the_server_is_away_all_waits_and_then_goes_out_once(
    laptop: ServiceUnderTest, server: TenantServer, first_report: dict[str, Any]
) -> None:
    assert first_report["pulled"]
    server.stop()
    try:
        assert laptop.json("delete", str(GOING))["waiting"] == [str(GOING)]
        waiting = create(laptop, "Waits for the server", "--strategy", "review")
        status = laptop.json("status")
        assert status["server"]["reachable"] is False
        assert status["journal"]["pending"] == 2, "a deletion and a publication"
        laptop.json("sync", "--wait", code=4)
        assert "not reachable since" in laptop.cli("status").stdout
        again = laptop.json("status")
        assert again["server"]["offline_since"] == status["server"]["offline_since"]
        assert sum(again["journal"][name] for name in ("pending", "deferred")) == 2
        assert laptop.json("show", str(GOING))["version"] == "1.0.0", "not forgotten yet"
    finally:
        server.start()

    def has_gone_out() -> bool:
        laptop.json("sync", "--wait")
        return waiting in server.live() and GOING not in server.live()

    known = len(server.versions())
    eventually(has_gone_out, 60, "all went out")
    assert (len(server.versions()), server.versions()[waiting]["revision"]) == (known + 1, 1)
    assert laptop.cli("show", str(GOING)).returncode == 3
    status = laptop.json("status")
    assert (status["server"]["reachable"], status["server"]["offline_since"]) == (True, None)
    assert not any(status["journal"][name] for name in ("pending", "deferred"))
