"""A tenant's server that is started and stopped by hand, for homes that share it."""

from __future__ import annotations

import subprocess
from typing import Any

import httpx

from core.models import Ref
from support.playbooks import draft, write_folder
from support.service import COMMAND, ServiceUnderTest, eventually, free_port

OWN_TOKEN, MEMBER_TOKEN = "reviewer-token", "member-token"


def tenant_settings() -> dict[str, str]:
    """Settings of each home of the tenant; beat stays out of the tests."""
    return {
        "server_url": f"http://127.0.0.1:{free_port()}",
        "server_embedded": "false",
        "server_token": OWN_TOKEN,
        "sync_interval_minutes": "60",
        "edit_quiet_seconds": "0.5",
    }


class TenantServer:
    """The server of a tenant as a process; a member and the homes' own reviewer may come."""

    def __init__(self, home: ServiceUnderTest) -> None:
        self._env = home.env
        self.url = home.settings.server_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(COMMAND), "server", "--no-semantic", "--port", self.url.rpartition(":")[2],
             "--token", f"local:member:{MEMBER_TOKEN}"],
            env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(self._answers, 60, "the server answers")

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def review(self, ref: Ref, token: str, **verdict: str) -> httpx.Response:
        path = f"/api/playbook/metadata/local/{ref.playbook_id}/{ref.version}/status"
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.post(f"{self.url}{path}", json=verdict, headers=headers)

    def versions(self) -> dict[Ref, dict[str, Any]]:
        """What the changes feed tells of each version."""
        headers = {"Authorization": f"Bearer {OWN_TOKEN}"}
        asked = {"tenant_id": "local", "limit": "500"}
        url = f"{self.url}/api/playbook/metadata/changes"
        changes = httpx.get(url, params=asked, headers=headers).json()["changes"]
        return {Ref(item["playbook_id"], item["version"]): item for item in changes}

    def live(self) -> set[Ref]:
        return {ref for ref, item in self.versions().items() if not item["deleted"]}

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def create(service: ServiceUnderTest, name: str, *options: str) -> Ref:
    """`create` with a playbook of this name; as what it was stored."""
    folder = service.home.parent / "sources" / name.replace(" ", "-")
    write_folder(folder, draft(name))
    made = service.json("create", str(folder), *options)
    return Ref(made["playbook_id"], made["version"])
