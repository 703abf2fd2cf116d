"""A server per test and a small client that speaks the contract to it."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import rfc8785
from fastapi.testclient import TestClient

from escher_server.app import create_app
from escher_server.config import ServerConfig, TenantToken

SERVER_OWNED = {
    "status",
    "storage_strategy",
    "deprecated_by",
    "deprecation_reason",
    "created_at",
    "updated_at",
    "execution_count",
    "success_count",
    "last_executed",
}
TOKENS = (
    TenantToken(tenant_id="acme", token="member-token"),
    TenantToken(tenant_id="acme", token="reviewer-token", role="reviewer"),
    TenantToken(tenant_id="other", token="other-token"),
)


def checksum(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def content_digest(metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Written from the contract, not from the server's code."""
    document = {
        "metadata": {key: value for key, value in metadata.items() if key not in SERVER_OWNED},
        "files": sorted([path, checksum(content)] for path, content in files.items()),
    }
    return "sha256:" + hashlib.sha256(rfc8785.dumps(document)).hexdigest()


class Client:
    """One tenant's client; every method returns the raw answer."""

    def __init__(self, http: httpx.Client, token: str, tenant_id: str = "acme") -> None:
        self.http = http
        self.tenant_id = tenant_id
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.http.get(path, params=params, headers=self.headers)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers={**self.headers, **headers})

    def metadata(self, playbook_id: str, version: str, **changes: Any) -> dict[str, Any]:
        return {
            "playbook_id": playbook_id,
            "version": version,
            "name": "Stop instances",
            "description": "Stops idle instances.",
            "cloud_provider": ["aws"],
            "resource_types": ["ec2::instance"],
            "keywords": ["stop"],
            "storage_strategy": "uploaded_for_review",
            "status": "ready",
            "x_newer_field": {"kept": True},
        } | changes

    def announce(
        self, playbook_id: str, version: str, files: Mapping[str, bytes]
    ) -> httpx.Response:
        body = {
            "tenant_id": self.tenant_id,
            "playbook_id": playbook_id,
            "version": version,
            "files": [
                {"path": path, "size_bytes": len(content), "checksum": checksum(content)}
                for path, content in files.items()
            ],
        }
        return self.post("/api/playbook/upload", body)

    def upload(
        self, playbook_id: str, version: str, files: Mapping[str, bytes]
    ) -> list[dict[str, Any]]:
        answer = self.announce(playbook_id, version, files)
        assert answer.status_code == 200, answer.text
        targets: list[dict[str, Any]] = answer.json()["uploads"]
        for target in targets:
            if target["url"] is not None:
                put = self.http.put(
                    target["url"], content=files[target["path"]], headers=target["headers"]
                )
                assert put.status_code == 200, put.text
        return targets

    def publish_body(
        self, metadata: dict[str, Any], files: Mapping[str, bytes], **changes: Any
    ) -> dict[str, Any]:
        playbook_id, version = metadata["playbook_id"], metadata["version"]
        base = (
            f"s3://escher-tenant-data/tenants/{self.tenant_id}/playbooks/{playbook_id}/v{version}"
        )
        return {
            "tenant_id": self.tenant_id,
            "playbook_id": playbook_id,
            "version": version,
            "metadata": metadata,
            "vector": [1.0, 0.0],
            "embedding_model": "test-model",
            "content_digest": content_digest(metadata, files),
            "s3_paths": {path: f"{base}/{path}" for path in files},
            "base_revision": None,
        } | changes

    def send_publish(self, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        return self.post(
            "/api/playbook/metadata/publish", body, **{"Idempotency-Key": key or uuid.uuid4().hex}
        )

    def publish(
        self,
        playbook_id: str = "stop",
        version: str = "1.0.0",
        files: Mapping[str, bytes] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Upload and publish; the answer's body. ``changes`` are the metadata's."""
        files = {"shell/stop.sh": b"echo stop\n"} if files is None else files
        self.upload(playbook_id, version, files)
        metadata = self.metadata(playbook_id, version, **changes)
        answer = self.send_publish(self.publish_body(metadata, files))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def set_status(
        self, playbook_id: str, version: str, status: str, reason: str | None = None
    ) -> httpx.Response:
        return self.post(
            f"/api/playbook/metadata/{self.tenant_id}/{playbook_id}/{version}/status",
            {"status": status, "reason": reason},
        )

    def delete(self, playbook_id: str, version: str, revision: int) -> httpx.Response:
        return self.http.delete(
            f"/api/playbook/metadata/{self.tenant_id}/{playbook_id}/{version}",
            headers={**self.headers, "If-Match": str(revision)},
        )

    def changes(self, since: str | None = None, limit: int = 100) -> dict[str, Any]:
        params: dict[str, Any] = {"tenant_id": self.tenant_id, "limit": limit}
        if since:
            params["since"] = since
        answer = self.get("/api/playbook/metadata/changes", **params)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def feed(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            (change["playbook_id"], change["version"]): change
            for change in self.changes()["changes"]
        }

    def stats(self) -> dict[str, int]:
        tenants: dict[str, dict[str, int]] = self.get("/api/reference/stats").json()["tenants"]
        return tenants[self.tenant_id]


class Server:
    """A running application and clients for its tenants."""

    def __init__(self, http: httpx.Client, data_dir: Path) -> None:
        self.http = http
        self.data_dir = data_dir
        self.member = Client(http, "member-token")
        self.reviewer = Client(http, "reviewer-token")
        self.other = Client(http, "other-token", "other")


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start an in-process server; keywords go into its config, ``embed`` to the app."""
    with contextlib.ExitStack() as stack:

        def start(*, embed: Any = None, **config: Any) -> Server:
            settings: dict[str, Any] = {
                "data_dir": tmp_path / "server",
                "public_url": "http://testserver",
                "tokens": TOKENS,
            } | config
            app = create_app(ServerConfig(**settings), embed=embed)
            http = stack.enter_context(TestClient(app))
            return Server(http, settings["data_dir"])

        yield start


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def make_client() -> type[Client]:
    return Client
