"""No script text, secret or key in the broker, a result, a log or Flower."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import redis
from support.playbooks import draft, write_folder
from support.service import MakeService, eventually

SCRIPT = "canary-script-7f3a9c"
SECRET = "canary-secret-51be02"
PLAN = "canary-plan-e6d4f8"


def broker_contents(client: redis.Redis) -> Iterator[bytes]:
    """Every value that stands in the broker, message bodies decoded."""
    for key in client.scan_iter(count=500):
        kind = client.type(key)
        values: list[bytes] = [key]
        if kind == b"string":
            values.append(client.get(key) or b"")
        elif kind == b"list":
            values.extend(client.lrange(key, 0, -1))
        elif kind == b"hash":
            values.extend(client.hvals(key))
        elif kind in {b"set", b"zset"}:
            values.extend(client.smembers(key) if kind == b"set" else client.zrange(key, 0, -1))
        for value in values:
            yield value
            yield from decoded_bodies(value)


def decoded_bodies(value: bytes) -> Iterator[bytes]:
    try:
        message = json.loads(value)
    except ValueError:
        return
    if isinstance(message, list):  # an unacked entry: [message, exchange, routing key]
        message = message[0]
    if isinstance(message, dict) and isinstance(message.get("body"), str):
        yield base64.b64decode(message["body"])


def test_canaries_are_nowhere_but_on_disk_and_at_the_server(
    new_service: MakeService, tmp_path: Path
) -> None:
    service = new_service(secrets_gate="warn")
    service.up()
    parameters = {"parameters": [{
        "name": "password", "type": "string", "description": "x", "required": True,
        "default": SECRET, "sensitive": True,
    }]}  # fmt: skip
    files = {
        "shell/main.sh": f"echo {SCRIPT}\nexport API_KEY='{SECRET}'\n".encode(),
        "python/broken.py": f"def {SCRIPT}(:\n".encode(),
        "parameters.json": json.dumps(parameters).encode(),
        "explain_plan.json": json.dumps({"steps": [{"description": PLAN}]}).encode(),
    }
    folder = write_folder(tmp_path / "p", draft("Canary playbook", files))
    sealed = write_folder(tmp_path / "s", draft("Sealed canary", files, sensitive=True))

    seen: set[bytes] = set()
    with redis.Redis(unix_socket_path=str(service.settings.broker_socket)) as broker:
        service.json("create", str(sealed), "--strategy", "keep")
        service.json("create", str(folder), "--strategy", "review")
        # the journal drives it, so look while it runs, too
        eventually(
            lambda: seen.update(broker_contents(broker)) or service.counts()["published"] == 1,
            60,
            "published",
        )
        service.json("search", "canary playbook")
        seen.update(broker_contents(broker))
    with service.flower as flower:
        steps = {f"playbooks.{step}" for step in ("embed", "upload", "publish", "settle")}

        def all_tasks() -> dict[str, dict[str, str]] | None:
            tasks: dict[str, dict[str, str]] = flower.get("/api/tasks").json()
            return tasks if steps <= {task["name"] for task in tasks.values()} else None

        tasks = eventually(all_tasks, 60, "Flower has heard of every step")
        seen.add(json.dumps(tasks).encode())
        seen.add(flower.get("/tasks").content)
        seen.update(flower.get(f"/task/{task_id}").content for task_id in list(tasks)[:20])
    secrets = [
        (service.home / name).read_text().strip().encode()
        for name in ("api.token", "server.token", "flower.auth")
    ]
    secrets.append(json.loads((service.home / "keys" / "master.key").read_text())["key"].encode())
    logs = [p.read_bytes() for p in (service.home / "run" / "logs").rglob("*") if p.is_file()]
    assert any(b"canary-playbook@1.0.0" in value for value in seen), "looked in the right place"
    for canary in (SCRIPT.encode(), SECRET.encode(), PLAN.encode(), *secrets):
        assert not [value[:200] for value in (*seen, *logs) if canary in value], canary

    # encrypted where the contract says so, and left out of what was uploaded
    for path in (service.home / "playbooks").rglob("*"):
        if path.is_file() and ("sealed-canary" in str(path) or path.name == "parameters.json"):
            assert SECRET.encode() not in path.read_bytes(), path
    for path in (service.home / "qdrant").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SCRIPT.encode() not in content, path
            assert SECRET.encode() not in content, path
    uploaded = b"".join(p.read_bytes() for p in (service.home / "server").rglob("*") if p.is_file())
    assert SCRIPT.encode() in uploaded
    assert uploaded.count(SECRET.encode()) == 1  # in the script the user wrote, warned about
