"""Both ways as a user sees them, with `up`: conflicts, decisions, runs, reviews."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.playbooks import metadata
from support.refusals import refusal
from support.remote_playbooks import publish_remotely
from support.service import ServiceUnderTest, eventually
from support.tenant_server import MEMBER_TOKEN, OWN_TOKEN, TenantServer, create, tenant_settings

from core.models import Ref

THEIRS = b"#!/bin/sh\necho theirs\n"


@pytest.fixture(scope="module")
def home(module_home: Any) -> ServiceUnderTest:
    made: ServiceUnderTest = module_home(**tenant_settings())
    return made


@pytest.fixture(scope="module")
def server(home: ServiceUnderTest) -> Iterator[TenantServer]:
    made = TenantServer(home)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def office(home: ServiceUnderTest, server: TenantServer) -> ServiceUnderTest:
    """Runs `up`, and learns of changes over the agent link."""
    home.up()
    return home


@pytest.fixture
def api(office: ServiceUnderTest) -> Iterator[httpx.Client]:
    with office.api as client:
        yield client


def _post(api: httpx.Client, name: str, strategy: str, **fields: Any) -> Ref:
    """`create` over HTTP: a command costs most of a second."""
    script = {"path": "shell/main.sh", "content": _ours(name).decode()}
    body = {"metadata": metadata(name, **fields), "scripts": [script], "strategy": strategy}
    made = api.post("/v1/playbooks", json=body).json()
    return Ref(made["playbook_id"], made["version"])


def _ours(name: str) -> bytes:
    return f"#!/usr/bin/env bash\necho '{name}'\n".encode()


def _shown(api: httpx.Client, ref: Ref) -> dict[str, Any]:
    return dict(api.get(f"/v1/playbooks/{ref.playbook_id}/versions/{ref.version}").json())


def _state(api: httpx.Client, ref: Ref) -> str:
    return str(_shown(api, ref)["sync"]["state"])


def _script(api: httpx.Client, ref: Ref) -> bytes:
    found = api.get(f"/v1/scripts/{ref.playbook_id}/{ref.version}/shell").json()
    return Path(found["path"]).read_bytes()


def _at_odds(service: ServiceUnderTest, api: httpx.Client, *names: str) -> list[Ref]:
    """Versions that are private here and that another machine has published with other content."""
    refs = [_post(api, name, "keep") for name in names]
    with service.service() as opened:
        for ref in refs:
            publish_remotely(opened.server, ref, {"shell/main.sh": THEIRS})
    eventually(lambda: {_state(api, ref) for ref in refs} == {"conflict"}, 30, "open conflicts")
    return refs


# -- conflicts ---------------------------------------------------------------------------------
def test_conflicts_are_listed_and_settled_by_each_choice_through_both_doors(
    office: ServiceUnderTest, server: TenantServer, api: httpx.Client
) -> None:
    choices = (("--as-version", "1.1.0"), ("--rename", "mine"), ("--take", "theirs"))
    names = [f"{door}{option.replace('-', ' ')}" for door in ("cli", "api")
             for option, _ in choices]  # fmt: skip
    refs = _at_odds(office, api, *names)
    listed = office.json("conflicts")
    assert listed == api.get("/v1/conflicts").json()
    open_ones = [item for item in listed["items"] if item["state"] == "open"]
    assert {(item["playbook_id"], item["version"]) for item in open_ones} == set(refs)
    assert office.json("status")["journal"]["conflicts"] == len(refs)
    assert "conflicts resolve" in _shown(api, refs[0])["sync"]["error"]
    refusal(office, "publish", str(refs[0]), "--as", "review", code=5, type_="Refused",
            names=("open conflict",))  # fmt: skip

    def settle(ref: Ref, option: str, value: str) -> dict[str, Any]:
        if ref.playbook_id.startswith("cli"):
            return dict(office.json("conflicts", "resolve", str(ref), option, value))
        body = {option.removeprefix("--").replace("-", "_"): value}
        path = f"/v1/conflicts/{ref.playbook_id}/{ref.version}/resolution"
        return dict(api.post(path, json=body).json())

    for (versioned, renamed, taken), (old, middle, last), door in (
        (refs[:3], names[:3], "cli"), (refs[3:], names[3:], "api"),
    ):  # fmt: skip
        second, mine = Ref(versioned.playbook_id, "1.1.0"), Ref(f"{door}-mine", "1.0.0")
        assert settle(versioned, "--as-version", second.version)["kept_as"] == str(second)
        assert settle(renamed, "--rename", mine.playbook_id)["kept_as"] == str(mine)
        folder = Path(settle(taken, "--take", "theirs")["folder"])
        assert (_script(api, second), _script(api, mine)) == (_ours(old), _ours(middle))
        assert (folder / "shell" / "main.sh").read_bytes() == _ours(last)
        assert not {second, mine} & server.live(), "private stays private"
    for ref in refs:
        assert (_state(api, ref), _script(api, ref)) == ("published", THEIRS)
    left = api.get("/v1/conflicts").json()["items"]
    assert {(item["playbook_id"], item["state"]) for item in left} == {
        (refs[2].playbook_id, "kept"), (refs[5].playbook_id, "kept"),
    }  # fmt: skip
    assert "Kept in" in office.cli("conflicts").stdout


def test_a_choice_that_can_not_be_is_refused_in_words(
    office: ServiceUnderTest, api: httpx.Client
) -> None:
    (ref,) = _at_odds(office, api, "Choose well")
    resolve = ("conflicts", "resolve", str(ref))
    for options, code, type_, name in (
        (("--as-version", "1.1.0", "--take", "theirs"), 2, "UsageError", "one choice"),
        (("--rename", "cli-mine"), 5, "AlreadyExists", "cli-mine@1.0.0"),
    ):
        # one after the other: the two forms at once would meet at the version's lease
        refusal(office, *resolve, *options, code=code, type_=type_, names=(name,))
    path = f"/v1/conflicts/{ref.playbook_id}"
    for version, body, status in (("1.0.0", {"as_version": "one"}, 400), ("1.0.0", {}, 400),
                                  ("1.0.0", {"take": "mine"}, 422), ("9.9.9", {"take": "theirs"}, 404)):  # fmt: skip
        assert api.post(f"{path}/{version}/resolution", json=body).status_code == status
    assert _state(api, ref) == "conflict"
    assert _script(api, ref) == _ours("Choose well"), "ours goes on working"
    office.json(*resolve, "--take", "theirs")


# -- decisions ---------------------------------------------------------------------------------
def test_what_an_ai_wrote_waits_for_the_users_decision(
    office: ServiceUnderTest, server: TenantServer, api: httpx.Client
) -> None:
    keep = create(office, "Written to keep", "--author", "ai_generated")
    review, trusted, discarded = (
        _post(api, f"Written to {word}", "trusted", author="ai_generated")
        for word in ("review", "trust", "discard")
    )
    refs = {keep, review, trusted, discarded}
    waiting = office.home / "playbooks" / "ai-generated"
    assert {path.name for path in waiting.iterdir()} == {f"{r.playbook_id}-v1.0.0" for r in refs}
    refusal(office, "publish", str(review), "--as", "review", code=5, type_="Refused",
            names=("decide",))  # fmt: skip
    office.json("publish", str(review), str(keep), "--as", "trusted", "--wait", code=5)
    office.json("sync", "--wait")
    assert not refs & server.live()

    def decide(ref: Ref, decision: str) -> httpx.Response:
        path = f"/v1/playbooks/{ref.playbook_id}/versions/{ref.version}/decision"
        return api.post(path, json={"decision": decision})

    assert office.json("decide", str(keep), "keep")["area"] == "local"
    office.json("decide", str(review), "review")
    assert decide(trusted, "trusted").json()["decision"] == "trusted"
    assert decide(discarded, "discard").json()["job_id"] is None
    eventually(lambda: {review, trusted} <= server.live(), 60, "the two are on the server")
    there = server.versions()
    assert (there[review]["status"], there[trusted]["status"]) == ("pending_review", "approved")
    assert not {keep, discarded} & set(there)
    assert _shown(api, discarded)["type"] == "NotFound"
    assert list(waiting.iterdir()) == []
    assert decide(keep, "review").status_code == httpx.codes.CONFLICT


# -- runs --------------------------------------------------------------------------------------
def test_three_failures_hide_it_a_success_brings_it_back_and_the_server_counts_once(
    office: ServiceUnderTest, server: TenantServer, api: httpx.Client
) -> None:
    ref = _post(api, "Drain the turbine", "trusted")
    eventually(lambda: ref in server.live(), 60, "published")

    def found() -> dict[str, Any] | None:
        results = api.post("/v1/search", json={"query": "drain the turbine"}).json()["results"]
        return next((r for r in results if r["playbook_id"] == ref.playbook_id), None)

    eventually(found, 30, "found while it works")
    path = f"/v1/playbooks/{ref.playbook_id}/versions/1.0.0/executions"
    run = {"execution_id": "run-1", "success": False, "duration_ms": 40}
    assert api.post(path, json=run).json()["counted"] is True
    assert api.post(path, json=run).json()["counted"] is False, "the same run again"
    office.json("executed", str(ref), "--failure", "--duration-ms", "30")
    third = office.json("executed", str(ref), "--failure", "--error", "no such valve")
    assert (third["health"], third["execution_count"]) == ("broken", 3)
    eventually(lambda: found() is None, 20, "hidden")
    said = office.cli("show", str(ref)).stdout
    assert "broken" in said
    assert "no such valve" in said
    assert api.post(path, json={"success": True}).json()["health"] == "ok"
    shown = eventually(found, 20, "shown again")
    assert (shown["execution_count"], shown["success_count"]) == (4, 1)

    for _ in range(2):
        office.json("sync", "--wait")
        counts = server.versions()[ref]["metadata"]
        assert (counts["execution_count"], counts["success_count"]) == (4, 1)
    assert not any("valve" in json.dumps(item) for item in server.versions().values())


# -- reviews -----------------------------------------------------------------------------------
def test_the_reviewers_words_are_shown_and_a_member_can_not_approve(
    office: ServiceUnderTest, server: TenantServer, api: httpx.Client
) -> None:
    ref = _post(api, "Ask a reviewer", "review")
    eventually(lambda: _state(api, ref) == "published", 60, "published")
    assert server.review(ref, MEMBER_TOKEN, status="approved").status_code == 403
    words = "It stops what it should start."
    assert server.review(ref, OWN_TOKEN, status="rejected", reason=words).status_code == 200
    office.json("sync", "--wait")
    shown = _shown(api, ref)["metadata"]
    assert (shown["status"], shown["deprecation_reason"]) == ("rejected", words)
    assert words in office.cli("show", str(ref)).stdout


def test_the_last_report_is_at_hand_over_http(office: ServiceUnderTest, api: httpx.Client) -> None:
    job = office.json("sync", "--wait")
    path = office.home / "cache" / "metadata" / "last_sync.json"
    assert api.get("/v1/sync").json() == json.loads(path.read_text())
    assert job["result"]["at"] <= api.get("/v1/sync").json()["at"]
