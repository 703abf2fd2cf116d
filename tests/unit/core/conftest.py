"""The reference server on a loopback port, for the tests of its client."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from core.server.client import EscherServer
from core.settings import Settings


@dataclass
class Reference:
    """A running server; every test takes a tenant of its own."""

    url: str
    data_dir: Path
    _numbers: Iterator[int]

    def tenant(self, role: str = "member") -> tuple[str, str]:
        from escher_server.tenants import ensure_tenant

        number = next(self._numbers)
        tenant_id, token = f"tenant-{number}", f"CANARY-TOKEN-{number}"
        ensure_tenant(self.data_dir, tenant_id, role, token)
        return tenant_id, token

    def faults(self, *rules: dict[str, Any]) -> None:
        _, token = self.tenant()
        answer = requests.put(
            f"{self.url}/api/reference/faults",
            json=list(rules),
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="session")
def _reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    import uvicorn

    from escher_server.app import create_app
    from escher_server.config import ServerConfig

    data_dir = tmp_path_factory.mktemp("escher-server")
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
        )
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Reference(url, data_dir, itertools.count(1))
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def reference(_reference: Reference) -> Iterator[Reference]:
    yield _reference
    _reference.faults()


@pytest.fixture
def tenant_settings(reference: Reference, tmp_path: Path) -> Settings:
    tenant_id, token = reference.tenant()
    return Settings(
        home=tmp_path / "home", server_url=reference.url, tenant_id=tenant_id, server_token=token
    )


@pytest.fixture
def machines(reference: Reference, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two homes of one tenant."""
    from support.machines import Machine

    tenant_id, token = reference.tenant()
    made = [
        Machine(
            Settings(
                home=tmp_path / name,
                server_url=reference.url,
                tenant_id=tenant_id,
                server_token=token,
            )
        )
        for name in ("here", "there")
    ]
    yield made[0], made[1]
    for machine in made:
        machine.close()


@pytest.fixture
def reviewer(
    reference: Reference, machines: tuple[Any, Any], tmp_path: Path
) -> Iterator[EscherServer]:
    """A client with a reviewer's token of the machines' tenant."""
    from escher_server.tenants import ensure_tenant

    settings = machines[0].settings
    token = f"CANARY-REVIEWER-{settings.tenant_id}"
    ensure_tenant(reference.data_dir, settings.tenant_id, "reviewer", token)
    values = {"home": tmp_path / "reviewer", "server_token": SecretStr(token)}
    server = EscherServer(settings.model_copy(update=values))
    yield server
    server.close()
