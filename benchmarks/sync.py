"""A sync that finds nothing to do, beside what others need for the same on the same tree.

    python benchmarks/sync.py [corpus folder] [--copies 10] [--runs 5] [--folder DIR]

The tree is the corpus some times over under other ids. Each round runs the scan, `git status`,
`rclone sync` to a local copy and `restic backup`, one after the other, with nothing changed and a
warm page cache; the medians are printed, and the slowest. Then one file of one version is edited.
git, rclone and restic come from the system (Debian: apt-get install git rclone restic); what is
not there is left out. `--folder` keeps the tree, so that it is made once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CORPUS = Path("/tmp/lab/corpus/playbooks")
LONGEST_ID = 90
CLOCK_SECONDS = 2.5  # until a stat vouches for a content
SCAN = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from core.encryption import Envelope, MasterKey
from core.journal import Journal
from core.playbooks.edits import Edits
from core.playbooks.scan import Scan
from core.playbooks.store import PlaybookStore
from core.settings import Settings

settings = Settings(home=Path(sys.argv[2]), edit_quiet_seconds=0)
envelope = Envelope(MasterKey(b"b" * 32))
journal = Journal(settings.effective_journal_url)
store = PlaybookStore(settings, journal, envelope)
adopted = len(store.adopt()[0]) if sys.argv[3] == "adopt" else 0
root = str(settings.playbooks_path)
opened = []
sys.addaudithook(
    lambda event, args: opened.append(args[0])
    if event == "open" and str(args[0]).startswith(root) else None
)
begun = time.perf_counter()
found = Scan(store, envelope, settings).run()
scanned = time.perf_counter() - begun
report = Edits(store, envelope, settings).take(found, lambda ref: {})
print(json.dumps({
    "adopted": adopted, "scan": scanned, "all": time.perf_counter() - begun,
    "scanned": found.scanned, "unchanged": found.unchanged, "opened": len(opened),
    "updated": [str(ref) for ref in report.updated], "broken": found.broken,
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
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


def scan(home: Path, how: str = "scan") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(ROOT), str(home), how],
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


def measure(folder: Path, runs: int) -> None:
    home, tree = folder / "home", folder / "home" / "playbooks"
    first = scan(home, "adopt")
    print(f"first scan (reads everything): {first['all']:.1f} s, {first['scanned']} versions")
    time.sleep(CLOCK_SECONDS)
    scan(home)
    compared = others(folder, tree)
    times: dict[str, list[float]] = {"scan": [], **{name: [] for name in compared}}
    peak, opened = 0.0, 0
    for number in range(runs):
        result = scan(home)
        if result["unchanged"] != result["scanned"]:
            sys.exit(f"the tree is not as it was: {result}")
        times["scan"].append(result["all"])
        peak, opened = max(peak, result["peak_mib"]), opened + result["opened"]
        for name, run in compared.items():
            times[name].append(run())
        print(f"run {number + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in times.items()))
    base = statistics.median(times["scan"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:14} median {median:6.2f} s  slowest {max(taken):6.2f} s"
            f"  {median / base:5.1f} times the scan"
        )
    print(f"files opened by {runs} scans: {opened}; peak memory of the scanning process:"
          f" {peak:.0f} MiB")  # fmt: skip
    script = min(tree.glob("local/*/v*/shell/*"))
    script.write_bytes(script.read_bytes() + b"# edited\n")
    time.sleep(0.1)
    result = scan(home)
    print(
        f"one edit among {result['scanned']}: found in {result['scan']:.2f} s, taken in after"
        f" {result['all']:.2f} s, files opened: {result['opened']}, {result['updated']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The scan beside git, rclone and restic.")
    parser.add_argument("corpus", nargs="?", type=Path, default=DEFAULT_CORPUS)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sync-benchmark-"))
    try:
        if not (folder / "home" / "playbooks").exists():
            count = make_tree(arguments.corpus, folder / "home" / "playbooks", arguments.copies)
            print(f"{count} files written to {folder}")
        measure(folder, arguments.runs)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
