"""`up`, `down`, `status` and `doctor` as a user meets them, with every process real."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import psutil
import pytest
from support.service import MakeService, ServiceUnderTest, eventually

ALL = ["broker", "server", "worker-transfer", "worker-embed", "beat", "api", "agent", "flower"]


@pytest.fixture(scope="module")
def shared(module_home: MakeService) -> ServiceUnderTest:
    return module_home()


@pytest.fixture
def service(shared: ServiceUnderTest) -> ServiceUnderTest:
    """It runs, whatever a test before did: those that end it come late, as each start costs."""
    if not shared.is_up:
        shared.up()
    return shared


def processes_of(service: ServiceUnderTest) -> list[psutil.Process]:
    """Every process that was started for this home, by its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("ESCHER_HOME")
        except psutil.Error:
            continue  # gone meanwhile, or not ours to look at
        if home == str(service.home) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def supervisor_pid(service: ServiceUnderTest) -> int:
    return int(json.loads((service.home / "run" / "up.json").read_text())["supervisor"]["pid"])


def assert_nothing_left(service: ServiceUnderTest) -> None:
    eventually(lambda: not processes_of(service), 20, "every process has ended")
    run = service.home / "run"
    left = {path.name for path in run.iterdir()}
    assert not left & {"up.json", "broker.sock", "beat.pid", "agent.pid"}
    assert not [name for name in left if name.endswith(".ready")]


def test_secrets_are_private_and_on_no_command_line(service: ServiceUnderTest) -> None:
    secrets = []
    for name in ("api.token", "server.token", "flower.auth"):
        path = service.home / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secrets.append(path.read_text().strip())
    lines = [" ".join(process.cmdline()) for process in processes_of(service)]
    assert lines
    assert not [line for line in lines for secret in secrets if secret in line]
    logs = service.logs()
    assert not [secret for secret in secrets if secret in logs]
    for log in (service.home / "run" / "logs").iterdir():
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_second_up_is_refused_and_names_the_first(service: ServiceUnderTest) -> None:
    for arguments in (("up",), ("up", "--detach")):
        error = service.json(*arguments, code=5)["error"]
        assert error["type"] == "HomeInUse"
        assert str(supervisor_pid(service)) in error["detail"]
        assert "escher-playbooks down" in error["remedy"]


def test_doctor_is_content_before_and_while_it_runs(
    new_service: MakeService, service: ServiceUnderTest
) -> None:
    assert new_service().json("doctor")["ok"] is True
    report = service.json("doctor")
    assert report["ok"] is True
    assert {"server", "clock", "broker", "journal", "embedding model"} <= {
        check["name"] for check in report["checks"]
    }


def test_doctor_says_what_is_wrong_and_how_to_mend_it(service: ServiceUnderTest) -> None:
    token, api_token = service.home / "server.token", service.home / "api.token"
    right = token.read_text()
    token.write_text("wrong\n")
    api_token.chmod(0o644)
    try:
        checks = {check["name"]: check for check in service.json("doctor", code=1)["checks"]}
    finally:
        token.write_text(right)
        api_token.chmod(0o600)

    assert not checks["server"]["ok"]
    assert not checks["API token"]["ok"]
    assert "chmod 600" in checks["API token"]["remedy"]


def test_what_dies_is_started_again(service: ServiceUnderTest) -> None:
    before = service.components()
    killed = ("broker", "worker-transfer", "worker-embed")
    service.kill(*killed)

    def all_new() -> bool:
        now = service.components()
        return set(now) == set(ALL) and all(now[name] != before[name] for name in killed)

    eventually(all_new, 90, "everything is started again")
    eventually(lambda: set(service.components("running")) == set(ALL), 90, "and is ready")
    assert service.components()["api"] == before["api"], "the others were left alone"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_supervisor_leaves_nothing_and_up_works_again(service: ServiceUnderTest) -> None:
    os.kill(supervisor_pid(service), signal.SIGKILL)
    eventually(
        lambda: len(processes_of(service)) == 0, 20, "the components ended with the supervisor"
    )

    service.up()

    assert set(service.components()) == set(ALL)


def test_up_status_down(service: ServiceUnderTest) -> None:
    body = service.json("status")
    assert [part["name"] for part in body["components"]] == ALL
    assert {part["state"] for part in body["components"]} == {"running"}
    assert all(psutil.pid_exists(part["pid"]) for part in body["components"])
    assert body["server"]["reachable"] is True
    assert set(body["journal"]) == {
        "playbooks", "versions", "published", "pending", "deferred", "failed", "conflicts", "held",
    }  # fmt: skip
    assert set(body["sync"]) >= {"last_at", "running", "pulled_at", "deletions_waiting"}

    with service.api as api:
        assert api.get("/healthz").status_code == 200
    with service.flower as flower:
        assert flower.get("/api/workers").status_code == 200
        assert flower.get("/api/workers", auth=None).status_code == 401

    service.down()

    assert_nothing_left(service)
    stopped = service.json("status")["components"]
    assert [(part["name"], part["state"], part["pid"]) for part in stopped] == [
        (name, "stopped", None) for name in ALL
    ]
    assert service.cli("down").returncode == 0, "twice is fine"


def test_down_cleans_up_after_a_killed_supervisor(service: ServiceUnderTest) -> None:
    os.kill(supervisor_pid(service), signal.SIGKILL)

    service.down()

    assert_nothing_left(service)


def test_in_the_foreground_ctrl_c_stops_all_in_reverse(new_service: MakeService) -> None:
    service = new_service()
    process = subprocess.Popen(
        [sys.executable, "-m", "escher_playbooks.cli.main", "up"],
        env=service.env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.split())
        if line.startswith("up:"):
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0

    started = [words[0] for words in lines if words[1] == "running"]
    stopped = [words[0] for words in lines if words[1] == "stopped"]
    assert started[:2] == ALL[:2]
    assert sorted(started) == sorted(ALL)
    assert stopped == ALL[::-1]
    assert_nothing_left(service)


def test_a_taken_port_is_named_before_anything_starts(new_service: MakeService) -> None:
    service = new_service()
    with socket.create_server(("127.0.0.1", service.api_port)):
        started = time.monotonic()
        for arguments in (("up",), ("up", "--detach")):
            error = service.json(*arguments, code=2)["error"]
            assert str(service.api_port) in error["detail"]
            assert "api_port" in error["detail"]
            assert "ESCHER_API_PORT" in error["remedy"]
        assert time.monotonic() - started < 60
    assert not (service.home / "run" / "broker").exists()
    assert_nothing_left(service)
