"""How much there is to read: files and lines of core, and the files that one call enters.

    python benchmarks/structure.py [--checkout PATH] [--json] [--files]

Counted by reading the sources: the Python files and lines of ``core``, whole and by room (a folder
of core; what lies beside the folders is ``.``), its longest file, those under 60 lines, and its
modules with exactly one importer. Importers are the modules of core, tasks and the faces that name
the module in an import, inside functions and for type checking too, but for a package's
``__init__``; ``from core.x import name`` imports ``core.x``, or ``core.x.name`` where that is a
module. An ``__init__`` itself is not counted: its package is imported, not it.

Counted by running: the distinct files entered by one call of `PlaybookService`. A file is entered
when a function, method or comprehension of it is called between the call and its return, in any
thread of the process. What does not count: module and class bodies, which imports execute; methods
that `dataclass` generates, which have no file; child processes of the sandbox; the reference
server, which runs in a process of its own. The process has made each call before, in another
service, so that everything is imported. Each is counted twice: the first of a service that was just
opened, which makes the parts that it needs (``first``), and the next one (``again``), on another
playbook:

- resolve from disk: ``resolve_script`` in the home that made the playbook, not published yet;
- publish: ``publish_metadata`` of one new version with a shell script;
- resolve with a download: ``resolve_script`` of it in another home, which has never synced;
- resolve from cache: the same once more, the home opened anew;
- no-op sync: ``sync_all_metadata`` with nothing changed here or there since the last.

``project`` is core, tasks and the faces (cli, api or escher_playbooks). The checkout may be older
than this file: it is run with the interpreter that runs this one.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("core", "tasks", "escher_playbooks", "cli", "api")
SHORT = 60
TOKEN = "structure-token"
SERVER_SECONDS = 60
CLOCK_SECONDS = 3  # until a stat vouches for a content, and an edit is quiet
ENTERED = "entered"  # what the child is started with

SERVER = """
import sys
from pathlib import Path
from escher_server.config import ServerConfig, TenantToken
from escher_server.run import serve
folder, port, token = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
tokens = (TenantToken(tenant_id="local", token=token, role="reviewer"),)
config = ServerConfig(data_dir=folder, public_url=f"http://127.0.0.1:{port}", tokens=tokens)
serve(config, "127.0.0.1", port)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", action="store_true", help="name the files that are entered")
    asked = parser.parse_args()
    checkout = asked.checkout.resolve()
    counted = {"sources": sources(checkout), "entered": run_entered(checkout)}
    if asked.json:
        print(json.dumps(counted, indent=1))
    else:
        show(counted, names=asked.files)


def show(counted: dict[str, Any], *, names: bool) -> None:
    found = counted["sources"]
    print(f"core: {found['files']} files, {found['lines']} lines")
    print(f"  longest: {found['longest']['path']}, {found['longest']['lines']} lines")
    print(f"  under {SHORT} lines: {found['short']} files")
    print(f"  with exactly one importer: {len(found['one_importer'])} modules")
    print(f"  {'room':24}{'files':>6}{'lines':>8}")
    for room, (files, lines) in found["rooms"].items():
        print(f"  {room:24}{files:6}{lines:8}")
    print("files entered from the call to its return")
    print(f"  {'':24}{'core':>6}{'project':>9}{'first: core':>13}{'project':>9}")
    for call, paths in counted["entered"].items():
        again, first = paths["again"], paths["first"]
        print(f"  {call:24}{_of_core(again):6}{len(again):9}{_of_core(first):13}{len(first):9}")
        for path in again if names else ():
            print(f"    {path}")


def _of_core(paths: list[str]) -> int:
    return sum(path.startswith("core/") for path in paths)


# -- the sources ------------------------------------------------------------------------------
def sources(checkout: Path) -> dict[str, Any]:
    """Sizes of core, its rooms, and who imports whom."""
    lines = {
        path.relative_to(checkout): len(path.read_text(encoding="utf-8").splitlines())
        for path in (checkout / "core").rglob("*.py")
    }
    rooms: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, count in lines.items():
        room = rooms[path.parts[1] if len(path.parts) > 2 else "."]
        room[0] += 1
        room[1] += count
    longest = max(lines, key=lambda path: (lines[path], str(path)))
    return {
        "files": len(lines),
        "lines": sum(lines.values()),
        "longest": {"path": longest.as_posix(), "lines": lines[longest]},
        "short": sum(count < SHORT for count in lines.values()),
        "one_importer": one_importer(checkout),
        "rooms": dict(sorted(rooms.items())),
    }


def one_importer(checkout: Path) -> list[str]:
    """The modules of core that exactly one other module imports."""
    paths = [path for folder in FOLDERS for path in (checkout / folder).rglob("*.py")]
    modules = {_module(path.relative_to(checkout)): path for path in paths}
    importers: Counter[str] = Counter()
    for module, path in modules.items():
        if path.name == "__init__.py":
            continue
        importers.update(_imported(path, set(modules)) - {module})
    return sorted(
        module
        for module, path in modules.items()
        if module.startswith("core.") and path.name != "__init__.py" and importers[module] == 1
    )


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & modules) or {node.module}
    return found & modules


