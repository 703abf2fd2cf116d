from __future__ import annotations

import asyncio
import os
import signal

import pytest

from core.server.agent_link import AgentLink


@pytest.fixture
def pidfile(tmp_path):
    return tmp_path / "agent.pid"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_says_so_in_its_pidfile(run, monkeypatch, pidfile, number):
    seen = []

    async def run_link(_link):
        seen.append(pidfile.read_text())
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(AgentLink, "run", run_link)
    done = run("agent", "--pidfile", pidfile, "--json")
    assert done.code == 0
    assert done.json == {"url": "ws://127.0.0.1:9/api/agent/ws?tenant_id=local"}
    assert seen == [f"{os.getpid()}\n"]
    assert not pidfile.exists()


def test_a_server_that_is_not_there_ends_nothing(run, monkeypatch, pidfile):
    async def stop_at_first_wait(_seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    original = AgentLink.__init__

    def with_sleep(link, *arguments, **options):
        original(link, *arguments, **options, sleep=stop_at_first_wait)

    monkeypatch.setattr(AgentLink, "__init__", with_sleep)
    done = run("agent", "--pidfile", pidfile)
    assert done.code == 0
    assert "s3cret-token" not in done.out + done.err
