"""The reference server on a loopback port, for the tests of its client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.reference import Reference, forget_deleted_content, running_reference

from core.server.client import EscherServer
from core.settings import Settings


@pytest.fixture(scope="session")
def _reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with running_reference(tmp_path_factory.mktemp("escher-server")) as reference:
        yield reference


@pytest.fixture
def reference(_reference: Reference) -> Iterator[Reference]:
    yield _reference
    _reference.faults()


@pytest.fixture
def forgetful(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lets the name of a deleted version take other content."""
    forget_deleted_content(monkeypatch)


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
    settings = machines[0].settings
    token = reference.reviewer(settings.tenant_id)
    values = {"home": tmp_path / "reviewer", "server_token": SecretStr(token)}
    server = EscherServer(settings.model_copy(update=values))
    yield server
    server.close()
