"""A whole service of its own: home, ports and processes, driven as a user drives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from core.journal import Journal
from core.models import Ref
from core.service import PlaybookService
from core.settings import Settings
from escher_playbooks.cli.service_commands import current_components

COMMAND = Path(sys.executable).with_name("escher-playbooks")
POLL_SECONDS = 0.1
TESTS = Path(__file__).resolve().parents[1]
WORD_MODEL = TESTS / "support" / "word_model"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def eventually(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until ``check`` answers something true; fail with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL these processes and their children."""
    for process in processes:
        for child in process.children(recursive=True):
            child.send_signal(signal.SIGKILL)
        process.send_signal(signal.SIGKILL)


class ServiceUnderTest:
    """Start with `up`, end with `down`; ``settings`` are ESCHER_ names in lower case.

    Its processes count words in place of loading the model, unless it is the ``real_model``.
    """

    def __init__(self, home: Path, *, real_model: bool = False, **settings: str) -> None:
        self.home = home
        self.api_port, self.flower_port, server_port = free_port(), free_port(), free_port()
        values = {
            "home": str(home),
            "api_port": str(self.api_port),
            "flower_port": str(self.flower_port),
            "server_url": f"http://127.0.0.1:{server_port}",
            "server_embedded": "true",
            "sync_interval_minutes": "0.05",
            **settings,
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ESCHER_")}
        self.env = kept | {f"ESCHER_{k.upper()}": v for k, v in values.items()}
        if not real_model:
            paths = [str(WORD_MODEL), str(TESTS), self.env.get("PYTHONPATH", "")]
            self.env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._values = values

    # -- as a user ---------------------------------------------------------------------------
    def cli(
        self, *arguments: str, timeout: float = 300, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.home.parent,
            **options,
        )

    def json(self, *arguments: str, code: int = 0, timeout: float = 300) -> Any:
        done = self.cli(*arguments, "--json", timeout=timeout)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return json.loads(done.stdout if done.stdout.strip() else done.stderr)

    def up(self) -> None:
        done = self.cli("up", "--detach", timeout=180)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def down(self) -> None:
        done = self.cli("down", timeout=120)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    @contextlib.contextmanager
    def server_alone(self, *options: str) -> Iterator[None]:
        """The reference server of this home, with faults, on its own."""
        process = subprocess.Popen(
            [str(COMMAND), "server", "--faults", "--no-semantic", *options],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with self.service() as opened:
                eventually(opened.server.reachable, 60, "the reference server answers")
            yield
        finally:
            process.terminate()
            process.wait(30)

    @property
    def api(self) -> httpx.Client:
        token = (self.home / "api.token").read_text().strip()
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.api_port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    @property
    def flower(self) -> httpx.Client:
        user, _, password = (self.home / "flower.auth").read_text().strip().partition(":")
        url = f"http://127.0.0.1:{self.flower_port}"
        return httpx.Client(base_url=url, auth=(user, password), timeout=30)

    # -- as a test -----------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, **self._values)  # type: ignore[call-arg]

    def service(self) -> PlaybookService:
        return PlaybookService.open(self.settings)

    def journal(self) -> Journal:
        return Journal(self.settings.effective_journal_url)

    def counts(self) -> dict[str, int]:
        journal = self.journal()
        try:
            return journal.versions.counts()
        finally:
            journal.close()

    @property
    def is_up(self) -> bool:
        """Whether `up` runs, or was killed."""
        return (self.home / "run" / "up.json").exists()

    def components(self, *states: str) -> dict[str, int]:
        """``{name: pid}`` of what is started, or in one of ``states``, as `status` tells it."""
        listed = [part.as_json() for part in current_components(self.settings)]
        return {
            item["name"]: item["pid"]
            for item in listed
            if item["pid"] and (not states or item["state"] in states)
        }

    def sync_state(self, ref: Ref) -> str | None:
        """What the journal says of a version."""
        journal = self.journal()
        try:
            row = journal.versions.get(ref)
        finally:
            journal.close()
        return None if row is None else row.sync_state.value

    def server_stats(self) -> dict[str, int]:
        """The reference server's own counters of this tenant."""
        with PlaybookService(self.settings) as service:
            return service.server.reference_stats()

    def processes(self, *names: str) -> list[psutil.Process]:
        """Components, by the pids that the supervisor keeps; look them up before the storm."""
        pids = [pid for name, pid in self.components().items() if name in names]
        assert len(pids) == len(names), f"not all of {names} run"
        return [psutil.Process(pid) for pid in pids]

    def kill(self, *names: str) -> None:
        """SIGKILL components and their children."""
        kill(self.processes(*names))

    def logs(self) -> str:
        paths = sorted((self.home / "run" / "logs").glob("*.log"))
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in paths
        )


MakeService = Callable[..., ServiceUnderTest]
