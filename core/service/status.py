"""How the home stands: its versions, its server, its last sync, and whether all of it agrees."""

from __future__ import annotations

import time
from typing import Any

from core.errors import EscherError
from core.journal import Journal
from core.journal.leases import SYNC
from core.journal.pulls import STALE
from core.playbooks.verify import verify
from core.reports import Finding, VerifyReport
from core.server.client import EscherServer
from core.service.home import Home
from core.service.sync import read_report
from core.settings import Settings


def service_status(settings: Settings, journal: Journal, server: EscherServer) -> dict[str, Any]:
    """The parts ``server``, ``journal`` and ``sync`` of the contract's status document."""
    counts = journal.versions.counts()
    last = read_report(settings)
    return {
        "server": server_status(settings, journal, server),
        "journal": {
            "playbooks": counts["playbooks"],
            "versions": counts["versions"],
            "published": counts["published"],
            "pending": counts["pending"],
            "deferred": counts["deferred"],
            "failed": counts["failed"],
            "conflicts": journal.conflicts.open_count(),
            "held": len(journal.held_edits.entries()),
        },
        "sync": {
            "last_at": last["at"] if last else None,
            "running": journal.leases.holder(SYNC) is not None,
            **pull_status(journal),
        },
    }


def pull_status(journal: Journal) -> dict[str, Any]:
    """How old what is known of the server is, and what of it waits."""
    now, waiting = time.time(), journal.waiting.counts()
    stale = journal.pull_state.is_stale(now)
    return {
        "pulled_at": journal.pull_state.last_complete(),
        "deletions_waiting": waiting["deletions"],
        "passed_over": waiting["failed"],
        "absent": len(journal.versions.absent()),
        "warnings": [STALE] if stale else [],
    }


def server_status(settings: Settings, journal: Journal, server: EscherServer) -> dict[str, Any]:
    """Whether the server answers, since when it does not, and the reference server's counters."""
    body: dict[str, Any] = {
        "url": settings.server_url,
        "reachable": server.reachable(),
        "offline_since": None,
        "revisions": None,
        "bytes_received": None,
    }
    if not body["reachable"]:
        since = journal.facts.set_once("offline_since", str(int(time.time())))
        return body | {"offline_since": int(since)}
    journal.facts.remove("offline_since")
    try:
        counters = server.reference_stats()
    except EscherError:
        return body  # another server than the reference one has no such counters
    return body | {name: counters.get(name) for name in ("revisions", "bytes_received")}


def verify_home(home: Home) -> VerifyReport:
    """Check every file, row and point against each other; nothing is changed."""
    problems = [
        Finding(str(found.ref or ""), found.path, found.what, found.remedy)
        for found in verify(home.store)
    ]
    problems.extend(
        Finding(str(edit.ref), edit.folder, edit.as_text(), "Take it or drop it, as it says.")
        for edit in home.journal.held_edits.entries()
    )
    problems.extend(home.indexing.verify())
    problems.extend(home.script_manager.verify())
    return VerifyReport(home.journal.versions.counts()["versions"], problems)
