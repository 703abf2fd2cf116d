"""How fast a script is resolved: from disk, from the cache, and downloaded cold.

    python benchmarks/resolve.py [--versions 30000] [--sample 1000] [--rounds 5] [--cold 1000]

Warm: a home that knows ``--versions`` versions, each with a shell script of 2 KB. ``--sample`` of
them are resolved in random order, by turns with ``pooch.retrieve`` (which hashes the file too) and
the cache look-ups of ``huggingface_hub`` (which hash nothing) on the same files, by hard links.
"first": nothing in the process remembers the version. All files are in the page cache.

Cold: ``--cold`` published scripts from the reference server, through download and verify in batches
as the workers do, beside a bare loop of ``requests`` with as many connections, which asks for the
listing, then for the bytes, and writes them to a file.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests

from core.files import sha256_bytes
from core.journal import VersionRecord
from core.journal.records import DiskFile
from core.models import Area, FileEntry, OutcomeState, PlaybookDraft, Ref, content_digest
from core.scripts.cached import Staged
from core.scripts.entries import Listing, ScriptKey
from core.service import PlaybookService
from core.settings import Settings

COMMAND = Path(sys.executable).with_name("escher-playbooks")
PATH = "shell/main.sh"
SIZE_BYTES = 2048
TOKEN = "bench-token"
BATCH = 64
SERVER_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=30_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", type=int, default=1000)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="escher-bench-"))
    try:
        warm(folder / "warm", asked.versions, asked.sample, asked.rounds)
        if asked.cold:
            cold(folder / "cold", asked.cold, max(1, asked.rounds // 2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- warm -----------------------------------------------------------------------------------
def script(number: int) -> bytes:
    """A script of 2 KB unlike all others."""
    text = f"#!/usr/bin/env bash\n# playbook {number}\n" + "echo 'stop what nobody uses'\n" * 100
    return text.encode()[:SIZE_BYTES]


def draft(number: int) -> PlaybookDraft:
    metadata = {
        "playbook_id": f"playbook-{number:05d}",
        "version": "1.0.0",
        "name": f"Playbook {number}",
        "description": "Stops what nobody uses. " * 20,
        "use_cases": ["Cost"] * 5,
        "cloud_provider": ["aws"],
    }
    return PlaybookDraft(metadata, {PATH: script(number)})


def warm(folder: Path, versions: int, sample: int, rounds: int) -> None:
    settings = Settings(
        home=folder / "home", server_url="http://127.0.0.1:9", cache_max_size_mb=500
    )
    folder.mkdir()
    with PlaybookService.open(settings) as service:
        fill_home(service, versions)
        rng = random.Random(1)
        numbers = rng.sample(range(versions), min(sample, versions))
        cached = [ScriptKey(Ref(f"cached-{number:05d}", "1.0.0"), "shell") for number in numbers]
        fill_cache(service, cached, numbers)
        ids = [f"playbook-{number:05d}" for number in numbers]
        contestants: dict[str, list[Callable[[], object]]] = {
            "disk, id and version": [
                lambda i=i: service.resolve_script(i, "shell", "1.0.0") for i in ids
            ],
            "disk, latest": [lambda i=i: service.resolve_script(i, "shell") for i in ids],
            "cache": [
                lambda k=k: service.resolve_script(k.ref.playbook_id, "shell", k.ref.version)
                for k in cached
            ],
            **others(folder / "others", service, ids),
        }
        print(f"warm: {versions} known versions, {len(ids)} of them, {rounds} rounds; µs")
        measure(contestants, rounds, forget=service.journal.script_rows.close)


def fill_home(service: PlaybookService, versions: int) -> None:
    """Folders and rows as `create` leaves them, without a sync to disk for each."""
    rows = []
    for number in range(versions):
        made = draft(number)
        ref = Ref(made.metadata["playbook_id"], "1.0.0")
        metadata = made.metadata | {"created_at": 1, "updated_at": 1}
        path = service.store.layout.folder(Area.LOCAL, ref) / PATH
        path.parent.mkdir(parents=True)
        path.write_bytes(made.files[PATH])
        found = path.stat()
        entry = FileEntry(PATH, found.st_size, sha256_bytes(made.files[PATH]))
        stat = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        record = VersionRecord(ref, Area.LOCAL, content_digest(metadata, [entry]), metadata)
        rows.append((record, (DiskFile(entry, *stat),)))
    with service.journal.database.write() as connection:
        service.journal.versions.put(rows, connection)


def fill_cache(service: PlaybookService, keys: Sequence[ScriptKey], numbers: Sequence[int]) -> None:
    items = []
    service.cache.layout.prepare()
    for key, number in zip(keys, numbers, strict=True):
        content = script(number)
        staged = service.cache.layout.staging / key.ref.playbook_id
        (staged / "shell").mkdir(parents=True)
        (staged / PATH).write_bytes(content)
        entry = FileEntry(PATH, len(content), sha256_bytes(content))
        items.append(Staged(staged, Listing(key, (entry,), PATH), "tenant"))
    for start in range(0, len(items), BATCH):
        service.cache.promote_many(items[start : start + BATCH])


def others(
    folder: Path, service: PlaybookService, ids: Sequence[str]
) -> dict[str, list[Callable[[], object]]]:
    """The same files under pooch's folder and in huggingface_hub's cache."""
    import huggingface_hub
    import pooch

    pooch.get_logger().disabled = True
    pooch_folder, hub = folder / "pooch", folder / "hub"
    pooch_folder.mkdir(parents=True)
    hashes = {}
    revision = "0" * 40
    for playbook_id in ids:
        source = service.resolve_script(playbook_id, "shell")
        hashes[playbook_id] = sha256_bytes(source.read_bytes())
        os.link(source, pooch_folder / f"{playbook_id}.sh")
        repository = hub / f"models--escher--{playbook_id}"
        blob = repository / "blobs" / hashes[playbook_id].removeprefix("sha256:")
        pointer = repository / "snapshots" / revision / PATH
        for path in (blob, pointer, repository / "refs" / "main"):
            path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, blob)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        (repository / "refs" / "main").write_text(revision)

    def retrieve(playbook_id: str) -> object:
        return pooch.retrieve(
            "https://example.invalid/main.sh",
            known_hash=hashes[playbook_id],
            fname=f"{playbook_id}.sh",
            path=pooch_folder,
        )

    def look_up(playbook_id: str) -> object:
        found = huggingface_hub.try_to_load_from_cache(
            f"escher/{playbook_id}", PATH, cache_dir=hub, revision="main"
        )
        assert isinstance(found, str)
        return found

    def local_only(playbook_id: str) -> object:
        return huggingface_hub.hf_hub_download(
            f"escher/{playbook_id}", PATH, cache_dir=hub, local_files_only=True
        )

    return {
        name: [lambda i=i, call=call: call(i) for i in ids]
        for name, call in (
            ("pooch.retrieve", retrieve),
            ("hf try_to_load_from_cache", look_up),
            ("hf hf_hub_download, local only", local_only),
        )
    }


def measure(
    contestants: dict[str, list[Callable[[], object]]],
    rounds: int,
    forget: Callable[[], object],
) -> None:
    first: dict[str, list[float]] = {name: [] for name in contestants}
    again: dict[str, list[float]] = {name: [] for name in contestants}
    rng = random.Random(2)
    for calls in contestants.values():  # everything is read once
        for call in calls:
            call()
    for _ in range(rounds):
        for name, calls in contestants.items():
            forget()
            for taken in (first[name], again[name]):
                rng.shuffle(calls)
                for call in calls:
                    began = time.perf_counter_ns()
                    call()
                    taken.append((time.perf_counter_ns() - began) / 1000)
    print(f"  {'':32}{'first: median':>14}{'p99':>9}{'again: median':>16}{'p99':>9}")
    for name in contestants:
        figures = [
            figure
            for taken in (first[name], again[name])
            for figure in (statistics.median(taken), statistics.quantiles(taken, n=100)[98])
        ]
        print(f"  {name:32}{figures[0]:14.0f}{figures[1]:9.0f}{figures[2]:16.0f}{figures[3]:9.0f}")


# -- cold -----------------------------------------------------------------------------------
def cold(folder: Path, count: int, rounds: int) -> None:
    folder.mkdir()
    with reference_server(folder) as url:
        settings = {"server_url": url, "server_token": TOKEN, "tenant_id": "local"}
        with PlaybookService.open(Settings(home=folder / "publisher", **settings)) as service:
            keys = publish(service, count)
        ours, bare = [], []
        for number in range(rounds):
            home = Settings(home=folder / f"home-{number}", **settings)
            ours.append(fetch_all(home, keys))
            target = folder / f"bare-{number}"
            bare.append(bare_loop(url, target, keys, home.transfer_concurrency))
        print(f"cold: {count} scripts, {home.transfer_concurrency} connections, {rounds} rounds; s")
        print(f"  {'download, verify, promote':32}{statistics.median(ours):10.2f}")
        print(f"  {'bare loop of requests':32}{statistics.median(bare):10.2f}")
        print(f"  {'ratio':32}{statistics.median(ours) / statistics.median(bare):10.2f}")


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
        ref = Ref(made.metadata["playbook_id"], "1.0.0")
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


def fetch_all(settings: Settings, keys: Sequence[ScriptKey]) -> float:
    with PlaybookService.open(settings) as service:
        began = time.perf_counter()
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            service.downloads.download(batch)
            outcomes = service.downloads.verify(batch)
            assert all(outcome.state is OutcomeState.DONE for outcome in outcomes.values())
        return time.perf_counter() - began


def bare_loop(url: str, target: Path, keys: Sequence[ScriptKey], connections: int) -> float:
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

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(get, keys))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
