"""What is known of every version: digests, sync state, next attempt, leases, jobs, vectors.

Folders are the truth for content, the journal for intent and sync state. SQLite beside the
playbooks, or PostgreSQL when workers run on several hosts.
"""

from __future__ import annotations

import uuid

from core.errors import HomeMismatch
from core.journal import tables
from core.journal.conflicts import Conflicts, HeldEdits
from core.journal.database import Database
from core.journal.executions import ExecutionRows
from core.journal.facts import Counters, HomeFacts, Vectors
from core.journal.folders import Intent, Intents, ScanRows
from core.journal.jobs import Job, JobItem, Jobs
from core.journal.leases import Leases
from core.journal.migrations import migrate
from core.journal.pins import Choices
from core.journal.points import LibraryRows, PointStates, StalePoints
from core.journal.pulls import PullState, WaitingChanges
from core.journal.script_lookup import ScriptRows
from core.journal.scripts import CacheFolders, Downloads, ProofRows
from core.journal.tables import JobState
from core.journal.versions import VersionRecord, Versions

__all__ = ["Intent", "Job", "JobItem", "JobState", "Journal", "VersionRecord"]


class Journal:
    """Opens (and makes, the first time) the journal at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        migrate(self.database)
        self.facts = HomeFacts(self.database)
        self.versions = Versions(self.database)
        self.pins = self.versions.pins
        self.choices = Choices(self.database)
        self.held_edits = HeldEdits(self.database)
        self.leases = Leases(self.database)
        self.intents = Intents(self.database)
        self.jobs = Jobs(self.database)
        self.conflicts = Conflicts(self.database)
        self.waiting = WaitingChanges(self.database)
        self.pull_state = PullState(self.facts, self.waiting)
        self.executions = ExecutionRows(self.database)
        self.cache_folders = CacheFolders(self.database)
        self.downloads = Downloads(self.database, self.leases)
        self.counters = Counters(self.database)
        self.proofs = ProofRows(self.database)
        self.scan = ScanRows(self.database)
        self.points = PointStates(self.database, tables.versions)
        self.library = LibraryRows(self.database)
        self.stale_points = StalePoints(self.database)
        self.vectors = Vectors(self.database)
        self.script_rows = ScriptRows(self.database)

    @property
    def home_id(self) -> str:
        """A random id of this home, made once."""
        return self.facts.get("home_id") or self.facts.set_once("home_id", uuid.uuid4().hex)

    def bind(self, server_url: str, tenant_id: str) -> None:
        """Tie the home to one server and tenant, or refuse another."""
        for key, value in (("server_url", server_url), ("tenant_id", tenant_id)):
            bound = self.facts.get(key) or self.facts.set_once(key, value)
            if bound != value:
                raise HomeMismatch(
                    f"This home belongs to {key} {bound!r}, the settings say {value!r}.",
                    "Set it back, or start afresh in another folder with ESCHER_HOME.",
                )

    def close(self) -> None:
        self.leases.close()
        self.script_rows.close()
        self.database.close()
