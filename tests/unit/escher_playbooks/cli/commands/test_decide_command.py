from __future__ import annotations

import pytest

REF = "stop-idle-databases@1.0.0"


@pytest.fixture
def waiting(run, folder):
    run("create", folder, "--author", "ai_generated", "--strategy", "review")
    assert run("show", REF, "--json").json["area"] == "ai-generated"
    return run


def test_keep(waiting):
    done = waiting("decide", REF, "keep")
    assert (done.code, done.out.strip()) == (0, f"{REF} kept private")
    shown = waiting("show", REF, "--json").json
    assert (shown["area"], shown["metadata"]["storage_strategy"]) == ("local", "local_only")


def test_review_queues_the_publication(waiting):
    done = waiting("decide", REF, "review")
    assert done.code == 0
    assert "queued: publishing" in done.err
    assert waiting("show", REF, "--json").json["sync"]["state"] == "pending"


def test_the_json_is_that_of_the_api(waiting):
    body = waiting("decide", REF, "trusted", "--json").json
    assert (body["decision"], body["area"], body["sync"]["state"]) == (
        "trusted",
        "local",
        "pending",
    )
    assert waiting("jobs", "show", body["job_id"], "--json").json["kind"] == "publish"


def test_discard(waiting):
    assert waiting("decide", REF, "discard").code == 0
    assert waiting("show", REF).code == 3
    assert waiting("decide", REF, "discard").code == 3


def test_refusals(waiting, run, folder):
    assert waiting("decide", REF, "perhaps").code == 2
    assert waiting("decide", "stop-idle-databases", "keep").code == 2
    assert waiting("publish", REF).code == 5
    waiting("decide", REF, "keep")
    assert waiting("decide", REF, "discard").code == 5
    assert waiting("show", REF).code == 0


def test_whoever_may_be_running_it_is_told_of(waiting):
    assert waiting("resolve", REF, "--format", "shell", "--allow-unreviewed").code == 0
    assert "was handed out to be run" in waiting("decide", REF, "keep").err
