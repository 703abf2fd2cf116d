"""The command line in this process, on a home of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.playbooks import draft, write_folder

from escher_playbooks.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


Run = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; nobody listens at its server's address."""
    monkeypatch.chdir(tmp_path)  # no .env of the checkout
    for name in [name for name in os.environ if name.startswith("ESCHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ESCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ESCHER_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ESCHER_SERVER_TOKEN", "s3cret-token")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("create", folder)`` as the console script would, with its exit code and output."""

    def call(*arguments: object) -> Done:
        code = main.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A playbook's folder: ``stop-idle-databases``, with one shell script."""
    return write_folder(tmp_path / "in" / "one", draft("Stop idle databases"))
