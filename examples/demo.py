"""The main job, shown: playbooks go in, are embedded and published, and come back from a search; an edit
becomes the next version; what nobody reviewed is passed over where it would be run; a script is
resolved, also when its folder is gone.

Runs the whole service embedded in ``.demo-home`` beside the project, on free ports, and stops it
again. Nothing else on the machine is touched. Another folder or archive may be given:
``python examples/demo.py ../shared/corpus/corpus.tar.gz``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo-home"
COMMAND = Path(sys.executable).with_name("escher-playbooks")
WAIT_SECONDS, POLL_SECONDS = 60, 0.2
QUESTIONS = (
    "who opened port 22 to the world",
    "stop databases nobody uses at night",
    "which disks are attached to nothing and still cost money",
)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, on the loopback address."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment() -> dict[str, str]:
    """The demo's own home and ports; the user's ESCHER_ settings are left out."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ESCHER_")}
    api, flower, server = free_ports(3)
    return {
        **kept,
        "ESCHER_HOME": str(HOME),
        "ESCHER_API_PORT": str(api),
        "ESCHER_FLOWER_PORT": str(flower),
        "ESCHER_SERVER_URL": f"http://127.0.0.1:{server}",
        "ESCHER_SERVER_EMBEDDED": "true",
    }


ENVIRONMENT = environment()


def run(*arguments: str) -> Any:
    """Run a command with ``--json`` and return what it says; end with its words when it fails."""
    done = subprocess.run(
        [str(COMMAND), *arguments, "--json"],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        sys.exit(f"`escher-playbooks {' '.join(arguments)}` ended with {done.returncode}")
    return json.loads(done.stdout)


def show(*arguments: str) -> None:
    """Run a command and let its own words through."""
    print(f"\n$ escher-playbooks {' '.join(arguments)}", flush=True)
    done = subprocess.run([str(COMMAND), *arguments], env=ENVIRONMENT, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"ended with {done.returncode}")


def edit_by_hand(playbook: dict[str, Any], script: str) -> str:
    """Append a line to a published script, as an editor does; the version that it became."""
    known = {item["version"] for item in versions(playbook)}
    path = folder_of(playbook) / script
    print(f"\n$ echo '# seen by the demo' >> {path.relative_to(ROOT)}", flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("# seen by the demo\n")

    def published() -> list[str]:
        found = [item for item in versions(playbook) if item["sync"]["state"] == "published"]
        return [item["version"] for item in found if item["version"] not in known]

    successor = wait_for(published, "the edit is published")[0]  # the service watches the folders
    show("versions", playbook["playbook_id"])
    return str(successor)


def pass_over_unreviewed(playbook: dict[str, Any], script: str, successor: str) -> str:
    """Approve a version as a reviewer does, and resolve beside its unreviewed successor."""
    playbook_id, version = playbook["playbook_id"], playbook["version"]
    print(f"\n$ # a reviewer approves {playbook_id}@{version}; {successor} waits for its review")
    answer = requests.post(
        f"{ENVIRONMENT['ESCHER_SERVER_URL']}/api/playbook/metadata/local/{playbook_id}/{version}/status",
        json={"status": "approved", "content_digest": playbook["content_digest"]},
        headers={"Authorization": f"Bearer {(HOME / 'server.token').read_text().strip()}"},
        timeout=WAIT_SECONDS,
    )
    answer.raise_for_status()
    run("sync", "--wait")

    def approved() -> bool:
        return bool(run("show", f"{playbook_id}@{version}")["metadata"]["status"] == "approved")

    wait_for(approved, "the approval is known here")
    resolved = ("resolve", str(playbook_id), "--format", script.split("/", maxsplit=1)[0])
    show(*resolved)
    found = run(*resolved)
    if found["version"] != version or not found["warnings"]:
        sys.exit(f"{found['version']} was handed out, and nobody reviewed it")
    return str(found["warnings"][0])


def resolve_without_folder(playbook: dict[str, Any], script: str) -> str:
    """Resolve a published script, remove its folder, resolve it again; where it came from then.

    From the server, unless the service has brought the folder back already (after some 3 s).
    """
    target = f"{playbook['playbook_id']}@{playbook['version']}"
    asked = ("resolve", target, "--format", script.split("/", maxsplit=1)[0])
    show(*asked)
    print(f"\n$ rm -r {folder_of(playbook).relative_to(ROOT)}")
    shutil.rmtree(folder_of(playbook))
    print(f"\n$ escher-playbooks {' '.join(asked)}", flush=True)
    found = run(*asked)
    print(found["path"])
    if found["checksum"] not in {file["checksum"] for file in playbook["files"]}:
        sys.exit("the script came back with other bytes")
    return str(found["source"])


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """Poll until ``look`` answers something true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            sys.exit(f"not within {WAIT_SECONDS} s: {what}")
        time.sleep(POLL_SECONDS)
    return found


def versions(playbook: dict[str, Any]) -> list[dict[str, Any]]:
    """All versions of the playbook."""
    return list(run("versions", playbook["playbook_id"])["items"])


def folder_of(playbook: dict[str, Any]) -> Path:
    """Where the published version stands."""
    synced = HOME / "playbooks" / "synced"
    return synced / str(playbook["playbook_id"]) / f"v{playbook['version']}"


def main() -> None:
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "playbooks"
    if HOME.exists():
        subprocess.run([str(COMMAND), "down"], env=ENVIRONMENT, capture_output=True, check=False)
        shutil.rmtree(HOME)
    begin = time.monotonic()
    try:
        show("up", "--detach")
        started = time.monotonic()
        show("import", str(given))
        imported = time.monotonic()
        show("publish", "--all", "--as", "review", "--wait")
        published = time.monotonic()
        for question in QUESTIONS:
            show("search", question, "--limit", "3")
        found = run("search", QUESTIONS[0], "--limit", "10")["results"]
        shown = (run("show", f"{item['playbook_id']}@{item['version']}") for item in found)
        best = next(item for item in shown if item["area"] == "synced")
        script = next(f["path"] for f in best["files"] if "/" in f["path"])
        status = run("status")
        again = run("publish", "--all", "--as", "review", "--wait")
        after = run("status")
        successor = edit_by_hand(best, script)
        passed_over = pass_over_unreviewed(best, script, successor)
        source = resolve_without_folder(best, script)
    finally:
        show("down")
    journal, server = status["journal"], status["server"]
    print(
        f"\nIn:        {journal['versions']} versions of {journal['playbooks']} playbooks"
        f" ({imported - started:.1f} s)"
        f"\nPublished: {journal['published']}, the sensitive stay here ({published - imported:.1f} s, with embedding;"
        f" {server['revisions']} revisions, {server['bytes_received']:,} bytes at the server)"
        f"\nAgain:     {again.get('total', 0)} to do,"
        f" {after['server']['revisions'] - server['revisions']} new revisions,"
        f" {after['server']['bytes_received'] - server['bytes_received']} bytes sent"
        f"\nEdit:      of {best['playbook_id']}@{best['version']}, published as {successor}"
        f"\nTrust:     {passed_over}"
        f"\nScript:    resolved without its folder: {source}, the same bytes"
        f"\nStart-up:  {started - begin:.1f} s · whole demo {time.monotonic() - begin:.1f} s"
        f"\nHome:      {HOME}"
    )
    left = {name: journal[name] for name in ("pending", "deferred", "failed", "conflicts")}
    if any(left.values()) or not journal["published"]:
        sys.exit(f"not every playbook that may leave was published: {left}")


if __name__ == "__main__":
    main()