# -- the calls --------------------------------------------------------------------------------
def run_entered(checkout: Path) -> dict[str, dict[str, list[str]]]:
    """The calls, in a process whose modules are the checkout's."""
    with tempfile.TemporaryDirectory(prefix="escher-structure-") as place:
        folder = Path(place)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ESCHER_")}
        env = kept | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
        env["ESCHER_HOME"] = str(folder / "home")
        with server(folder / "server", checkout, env) as url:
            done = subprocess.run(
                [sys.executable, __file__, ENTERED, str(checkout), str(folder), url],
                env=env,
                cwd=checkout,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
    if done.returncode:
        sys.exit("the calls failed")
    entered: dict[str, dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return entered


@contextmanager
def server(folder: Path, checkout: Path, env: dict[str, str]) -> Iterator[str]:
    """The checkout's reference server; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), str(port), TOKEN], env=env, cwd=checkout
    )
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the reference server did not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Entered:
    """The files of the project whose functions are called while `of` runs, in all threads."""

    def __init__(self, checkout: Path) -> None:
        self._places = tuple(f"{checkout / folder}{os.sep}" for folder in FOLDERS)
        self._root = checkout
        self._found: set[str] | None = None
        # from the start: a pool's threads outlive the call that made them
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        found, code = self._found, frame.f_code
        # CO_OPTIMIZED: of a function, not of a module or class
        if found is not None and event == "call" and code.co_flags & inspect.CO_OPTIMIZED:
            found.add(code.co_filename)

    def of(self, call: Callable[[], object]) -> list[str]:
        found: set[str] = set()
        self._found = found
        try:
            call()
        finally:
            self._found = None
        ours = (path for path in found.copy() if path.startswith(self._places))
        return sorted(Path(path).relative_to(self._root).as_posix() for path in ours)


def entered(checkout: Path, folder: Path, url: str) -> dict[str, dict[str, list[str]]]:
    """The files of each call, the first of a service and the next."""
    files = Entered(checkout)
    try:
        from escher_playbooks import PlaybookService
    except ImportError:  # before there was a public package
        from core.service import PlaybookService
    from core.models import PlaybookDraft, Strategy
    from core.settings import Settings

    def home(name: str) -> Any:
        settings = Settings(
            home=folder / name,
            server_url=url,
            server_token=TOKEN,
            tenant_id="local",
            edit_quiet_seconds=0,
        )
        return PlaybookService.open(settings)

    def draft(name: str) -> PlaybookDraft:
        metadata = {
            "name": name,
            "description": f"{name}, found by their connections of the last week.",
            "cloud_provider": ["aws"],
            "resource_types": ["rds::instance"],
        }
        script = f"#!/usr/bin/env bash\necho '{name}'\n"
        return PlaybookDraft(metadata, {"shell/main.sh": script.encode()})

    calls: dict[str, dict[str, list[str]]] = {}

    def take(name: str, where: str, call: Callable[[Any, str], object]) -> None:
        """Warm the process up in one service; then the first and the next call of another."""
        with home(where) as service:
            call(service, playbooks[0])
        with home(where) as service:
            first, again = (files.of(partial(call, service, id_)) for id_ in playbooks[1:])
        calls[name] = {"first": first, "again": again}

    with home("publisher") as service:
        playbooks = [
            service.create(draft(f"Playbook {word}"), strategy=Strategy.TRUSTED).ref.playbook_id
            for word in ("one", "two", "three")
        ]
    take(
        "resolve from disk", "publisher", lambda service, id_: service.resolve_script(id_, "shell")
    )
    take("publish", "publisher", lambda service, id_: service.publish_metadata(id_))
    for name in ("resolve with a download", "resolve from cache"):
        take(name, "other", lambda service, id_: service.resolve_script(id_, "shell", "1.0.0"))
    with home("publisher") as service:
        published = [row.status for row in service.list_playbooks()]
        if published != ["approved"] * len(playbooks):
            sys.exit(f"not published: {published}")
        service.search_local_playbooks("playbook")  # the collection is whole after this
        service.sync_all_metadata()
        time.sleep(CLOCK_SECONDS)
    take("no-op sync", "publisher", lambda service, _: check_idle(service.sync_all_metadata()))
    return calls


def check_idle(report: dict[str, Any]) -> None:
    if report["scanned"] != report["unchanged"] or any(report["queued"].values()):
        sys.exit(f"the sync had something to do: {report}")


if __name__ == "__main__":
    if sys.argv[1:2] == [ENTERED]:
        print(json.dumps(entered(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
    else:
        main()
