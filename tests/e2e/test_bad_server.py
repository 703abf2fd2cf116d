"""A server that is none, is another, is away, or does not know us; and settings that can't be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder
from support.refusals import Untouched, refusal
from support.service import ServiceUnderTest, eventually, free_port

PAGE = b"<!doctype html><title>Sign in to the guest network</title>"


class _Html(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815  the names that http.server looks for

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def html_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Html) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_answers_html_is_no_escher_server(
    module_home: Any, html_server: str, tmp_path: Path
) -> None:
    service: ServiceUnderTest = module_home(
        server_url=html_server, server_embedded="false", server_token="t0ken-of-mine"
    )
    folder = write_folder(tmp_path / "p", draft("Stays here"))
    service.json("create", str(folder), "--strategy", "review")
    before = Untouched(service)
    # a guest network's page passes: the work stays queued
    job = service.json("publish", "stays-here", "--wait", code=4)
    (item,) = job["items"]
    assert item["state"] == "deferred"
    assert html_server in item["error"]
    assert "server_url" in item["error"], "the remedy"
    assert "guest network" not in item["error"]
    said = service.cli("jobs", "retry", job["job_id"], "--wait")
    assert said.returncode == 4
    assert "Traceback" not in said.stderr
    assert html_server in said.stderr
    assert "t0ken-of-mine" not in said.stderr + said.stdout + str(job)
    before.check()


def test_without_a_server_the_work_waits_and_up_goes_on_with_it(
    module_home: Any, tmp_path: Path
) -> None:
    service: ServiceUnderTest = module_home()
    folder = write_folder(tmp_path / "p", draft("Waits here"))
    made = service.cli("create", str(folder), "--strategy", "review")
    assert made.returncode == 0
    assert "queued" in made.stderr
    before = Untouched(service)
    job = service.json("publish", "waits-here", "--wait", code=4)
    assert job["deferred"] == 1
    assert service.json("show", "waits-here")["sync"]["state"] == "deferred"
    assert service.json("status")["server"]["reachable"] is False
    before.check()

    service.up()

    eventually(lambda: service.counts()["published"] == 1, 60, "published after `up`")
    assert service.server_stats()["revisions"] == 1
    # once the server has answered, another one's or tenant's settings find the home taken
    published = Untouched(service)
    env = {"ESCHER_TENANT_ID": "another"}
    refusal(service, "list", code=5, type_="HomeMismatch", names=("another", "local"), env=env)
    env = {"ESCHER_SERVER_URL": "https://elsewhere.example"}
    refusal(service, "list", code=5, type_="HomeMismatch", names=("elsewhere",), env=env)
    published.check()


@pytest.mark.parametrize(
    ("config", "env", "names"),
    [
        (b"cache_ttl_days = ", {}, ("config.toml", "TOML")),
        (b"\xff\xfe", {}, ("config.toml", "TOML")),
        (b'colour = "red"', {}, ("config.toml", "colour")),
        (b'cache_ttl_days = "soon"', {}, ("cache_ttl_days",)),
        (b"", {"SERVER_URL": "http://escher.example.com"}, ("server_url", "escher.example.com")),
        (b"", {"TENANT_ID": "../x"}, ("tenant_id",)),
        (b"", {"JOURNAL_URL": "nonsense"}, ("journal_url",)),
        (b"", {"BROKER_URL": "amqp://u:hidden@x"}, ("broker_url",)),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_named(
    tmp_path: Path, config: bytes, env: dict[str, str], names: tuple[str, ...]
) -> None:
    service = ServiceUnderTest(tmp_path / "home")
    service.home.mkdir(mode=0o700)
    (service.home / "config.toml").write_bytes(config)
    error = refusal(
        service, "list", code=2, type_="SettingsError", names=names,
        env={f"ESCHER_{name}": value for name, value in env.items()},
    )  # fmt: skip
    assert "hidden" not in str(error)
    assert [path.name for path in service.home.iterdir()] == ["config.toml"]


def test_an_empty_setting_is_none(tmp_path: Path) -> None:
    """ESCHER_HOME= (as compose files write it) is the default, not the current folder."""
    service = ServiceUnderTest(tmp_path / "home")
    service.env |= {"ESCHER_HOME": "", "HOME": str(tmp_path), "ESCHER_API_PORT": str(free_port())}
    shown = service.json("config")["settings"]
    assert shown["home"] == {"value": str(tmp_path / ".escher"), "source": "default"}
