"""Time and memory of the main job: import, embed, publish, publish again.

    python benchmarks/main_job.py [corpus.tar.gz] [--runs N]

Each run has a fresh home and its own `up`. Prints each run and the medians; peak memory is VmHWM
of each component, in MiB (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("escher-playbooks")
DEFAULT_CORPUS = ROOT.parent / "shared" / "corpus" / "corpus.tar.gz"
EMBED_DEADLINE_SECONDS = 900


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


class Home:
    """A home of its own, driven through the command line."""

    def __init__(self, folder: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ESCHER_")}
        self.env = kept | {
            "ESCHER_HOME": str(folder / "home"),
            "ESCHER_API_PORT": str(free_port()),
            "ESCHER_FLOWER_PORT": str(free_port()),
            "ESCHER_SERVER_URL": f"http://127.0.0.1:{free_port()}",
            "ESCHER_SERVER_EMBEDDED": "true",
        }

    def run(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(COMMAND), *arguments, "--json"],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{arguments}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def embedded(self, job_id: str) -> None:
        deadline = time.monotonic() + EMBED_DEADLINE_SECONDS
        while self.run("jobs", "show", job_id)["state"] not in {"succeeded", "partial", "failed"}:
            if time.monotonic() > deadline:
                sys.exit("the embedding did not end")
            time.sleep(0.5)

    def peak_memory(self) -> dict[str, float]:
        peaks = {}
        for component in self.run("status")["components"]:
            status = Path(f"/proc/{component['pid']}/status")
            if component["pid"] and status.exists():
                line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
                peaks[component["name"]] = int(line.split()[1]) / 1024
        return peaks


def measure(corpus: Path) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="escher-bench-"))
    home = Home(folder)
    try:
        subprocess.run(
            [str(COMMAND), "up", "--detach"], env=home.env, check=True, capture_output=True
        )
        figures: dict[str, float] = {}
        begin = time.monotonic()
        imported = home.run("import", str(corpus))
        figures["import s"] = time.monotonic() - begin
        home.embedded(imported["job_id"])
        figures["import + embed s"] = time.monotonic() - begin
        begin = time.monotonic()
        home.run("publish", "--all", "--as", "review", "--wait")
        figures["publish s"] = time.monotonic() - begin
        before = home.run("status")["server"]
        begin = time.monotonic()
        home.run("publish", "--all", "--as", "review", "--wait")
        figures["publish again s"] = time.monotonic() - begin
        after = home.run("status")["server"]
        figures["revisions"] = after["revisions"]
        figures["new revisions the second time"] = after["revisions"] - before["revisions"]
        figures["bytes sent the second time"] = after["bytes_received"] - before["bytes_received"]
        return figures | {f"{name} MiB": mib for name, mib in home.peak_memory().items()}
    finally:
        subprocess.run([str(COMMAND), "down"], env=home.env, check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?", type=Path, default=DEFAULT_CORPUS)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    if not asked.corpus.exists():
        print(f"{asked.corpus} is not there: nothing is measured")
        return
    runs = []
    for number in range(asked.runs):
        runs.append(measure(asked.corpus))
        print(
            f"run {number + 1}: {json.dumps({k: round(v, 1) for k, v in runs[-1].items()})}",
            flush=True,
        )
    print("median:")
    for name in runs[0]:
        print(f"  {name:32} {statistics.median(run[name] for run in runs):12.1f}")


if __name__ == "__main__":
    main()
