"""A sync that finds nothing to do, beside what others need for the same on the same tree.

    python benchmarks/sync.py [corpus.tar.gz] [--copies 10] [--runs 5] [--folder DIR]

The tree is the corpus some times over under other ids. Each round runs a whole sync in a process of
its own (disk, changes feed of a running reference server, plan and report; without the start of
Python), `git status`, `rclone sync` to a local copy and `restic backup`, one after the other, with
nothing changed and a warm page cache; the medians are printed, and the slowest. Then one file of
one version is edited. git, rclone and restic come from the system (Debian: apt-get install git
rclone restic); what is not there is left out. `--folder` keeps the tree, so that it is made once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.service import ServiceUnderTest, free_port

DEFAULT_CORPUS = ROOT.parent / "shared" / "corpus" / "corpus.tar.gz"
LONGEST_ID = 90
CLOCK_SECONDS = 2.5  # until a stat vouches for a content
SYNC = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from core.service import PlaybookService

def peak_kib():  # ru_maxrss would be the parent's, which exec keeps
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

service = PlaybookService.open()
if sys.argv[2] == "adopt":  # as if all of it had been embedded: that is not what is measured
    records = service.journal.versions.select()
    done = [(record.ref, None, {"indexed_digest": record.index_digest}) for record in records]
    for start in range(0, len(done), 500):
        service.journal.versions.set_many(done[start : start + 500])
root = str(service.settings.playbooks_path)
opened = []
sys.addaudithook(
    lambda event, args: opened.append(args[0])
    if event == "open" and str(args[0]).startswith(root) else None
)
calls = service.server.reference_stats().get("requests", 0)
begun = time.perf_counter()
if sys.argv[2] == "edit":
    report = service.finish_sync(service.sync.run())
else:
    report = service.sync_all_metadata()
taken = time.perf_counter() - begun
print(json.dumps({
    "sync": taken, "scanned": report["scanned"], "unchanged": report["unchanged"],
    "edits": report["edits"]["updated"], "failures": report["failures"], "opened": len(opened),
    "calls": service.server.reference_stats().get("requests", 0) - calls - 1,
    "peak_mib": peak_kib() / 1024,
}))
"""


def make_tree(corpus: Path, playbooks: Path, copies: int) -> int:
    """Write the corpus ``copies`` times under other ids; the number of files."""
    count = 0
    for version in sorted(corpus.glob("*/v*")):
        files = [p for p in version.rglob("*") if p.is_file()]
        content = {p.relative_to(version): p.read_bytes() for p in files}
        metadata = json.loads(content.pop(Path("metadata.json")))
        for number in range(copies):
            playbook_id = f"{version.parent.name[:LONGEST_ID]}-n{number}"
            place = playbooks / "local" / playbook_id / version.name
            place.mkdir(parents=True)
            named = metadata | {"playbook_id": playbook_id}
            (place / "metadata.json").write_text(json.dumps(named, indent=2), encoding="utf-8")
            for path, body in content.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(body)
            count += 1 + len(content)
    return count


def server_url(folder: Path) -> str:
    """Where the tree's server listens: a kept home belongs to it."""
    kept = folder / "server_url"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"http://127.0.0.1:{free_port()}", encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def sync(service: ServiceUnderTest, how: str = "sync") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SYNC, str(ROOT), how],
        env=service.env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def timed(command: list[str], folder: Path, **env: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return taken


def others(folder: Path, tree: Path) -> dict[str, Callable[[], float]]:
    """What is compared, each prepared so that the next run has nothing to do."""
    found: dict[str, Callable[[], float]] = {}
    if shutil.which("git"):
        git = ["git", f"--git-dir={folder / 'git'}", f"--work-tree={tree}"]
        if not (folder / "git").exists():
            timed([*git, "init", "-q"], tree)
            timed([*git, "add", "-A"], tree)
            who = ["-c", "user.name=b", "-c", "user.email=b@example.com"]
            timed([*git, *who, "commit", "-q", "-m", "all"], tree)
        found["git status"] = lambda: timed([*git, "status", "--short"], tree)
    if shutil.which("rclone"):
        rclone = ["rclone", "sync", "--config", "/dev/null", str(tree), str(folder / "copy")]
        timed(rclone, folder)
        found["rclone sync"] = lambda: timed(rclone, folder)
    if shutil.which("restic"):
        env = {
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_REPOSITORY": str(folder / "restic"),
            "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
        }
        if not (folder / "restic").exists():
            timed(["restic", "init", "-q"], folder, **env)
        timed(["restic", "backup", "-q", "."], tree, **env)
        found["restic backup"] = lambda: timed(["restic", "backup", "-q", "."], tree, **env)
    for name in ("git", "rclone", "restic"):
        if not any(key.startswith(name) for key in found):
            print(f"{name} is not installed: left out")
    return found


def measure(service: ServiceUnderTest, folder: Path, runs: int) -> None:
    tree = service.home / "playbooks"
    begun = time.perf_counter()
    first = sync(service, "adopt")
    print(
        f"adopted and looked at for the first time (reads everything):"
        f" {time.perf_counter() - begun:.1f} s, {first['scanned']} versions"
    )
    time.sleep(CLOCK_SECONDS)
    sync(service)
    compared = others(folder, tree)
    times: dict[str, list[float]] = {"sync": [], **{name: [] for name in compared}}
    results = []
    for number in range(runs):
        result = sync(service)
        if result["unchanged"] != result["scanned"]:
            sys.exit(f"the tree is not as it was: {result}")
        results.append(result)
        times["sync"].append(result["sync"])
        for name, run in compared.items():
            times[name].append(run())
        print(f"run {number + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in times.items()))
    base = statistics.median(times["sync"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:14} median {median:6.2f} s  slowest {max(taken):6.2f} s"
            f"  {median / base:5.1f} times the sync"
        )
    print(
        f"a no-op sync: {max(r['opened'] for r in results)} files of playbooks opened,"
        f" {max(r['calls'] for r in results)} server calls,"
        f" peak memory of its process {max(r['peak_mib'] for r in results):.0f} MiB"
    )
    script = min(tree.glob("local/*/v*/shell/*"))
    script.write_bytes(script.read_bytes() + b"# edited\n")
    time.sleep(0.1)
    result = sync(service, "edit")
    print(
        f"one edit among {result['scanned']}: taken in after {result['sync']:.2f} s,"
        f" files opened: {result['opened']}, {result['edits']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A sync beside git, rclone and restic.")
    parser.add_argument("corpus", nargs="?", type=Path, default=DEFAULT_CORPUS)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sync-benchmark-"))
    try:
        service = ServiceUnderTest(
            folder / "home", edit_quiet_seconds="0", server_url=server_url(folder)
        )
        if not (folder / "home" / "playbooks").exists():
            with (
                tempfile.TemporaryDirectory() as unpacked,
                tarfile.open(arguments.corpus) as packed,
            ):
                packed.extractall(unpacked, filter="data")
                playbooks = Path(unpacked) / "playbooks"
                count = make_tree(playbooks, folder / "home" / "playbooks", arguments.copies)
            print(f"{count} files written to {folder}")
        with service.server_alone():
            measure(service, folder, arguments.runs)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
