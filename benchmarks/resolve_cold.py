"""The cold half of `resolve.py`: published scripts from the reference server into an empty cache."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import requests
from resolve_corpus import PATH, draft, name

from core.files import sha256_bytes
from core.models import FileEntry, Outcome, OutcomeState, Ref, ScriptKey, content_digest
from core.scripts.downloads import ScriptDownloads
from core.service import PlaybookService
from core.settings import Settings

COMMAND = Path(sys.executable).with_name("escher-playbooks")
TOKEN = "bench-token"
SERVER_SECONDS = 60
BATCH = 128  # scripts; between batches the connections idle while the journal commits
T = TypeVar("T")
Taken = tuple[float, float]  # seconds on the clock, and of CPU in this process


def cold(folder: Path, count: int, rounds: int) -> None:
    folder.mkdir()
    with reference_server(folder) as url:
        settings = {"server_url": url, "server_token": TOKEN, "tenant_id": "local"}
        with PlaybookService.open(Settings(home=folder / "publisher", **settings)) as service:
            keys = publish(service, count)
        ours: list[Taken] = []
        bare: list[Taken] = []
        connections = Settings(home=folder, **settings).transfer_concurrency
        for number in range(rounds):
            home = Settings(home=folder / f"home-{number}", **settings)
            target = folder / f"bare-{number}"
            runs = [
                lambda home=home: ours.append(fetch_all(home, keys)),
                lambda target=target: bare.append(bare_loop(url, target, keys, connections)),
            ]
            for run in runs if number % 2 == 0 else reversed(runs):
                run()
    print(f"cold: {count} scripts, {connections} connections, {rounds} rounds by turns; medians")
    print(f"  {'':32}{'seconds':>10}{'CPU, s':>10}")
    rows = [("bring: download, verify, promote", ours), ("bare loop of requests", bare)]
    middle = {
        title: [statistics.median(part) for part in zip(*t, strict=True)] for title, t in rows
    }
    for title, (seconds, cpu) in middle.items():
        print(f"  {title:32}{seconds:10.2f}{cpu:10.2f}")
    (seconds, cpu), (bare_seconds, bare_cpu) = middle.values()
    print(f"  {'ratio':32}{seconds / bare_seconds:10.2f}{cpu / bare_cpu:10.2f}")


@contextmanager
def reference_server(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ESCHER_")}
    env["ESCHER_HOME"] = str(folder / "server-home")
    arguments = ["--port", str(port), "--token", f"local:reviewer:{TOKEN}", "--no-semantic"]
    process = subprocess.Popen(
        [str(COMMAND), "server", "--data-dir", str(folder / "server"), *arguments],
        env=env,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SERVER_SECONDS
        while True:
            try:
                requests.get(f"{url}/healthz", timeout=5)
            except requests.ConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the reference server did not start")
                time.sleep(0.1)
            else:
                break
        yield url
    finally:
        process.terminate()
        process.wait(30)


def publish(service: PlaybookService, count: int) -> list[ScriptKey]:
    """Straight through the client: what is measured is the way back."""

    def send(number: int) -> ScriptKey:
        made = draft(number)
        ref = Ref(name(number), "1.0.0")
        metadata = made.metadata | {
            "created_at": 1, "updated_at": 1, "storage_strategy": "uploaded_for_review",
        }  # fmt: skip
        content = made.files[PATH]
        entry = FileEntry(PATH, len(content), sha256_bytes(content))
        service.server.publish(
            ref,
            metadata=metadata,
            vector=None,
            embedding_model=None,
            content_digest=content_digest(metadata, [entry]),
            s3_paths=service.server.upload(ref, made.files),
            base_revision=None,
        )
        return ScriptKey(ref, "shell")

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(send, range(count)))


def bring(downloads: ScriptDownloads, keys: Sequence[ScriptKey]) -> dict[ScriptKey, Outcome]:
    """Both steps, as the workers take them: a batch is verified while the next is downloaded."""
    outcomes: dict[ScriptKey, Outcome] = {}
    with ThreadPoolExecutor(1) as pool:
        verified = []
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            downloads.download(part)
            verified.append(pool.submit(downloads.verify, part))
            if len(verified) > 1:  # what is staged takes room: no more than two batches of it
                outcomes |= verified.pop(0).result()
        for batch in verified:
            outcomes |= batch.result()
    return outcomes


def fetch_all(settings: Settings, keys: Sequence[ScriptKey]) -> Taken:
    with PlaybookService.open(settings) as service:
        outcomes, taken = timed(lambda: bring(service.downloads, keys))
    assert [outcomes[key].state for key in keys] == [OutcomeState.DONE] * len(keys)
    return taken


def bare_loop(url: str, target: Path, keys: Sequence[ScriptKey], connections: int) -> Taken:
    """No proof, no sync to the disk, no room kept, no second look."""
    target.mkdir()
    local = threading.local()
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def get(key: ScriptKey) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        params = dict(
            zip(("playbook_id", "version", "format"), (*key.ref, key.format), strict=True)
        )
        listing = local.session.get(
            f"{url}/api/script/download", params=params, headers=headers, timeout=30
        ).json()
        for file in listing["files"]:
            answer = local.session.get(file["url"], timeout=30)
            answer.raise_for_status()
            (target / f"{key.ref.playbook_id}.sh").write_bytes(answer.content)

    with ThreadPoolExecutor(connections) as pool:
        _, taken = timed(lambda: list(pool.map(get, keys)))
    return taken


def timed(call: Callable[[], T]) -> tuple[T, Taken]:
    began, cpu = time.perf_counter(), time.process_time()
    answer = call()
    return answer, (time.perf_counter() - began, time.process_time() - cpu)
