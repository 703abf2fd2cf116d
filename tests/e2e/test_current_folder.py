"""A folder of somebody else's, such as a cloned repository, in which our commands are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder
from support.service import COMMAND, MakeService, ServiceUnderTest, eventually

from core.permissions import open_to_others
from core.rag import edge_files

OURS = ("core", "tasks", "escher_playbooks", "escher_server", "celeryconfig", "flowerconfig")
THEIRS = (
    "celery", "kombu", "redis", "vine", "billiard", "flower", "tornado", "sqlalchemy", "pydantic",
    "requests", "urllib3", "numpy", "torch", "transformers", "qdrant_edge", "ahocorasick_rs",
    "keyring", "uvicorn", "fastapi", "psutil", "watchfiles", "sitecustomize", "usercustomize",
)  # fmt: skip
PROGRAMS = ("valkey-server", "redis-server", "bash", "getkey")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Whatever is imported or run from this folder leaves its name in ``ran``."""
    folder = tmp_path / "clone"
    folder.mkdir()
    ran = folder / "ran"
    code = f"open({str(ran)!r}, 'a').write(__name__ + '\\n')\n"
    for name in {*OURS, *THEIRS, *sys.stdlib_module_names}:
        (folder / f"{name}.py").write_text(code)
    for name in OURS[:4]:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\nexit 1\n")
        (folder / name).chmod(0o755)
    (folder / ".env").write_text(
        "ESCHER_ENCRYPTION_KEY_SOURCE=command\n"
        f"ESCHER_ENCRYPTION_KEY_COMMAND={folder / 'getkey'}\n"
        f"ESCHER_HOME={folder / 'home'}\nESCHER_PLAYBOOKS_DIR={folder}\n"
    )
    (folder / "config.toml").write_text(f"encryption_key_command = '{folder / 'getkey'}'\n")
    return folder


def ran(folder: Path) -> str:
    path = folder / "ran"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def service(new_service: MakeService) -> ServiceUnderTest:
    """With all that it imports."""
    return new_service(real_model=True)


def test_commands_run_nothing_of_it(service: ServiceUnderTest, trap: Path, tmp_path: Path) -> None:
    plain = write_folder(tmp_path / "p", draft("Plain one"))
    secret = write_folder(tmp_path / "q", draft("Secret one", sensitive=True))
    environment = service.env | {"PATH": f".::{os.environ['PATH']}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments], cwd=trap, env=environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    with service.server_alone():
        for arguments in (
            ("create", str(plain), "--strategy", "review"),
            ("create", str(secret), "--strategy", "keep"),
            ("publish", "plain-one", "--wait"),
            ("sync", "--wait"),
            ("resolve", "secret-one", "--format", "shell"),
            ("doctor",),
            ("status",),
        ):
            done = run(*arguments)
            # doctor finds the server's port taken, by the server
            assert done.returncode == (arguments == ("doctor",)), (
                f"{arguments}: {done.stdout}{done.stderr}"
            )
            assert ".env is not read" in done.stderr
            assert ran(trap) == "", arguments
    assert not (trap / "home").exists()
    assert (service.home / "playbooks" / "synced" / "plain-one").is_dir()


def test_the_whole_service_started_from_it_runs_nothing_of_it(
    service: ServiceUnderTest, trap: Path, tmp_path: Path
) -> None:
    environment = service.env | {"PATH": f".::{os.environ['PATH']}"}
    done = subprocess.run(
        [str(COMMAND), "up", "--detach"], cwd=trap, env=environment,
        capture_output=True, text=True, timeout=180, check=False, umask=0,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{service.logs()}"
    folder = write_folder(tmp_path / "p", draft("Plain one"))
    service.json("create", str(folder), "--strategy", "review")
    service.json("publish", "plain-one", "--wait")
    eventually(lambda: service.json("search", "plain")["results"], 60, "found")

    assert ran(trap) == ""
    for process in service.processes("worker-transfer", "worker-embed", "beat", "flower"):
        assert process.cwd() == str(service.home / "run")
    assert open_to_others(service.home) == [], "whatever the umask of who started it"


def test_a_program_of_our_own_imports_nothing_of_it(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trap)
    monkeypatch.syspath_prepend("")  # as an interactive Python has it
    assert not edge_files.is_sound(tmp_path / "none")
    assert ran(trap) == ""
