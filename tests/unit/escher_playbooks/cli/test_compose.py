"""`docker-compose.yml` and the `Dockerfile`, held to what our programs accept. No Docker needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from flower.options import default_options

from core.settings import Settings

ROOT = Path(__file__).resolve().parents[4]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ["server", "worker-transfer", "worker-embed", "beat", "api", "agent", "flower"]
PROGRAMS = {"escher-playbooks": "escher_playbooks.cli.main", "celery": "celery"}


@pytest.mark.parametrize("name", OURS)
def test_each_command_is_one_that_the_program_accepts(name: str, tmp_path: Path) -> None:
    program, *arguments = SERVICES[name]["command"]
    if program == "python":
        assert arguments == ["-P", "-m", "escher_playbooks.api"]
        assert (ROOT / "escher_playbooks" / "api" / "__main__.py").is_file()
        return
    done = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], *arguments, "--help"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_flowers_own_options_are_its_own() -> None:
    options = [word for word in SERVICES["flower"]["command"] if word.startswith("--")]
    names = {option.removeprefix("--").partition("=")[0].replace("-", "_") for option in options}
    assert names <= set(default_options._options)


def test_every_queue_has_a_worker() -> None:
    queues: list[str] = []
    for service in SERVICES.values():
        command = service.get("command", [])
        if "-Q" in command:
            queues += command[command.index("-Q") + 1].split(",")
    assert sorted(queues) == ["control", "embed", "search", "transfer"]


def test_our_parts_may_use_plain_http_as_they_share_a_loopback() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["network_mode"] == "service:net"
        assert "ports" not in service, "published by net, for all"
        url = service["environment"].get("ESCHER_SERVER_URL")
        if url is not None:
            default = re.sub(r"\$\{ESCHER_SERVER_URL:-(.*)\}", r"\1", url)
            assert Settings(server_url=default).embeds_server


def test_the_settings_are_taken_as_they_stand() -> None:
    given = SERVICES["worker-transfer"]["environment"]
    values = {
        name.removeprefix("ESCHER_").lower(): re.sub(r"\$\{\w+:\?[^}]+\}", "x", value)
        for name, value in given.items()
        if name in {"ESCHER_BROKER_URL", "ESCHER_QDRANT_URL", "ESCHER_ALLOW_HTTP_HOSTS"}
    }
    settings = Settings(**values)
    assert set(settings.allow_http_hosts) == {"redis", "qdrant"}
    assert set(settings.allow_http_hosts) <= set(SERVICES), "hosts of this file and no others"


def test_the_parts_start_where_nobody_can_write() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    folders = re.findall(r"^WORKDIR (\S+)$", last_stage, re.MULTILINE)
    assert folders == ["/opt/empty"]
    assert re.search(r"install -d -m 0555 /opt/empty$", last_stage, re.MULTILINE)
    assert "PYTHONSAFEPATH=1" in last_stage
    assert not [name for name in OURS if "working_dir" in SERVICES[name]]


def test_every_variable_is_a_setting() -> None:
    known = {f"ESCHER_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        names = set(SERVICES[name]["environment"])
        assert {n for n in names if n.startswith("ESCHER_")} <= known


def test_secrets_are_given_and_never_defaulted() -> None:
    secret = re.compile(r"TOKEN|PASSWORD|API_KEY|BASIC_AUTH")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
    assert not [line for line in TEXT.splitlines() if "TOKEN:-" in line or "PASSWORD:-" in line]


def test_only_loopback_is_published() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_each_is_watched_and_holds_no_rights() -> None:
    for name in ["redis", "qdrant", *OURS]:
        assert SERVICES[name]["healthcheck"]["test"], name
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["read_only"] is True
    dockerfile = (ROOT / "Dockerfile").read_text()
    last_stage = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert re.search(r"^USER escher$", last_stage, re.MULTILINE)


def test_the_image_holds_every_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    for package in ("core", "tasks", "escher_playbooks", "escher_server"):
        assert f"COPY {package} {package}\n" in dockerfile
        assert f"!{package}" in ignored
