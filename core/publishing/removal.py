"""Deleting published versions: the server first, confirmed, then the folder and the row."""

from __future__ import annotations

from functools import partial
from typing import Any

from core.errors import Conflict, EscherError, NotEscherServer, TransientError
from core.journal.conflicts import Conflicts
from core.journal.records import VersionRecord
from core.models import DONE, Outcome, OutcomeState, SyncState
from core.publishing.batch import Batch
from core.publishing.conflict_rules import Rule
from core.publishing.policy import is_published
from core.publishing.ports import PulledVersions, Source
from core.publishing.verdicts import Judge, Verdict
from core.server.client import EscherServer

NO_REVISION = 0  # revisions count from 1, so this one never matches


class Removal:
    """Deletes one version at the server; a 404 there confirms it too."""

    def __init__(
        self,
        server: EscherServer,
        source: Source,
        judge: Judge,
        conflicts: Conflicts,
        folders: PulledVersions | None = None,
    ) -> None:
        self._server = server
        self._source = source
        self._judge = judge
        self._conflicts = conflicts
        self._folders = folders

    def __call__(self, record: VersionRecord) -> Verdict:
        try:
            self._delete(record)
        except Conflict as error:
            return self._kept(record, error)
        except (TransientError, NotEscherServer):
            raise
        except EscherError as error:
            return _not_deleted(record, error.type, f"Not deleted: {error}", {})
        return Verdict()

    def forget(self, batch: Batch, records: list[VersionRecord]) -> None:
        """Remove what the server confirmed from here, all at once, else one by one."""
        if not records:
            return
        try:
            untouched = [record.ref for record in records if not self._kept_edit(record)]
            self._source.delete(untouched)
        except Exception as error:  # noqa: BLE001 — an item's mistake is its own, as in Batch.work
            if len(records) > 1:
                for record in records:
                    self.forget(batch, [record])
            else:  # asked again later: the server answers 404 or the same as before
                batch.settle([(records[0], self._judge.again(records[0], error))])
        else:
            batch.outcomes.update((record.ref, DONE) for record in records)

    def _kept_edit(self, record: VersionRecord) -> bool:
        """Remove one that was edited since its deletion was asked for, and keep the edit."""
        if self._folders is None or not self._folders.is_edited(record.ref):
            return False
        words = f"{record.ref} was deleted, and had been edited: a copy of the edit is kept."
        note = partial(self._conflicts.note, record.ref, Rule.DELETION_GOES_ON, words, "deleted")
        self._folders.drop(record.ref, copy="edits", on_kept=note)
        return True

    def _delete(self, record: VersionRecord) -> None:
        if record.revision is not None:
            self._server.delete(record.ref, record.revision)
            return
        # uploaded, and the answer to publishing may have been lost: ask what the server holds
        try:
            self._server.delete(record.ref, NO_REVISION)
        except Conflict as error:
            if error.server.get("content_digest") != record.content_digest:
                return  # somebody else's: nothing of ours is there
            revision = error.server.get("revision")
            if not isinstance(revision, int):
                raise
            self._server.delete(record.ref, revision)

    def _kept(self, record: VersionRecord, error: Conflict) -> Verdict:
        """The change there wins: an edit can be deleted again, a deletion can't be undone."""
        facts: dict[str, Any] = {}
        revision = error.server.get("revision")
        if error.server.get("content_digest") == record.content_digest:
            if isinstance(revision, int):
                facts["revision"] = revision  # so that deleting again means what is there now
            words = f"{record.ref} changed on the server meanwhile and was not deleted."
        else:
            words = f"{record.ref} has other content on the server and was not deleted."
        self._conflicts.note(record.ref, Rule.CHANGE_BEATS_DELETION, words, resolution="theirs")
        return _not_deleted(record, error.type, words + " Delete it again to insist.", facts)


def _not_deleted(record: VersionRecord, type_: str, words: str, facts: dict[str, Any]) -> Verdict:
    state = {
        "deleting": False,
        "sync_state": SyncState.PUBLISHED if is_published(record) else SyncState.FAILED,
        "error_type": type_,
        "error": words,
        "attempts": 0,
        "next_attempt_at": None,
    }
    return Verdict(Outcome(OutcomeState.FAILED, type_, words), facts, state)
