"""A playbook's life by the command line alone: no `up`, and the reference server on its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from support.playbooks import draft, write_folder
from support.refusals import refusal
from support.service import COMMAND, WORD_MODEL, MakeService, ServiceUnderTest, eventually

from escher_playbooks.api.app import create_app

NEWER = {"shell/main.sh": b"#!/usr/bin/env bash\necho 'newer'\n"}


@pytest.fixture(scope="module")
def beside_server(module_home: MakeService) -> Iterator[ServiceUnderTest]:
    """A home whose server runs as `escher-playbooks server`, with a member's token, too."""
    service = module_home()
    url = service.settings.server_url
    process = subprocess.Popen(
        [str(COMMAND), "server", "--no-semantic", "--token", "other:member:other-token"],
        env=service.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: _answers(url), 30, "the server answers")
        yield service
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/reference/stats").status_code == 401
    except httpx.TransportError:
        return False


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process count words in place of loading the model, as the commands do."""
    for name in ("sentence_transformers", "torch"):
        spec = spec_from_file_location(name, WORD_MODEL / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, name, module)


@contextmanager
def _http(service: ServiceUnderTest) -> Iterator[TestClient]:
    """The same home through the API's application, in this process."""
    with TestClient(create_app(service.settings), base_url="http://127.0.0.1") as client:
        token = (service.home / "api.token").read_text().strip()
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@pytest.mark.usefixtures("words")
def test_a_playbook_from_creation_to_deletion(
    beside_server: ServiceUnderTest, tmp_path: Path
) -> None:
    cli = beside_server
    first = write_folder(tmp_path / "first", draft("Rotate stale access keys"))
    newer = write_folder(tmp_path / "newer", draft("Rotate stale access keys", NEWER))

    made = cli.json("create", str(first), "--strategy", "keep")
    assert set(made) == {"playbook_id", "version", "warnings", "job_id", "findings"}
    assert (made["playbook_id"], made["version"]) == ("rotate-stale-access-keys", "1.0.0")

    question = "stale keys that nobody rotated"
    found = cli.json("search", question)
    assert found["results"][0]["playbook_id"] == "rotate-stale-access-keys"
    # the bodies are those of HTTP
    path = "/v1/playbooks/rotate-stale-access-keys"
    with _http(cli) as http:
        for arguments, same in (
            (("list",), "/v1/playbooks"),
            (("show", "rotate-stale-access-keys"), path),
            (("versions", "rotate-stale-access-keys"), f"{path}/versions"),
            (("resolve", "rotate-stale-access-keys", "--format", "shell"),
             "/v1/scripts/rotate-stale-access-keys/latest/shell"),
            (("jobs", "ls"), "/v1/jobs"),
            (("jobs", "show", made["job_id"]), f"/v1/jobs/{made['job_id']}"),
        ):  # fmt: skip
            assert cli.json(*arguments) == http.get(same).json(), arguments
        assert found == http.post("/v1/search", json={"query": question}).json()

    # what is unpublished is replaced in place
    assert cli.json("update", "rotate-stale-access-keys", str(newer))["version"] == "1.0.0"
    script = Path(cli.cli("resolve", "rotate-stale-access-keys", "--format", "shell").stdout[:-1])
    assert script.read_bytes() == NEWER["shell/main.sh"]

    job = cli.json("publish", "rotate-stale-access-keys", "--as", "trusted", "--wait")
    assert (job["state"], job["succeeded"]) == ("succeeded", 1)
    shown = cli.json("show", "rotate-stale-access-keys")
    # its path was just handed out: it counts as published, and its folder moves later
    assert (shown["sync"]["state"], shown["area"]) == ("published", "local")
    assert script.exists()
    assert shown["metadata"]["status"] == "approved"  # the home's own token is a reviewer's

    # published: a new version
    assert cli.json("update", "rotate-stale-access-keys", str(first))["version"] == "1.0.1"
    versions = cli.json("versions", "rotate-stale-access-keys")["items"]
    assert [item["version"] for item in versions] == ["1.0.0", "1.0.1"]
    assert cli.json("status-set", "rotate-stale-access-keys@1.0.1", "archived")["metadata"][
        "status"
    ] == "archived"  # fmt: skip

    cli.json("delete", "rotate-stale-access-keys@1.0.1")
    cli.json("delete", "rotate-stale-access-keys")
    cli.json("sync", "--wait")
    refusal(cli, "show", "rotate-stale-access-keys", code=3, type_="NotFound", names=("rotate",))
    assert cli.json("list")["items"] == []
    assert cli.json("verify")["clean"]


def test_a_wrong_token_is_named_and_the_right_one_publishes(
    beside_server: ServiceUnderTest, tmp_path: Path
) -> None:
    cli = beside_server
    folder = write_folder(tmp_path / "p", draft("Let me in", {"shell/a.sh": b"echo\n"}))
    cli.json("create", str(folder), "--strategy", "review")
    right = dict(cli.env)
    try:
        cli.env["ESCHER_SERVER_TOKEN"] = "wrong-token"
        job = cli.json("publish", "let-me-in", "--wait", code=1)
        cli.env["ESCHER_SERVER_TOKEN"] = "other-token"  # another tenant's
        again = cli.json("jobs", "retry", job["job_id"], "--wait", code=1)
    finally:
        cli.env = right
    for (item,), words in (
        (job["items"], ("401", "server_token")),
        (again["items"], ("403", "tenant_id")),
    ):
        assert all(word in item["error"] for word in words), item
        assert "-token" not in item["error"], item
    assert cli.json("jobs", "retry", job["job_id"], "--wait")["succeeded"] == 1
    cli.json("delete", "let-me-in")
    cli.json("sync", "--wait")
