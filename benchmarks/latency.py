"""How soon a change is on the other side, under `up`.

Edit: from the last write to a published file until the server has the next version. Approval: from
the reviewer's call until the version is approved here, over the agent link.

    python benchmarks/latency.py [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]

from support.playbooks import draft, write_folder
from support.service import ServiceUnderTest

from core.models import Ref, Status
from core.service import PlaybookService

POLL_SECONDS = 0.02
GIVE_UP_SECONDS = 120.0


def until(check: Callable[[], bool]) -> float:
    """Seconds until ``check`` is true."""
    began = time.perf_counter()
    while not check():
        if time.perf_counter() - began > GIVE_UP_SECONDS:
            raise SystemExit("it never came")
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - began


def on_server(opened: PlaybookService, ref: Ref) -> bool:
    return any(
        (change.playbook_id, change.version) == tuple(ref)
        for change in opened.server.changes(None, 500).changes
    )


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="escher-latency-") as folder:
        root = Path(folder)
        service = ServiceUnderTest(root / "home", sync_interval_minutes="60")
        service.up()
        try:
            with service.service() as opened:
                edits, approvals = measure(service, opened, root, runs)
        finally:
            service.down()
    quiet = service.settings.edit_quiet_seconds
    report(f"edit until it is on the server ({quiet:g} s of quiet included)", edits)
    report("approval until it is here, over the agent link", approvals)


def measure(
    service: ServiceUnderTest, opened: PlaybookService, root: Path, runs: int
) -> tuple[list[float], list[float]]:
    edits, approvals = [], []
    for number in range(runs):
        source = write_folder(root / f"p{number}", draft(f"Measured thing {number}"))
        made = service.json("create", str(source), "--strategy", "review")
        ref = Ref(made["playbook_id"], made["version"])
        until(lambda ref=ref: _is_settled(opened, ref))  # type: ignore[misc]
        script = opened.store.folder(ref) / "shell" / "main.sh"
        script.write_text(f"#!/bin/sh\necho edited {number}\n")
        successor = Ref(ref.playbook_id, "1.0.1")
        edits.append(until(lambda ref=successor: on_server(opened, ref)))  # type: ignore[misc]
        until(lambda ref=successor: _is_settled(opened, ref))  # type: ignore[misc]
        opened.server.set_status(successor, Status.APPROVED)
        approvals.append(until(lambda ref=successor: _is_approved(opened, ref)))  # type: ignore[misc]
    return edits, approvals


def _is_settled(opened: PlaybookService, ref: Ref) -> bool:
    row = opened.journal.versions.get(ref)
    return row is not None and row.sync_state == "published"


def _is_approved(opened: PlaybookService, ref: Ref) -> bool:
    row = opened.journal.versions.get(ref)
    return row is not None and row.status is Status.APPROVED


def report(what: str, seconds: list[float]) -> None:
    print(
        f"{what}: median {statistics.median(seconds):.2f} s, "
        f"{min(seconds):.2f} to {max(seconds):.2f} s, {len(seconds)} runs"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    main(parser.parse_args().runs)
