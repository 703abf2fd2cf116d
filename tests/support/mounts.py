"""A home on a file system of its own, in a mount namespace that ends with its holder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.service import COMMAND, ServiceUnderTest


class MountedService(ServiceUnderTest):
    """Its commands run in the namespace of the process ``holder``."""

    holder: int

    def cli(
        self, *arguments: str, timeout: float = 300, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-m", "-t", str(self.holder), "--", str(COMMAND), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )

    @property
    def seen(self) -> Path:
        """The home as the commands see it."""
        return Path(f"/proc/{self.holder}/root{self.home}")


@contextmanager
def mounted(service: MountedService, script: str) -> Iterator[None]:
    """Run ``script`` (which mounts something at ``$1``, the home) in a namespace of its own.

    Skips the test where this user may not mount.
    """
    holder = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec",
         f"{script}; echo mounted; exec cat", "sh", str(service.home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "mounted\n":
                pytest.skip(f"this user may not mount here: {holder.stderr.read().strip()}")
            service.holder = holder.pid
            yield
        finally:
            holder.stdin.close()  # `cat` ends, and the namespace with it
