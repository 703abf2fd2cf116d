"""The reference server in this process, on a loopback port."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import requests

SERVER_THREADS = ("reference-server", "AnyIO worker", "asyncio_")  # how their names begin


@dataclass
class Reference:
    """A running server; every test takes a tenant of its own."""

    url: str
    data_dir: Path
    _numbers: Iterator[int]

    def tenant(self, role: Literal["member", "reviewer"] = "member") -> tuple[str, str]:
        from escher_server.tenants import ensure_tenant

        number = next(self._numbers)
        tenant_id, token = f"tenant-{number}", f"CANARY-TOKEN-{number}"
        ensure_tenant(self.data_dir, tenant_id, role, token)
        return tenant_id, token

    def reviewer(self, tenant_id: str) -> str:
        """A reviewer's token of a tenant that is there."""
        from escher_server.tenants import ensure_tenant

        token = f"CANARY-REVIEWER-{tenant_id}"
        ensure_tenant(self.data_dir, tenant_id, "reviewer", token)
        return token

    def faults(self, *rules: dict[str, Any]) -> None:
        _, token = self.tenant()
        answer = requests.put(
            f"{self.url}/api/reference/faults",
            json=list(rules),
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
        )
        assert answer.status_code == 200, answer.text


def forget_deleted_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers in this process break a rule: the name of a deleted version takes new content.

    A server that was restored, or is of another make, may do so; clients must live with it.
    """

    def holds_other_content(row: Any, content_digest: str) -> bool:
        return not row["deleted"] and bool(row["content_digest"] != content_digest)

    monkeypatch.setattr("escher_server.publishing.holds_other_content", holds_other_content)


@contextmanager
def running_reference(data_dir: Path, library_dir: Path | None = None) -> Iterator[Reference]:
    """A server with faults, and small parts; it is stopped at the end."""
    import uvicorn

    from escher_server.app import create_app
    from escher_server.config import ServerConfig

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = ServerConfig(
            data_dir=data_dir,
            public_url=url,
            faults_enabled=True,
            multipart_over_bytes=1 << 16,
            part_bytes=1 << 15,
            library_dir=library_dir,
        )
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="error"))
        thread = threading.Thread(
            target=server.run,
            kwargs={"sockets": [listener]},
            name=SERVER_THREADS[0],
            daemon=True,
        )
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Reference(url, data_dir, itertools.count(1))
        server.should_exit = True
        thread.join(20)
