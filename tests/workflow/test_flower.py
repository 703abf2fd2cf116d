"""The work is visible in Flower, to those who may look."""

from __future__ import annotations

from pathlib import Path

import httpx
from support.playbooks import draft, write_folder
from support.service import ServiceUnderTest, eventually


def test_flower_shows_workers_and_tasks_behind_its_password(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "p", draft("Seen in Flower"))
    service.json("create", str(folder), "--strategy", "review")
    eventually(lambda: service.counts()["published"] == 1, 60, "published")

    with service.flower as flower:

        def queues() -> list[str]:
            workers = flower.get("/api/workers?refresh=1").json().values()
            assert len(workers) <= 2
            return sorted(queue["name"] for worker in workers for queue in worker["active_queues"])

        # a worker that takes no more of a queue for the moment (tasks/lanes.py) is not its reader
        wanted = ["control", "embed", "search", "transfer"]
        eventually(lambda: queues() == wanted, 60, "two workers read all queues")
        tasks = flower.get("/api/tasks").json()
        done = [t for t in tasks.values() if t["name"] == "playbooks.publish"]
        assert done
        assert all(t["state"] == "SUCCESS" for t in done)
        assert "seen-in-flower@1.0.0" in str(done[0]["args"])
        page = flower.get("/tasks")
        assert page.status_code == 200
        task_id = next(name for name, task in tasks.items() if task in done)
        shown = flower.get(f"/task/{task_id}").text
        assert "playbooks.publish" in shown
        assert "seen-in-flower@1.0.0" in shown
    refused = httpx.get(f"http://127.0.0.1:{service.flower_port}/api/tasks")
    assert refused.status_code == 401
