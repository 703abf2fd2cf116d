from __future__ import annotations

import pytest

REF = "stop-idle-databases@1.0.0"


@pytest.fixture
def stored(run, folder):
    run("create", folder, "--strategy", "keep")
    return run


def test_a_run_is_reported(stored):
    done = stored("executed", REF, "--success", "--duration-ms", "1200")
    assert (done.code, done.out.strip()) == (0, f"{REF} ok: 1 executions, 1 of them well")
    body = stored("executed", REF, "--failure", "--execution-id", "e1", "--json").json
    assert (body["execution_id"], body["counted"], body["execution_count"]) == ("e1", True, 2)
    again = stored("executed", REF, "--failure", "--execution-id", "e1")
    assert "counted before: e1" in again.err


def test_three_failures_show_where_one_looks(stored):
    for _ in range(3):
        stored("executed", REF, "--failure", "--error", "exit 2: no such bucket")
    shown = stored("show", REF).out
    assert "broken" in shown
    assert "3, 0 of them well" in shown
    assert "exit 2: no such bucket" in shown
    assert "broken" in stored("list").out
    assert stored("search", "stop idle databases", "--json").json["results"] == []
    stored("executed", REF, "--success")
    assert "1/4" in stored("search", "stop idle databases").out


def test_wrong_usage_and_what_is_not_there(stored):
    assert stored("executed", REF).code == 2
    assert stored("executed", "stop-idle-databases", "--success").code == 2
    assert stored("executed", REF, "--success", "--duration-ms", "-1").code == 2
    assert stored("executed", "stop-idle-databases@9.0.0", "--success").code == 3
