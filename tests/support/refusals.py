"""A command that is refused says so well, and leaves everything as it was."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import sha256_file
from core.playbooks.verify import verify as verify_store
from support.service import COMMAND, ServiceUnderTest

TIMEOUT_SECONDS = 180


def refusal(
    service: ServiceUnderTest,
    *arguments: str,
    code: int,
    type_: str,
    names: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    in_words: bool = False,
) -> dict[str, Any]:
    """Run a command that ends with ``code``; its error, of ``type_`` and naming each of ``names``.

    ``in_words`` runs it as people do, too: the same in words, and no traceback.
    """
    forms = [(*arguments, "--json"), *([arguments] if in_words else [])]
    running = [
        subprocess.Popen(
            [str(COMMAND), *words],
            env=service.env | dict(env or {}),
            cwd=cwd or service.home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in forms
    ]
    (out, body), *more = [process.communicate(timeout=TIMEOUT_SECONDS) for process in running]
    assert [process.returncode for process in running] == [code] * len(forms), (out, body, more)
    assert out == ""
    error: dict[str, Any] = json.loads(body)["error"]
    assert_error(error, type_, names)
    for _, said in more:
        assert "Traceback" not in said
        assert all(words in said for words in (error["title"], error["detail"], error["remedy"]))
    return error


def assert_error(error: dict[str, Any], type_: str, names: Sequence[str]) -> None:
    """``{type, title, detail, remedy}``, of this type, naming the things."""
    assert error["type"] == type_, error
    assert error["title"], error
    assert error["remedy"], error
    for name in names:
        assert name in error["detail"], error


def files_under(root: Path) -> dict[str, str]:
    """``{relative path: checksum}`` of every file, links and pipes by their kind alone."""
    return {
        path.relative_to(root).as_posix(): sha256_file(path) if path.is_file() else "other"
        for path in sorted(root.rglob("*"))
        if not path.is_dir()
    }


class Untouched:
    """What stood in a home's playbooks and journal when this was made still does."""

    def __init__(self, service: ServiceUnderTest) -> None:
        self._service = service
        self._files = files_under(service.settings.playbooks_path)
        self._refs = self._journalled()

    def check(self) -> None:
        """The same files and rows, nothing staged, and each agrees with the other."""
        staging = self._service.settings.staging_path
        assert not staging.exists() or not list(staging.iterdir())
        assert files_under(self._service.settings.playbooks_path) == self._files
        assert self._journalled() == self._refs
        with self._service.service() as opened:
            assert verify_store(opened.store) == []

    def _journalled(self) -> list[str]:
        journal = self._service.journal()
        try:
            return sorted(str(ref) for ref in journal.versions.refs())
        finally:
            journal.close()
