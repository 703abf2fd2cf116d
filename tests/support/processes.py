"""Processes in a PID namespace of their own, as two containers have them on one machine."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any


@functools.lru_cache(maxsize=1)
def can_unshare() -> bool:
    """Whether this user may make PID namespaces here."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def in_own_namespace(
    arguments: Sequence[str],
    *,
    cwd: Path,
    own_proc: bool = True,
    stdin: int | IO[Any] | None = None,
) -> subprocess.Popen[str]:
    """Start a program as the first process of a namespace; it is killed when `unshare` is.

    ``own_proc`` False leaves the outer namespace's /proc mounted, with other numbers in it.
    """
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    if own_proc:
        command.append("--mount-proc")
    return subprocess.Popen(
        [*command, *arguments], cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, text=True
    )
