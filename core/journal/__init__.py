"""What is known of every version: digests, sync state, next attempt, leases, jobs, vectors.

Folders are the truth for content, the journal for intent and sync state. SQLite beside the
playbooks, or PostgreSQL when workers run on several hosts.
"""

from core.journal.journal import Journal
from core.journal.records import Intent, Job, JobItem, JobState, VersionRecord

__all__ = ["Intent", "Job", "JobItem", "JobState", "Journal", "VersionRecord"]
