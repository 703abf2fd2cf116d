"""Carries the conflict rules out, a batch of the server's versions at a time.

Everything is done so that it may be interrupted and done again: first the folder, then the row,
and what waits for the user (or was set aside) is written down before anything gives way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from core.errors import LeaseHeld, PermanentError, StorageError
from core.journal import Journal
from core.journal.conflicts import KeptCopy
from core.journal.leases import this_process
from core.journal.records import VersionRecord
from core.models import Area, Move, Ref, Status, Strategy, SyncState
from core.publishing.conflict_rules import LOOK_AT_DISK, Here, Rule, decide
from core.publishing.feed import Theirs
from core.publishing.following import NO_ERROR, following
from core.publishing.ports import PulledVersions
from core.publishing.reconciled import Decided, Reconciled
from core.publishing.verdicts import CONFLICT_REMEDY


@dataclass(frozen=True, slots=True)
class _Item:
    """One version of both sides under its lease."""

    theirs: Theirs
    row: VersionRecord
    fence: int

    @property
    def ref(self) -> Ref:
        return self.theirs.ref


class Reconciler:
    """Brings versions here in step with the server's; safe beside publishers of the same home."""

    def __init__(self, journal: Journal, folders: PulledVersions) -> None:
        self._journal = journal
        self._folders = folders
        self._rules: dict[Rule, Callable[[_Item, Reconciled], None]] = {
            Rule.DELETED_THERE: self._deleted_there,
            Rule.EDIT_BEATS_DELETION: self._edit_beats_deletion,
            Rule.CHANGE_BEATS_DELETION: self._change_beats_deletion,
            Rule.REPLACED_THERE: self._replaced_there,
            Rule.EDIT_BECOMES_SUCCESSOR: self._edit_becomes_successor,
            Rule.OPEN_CONFLICT: self._open_conflict,
            Rule.THEIRS_IS_GONE: self._theirs_is_gone,
            Rule.NOTHING: self._nothing,
        }

    def apply(self, batch: Sequence[Theirs]) -> Reconciled:
        """Decide and do; what can't be done now is in ``failed``, and may be applied again."""
        done = Reconciled()
        wanted = {theirs.ref: theirs for theirs in batch}
        with self._leased(wanted) as (rows, fences):
            new, same = [], []
            for ref, theirs in wanted.items():
                row = rows.get(ref)
                if row is None:
                    if theirs.there.deleted:
                        self._journal.conflicts.settle([ref], "both sides are gone")
                    else:
                        new.append(theirs)
                elif ref not in fences:
                    done.failed[ref] = _lost(ref)
                else:
                    item = _Item(theirs, row, fences[ref])
                    with _failing(ref, done):
                        rule = self._rule(item)
                        if rule is Rule.SAME_CONTENT:
                            same.append(item)
                        elif rule in self._rules:
                            self._rules[rule](item, done)
            self._take_in(new, done)
            self._same_content(same, done)
        return done

    def _rule(self, item: _Item) -> Rule:
        row, there = item.row, item.theirs.there
        here = Here(
            digest=row.content_digest,
            published_digest=row.published_digest,
            revision=row.revision,
            updated_at=row.metadata["updated_at"],
            synced=row.area is Area.SYNCED,
            deleting=row.deleting,
            in_conflict=row.sync_state is SyncState.CONFLICT,
        )
        rule = decide(here, there)
        if rule in LOOK_AT_DISK and self._folders.is_edited(item.ref):
            return decide(replace(here, edited=True), there)
        return rule

    # -- the rules --------------------------------------------------------------------------
    def _take_in(self, new: Sequence[Theirs], done: Reconciled) -> None:
        if not new:
            return
        errors = self._folders.take_in([(theirs.live, theirs.entries) for theirs in new])
        done.failed.update(errors)
        taken = [theirs.ref for theirs in new if theirs.ref not in errors]
        # an open conflict whose own side was deleted here: theirs has come in its place
        self._journal.conflicts.settle(taken, "theirs: ours was deleted")
        done.pulled += taken

    def _same_content(self, items: Sequence[_Item], done: Reconciled) -> None:
        """Same version, same content: the server's fields, revision and place."""
        changes = [(item, following(item.row, item.theirs.live)) for item in items]
        todo = [(item, move, values) for item, (move, values) in changes if move or values]
        try:
            self._folders.move([move for _, move, _ in todo if move])
        except Exception as error:  # noqa: BLE001 — an item's mistake is its own, as below
            if len(todo) == 1:
                done.failed[todo[0][0].ref] = error
            else:  # all at once did not go: find the one that stops the others
                for item, _, _ in todo:
                    self._same_content([item], done)
            return
        written = self._journal.versions.set_many(
            [(item.ref, item.fence, values) for item, _, values in todo if values]
        )
        asked = [item.ref for item, _, values in todo if values]
        lost = {ref for ref, is_mine in zip(asked, written, strict=True) if not is_mine}
        done.failed |= {ref: _lost(ref) for ref in lost}
        refs = [item.ref for item, _, _ in todo if item.ref not in lost]
        self._journal.conflicts.settle(refs, "the same content")
        done.updated += refs

    def _deleted_there(self, item: _Item, done: Reconciled) -> None:
        words = f"{item.ref} was deleted on the server."
        note = partial(self._note, item, Rule.DELETED_THERE, words, "deleted", done)
        self._folders.drop(item.ref, copy="edits", on_kept=note)
        self._journal.conflicts.settle([item.ref], "deleted there")
        done.deleted.append(item.ref)

    def _edit_beats_deletion(self, item: _Item, done: Reconciled) -> None:
        """It goes back to ``local/`` as a version that the server never had."""
        row = item.row
        fresh = {"status": Status.READY.value, "deprecated_by": None, "deprecation_reason": None}
        self._folders.move([Move(item.ref, Area.LOCAL, fresh)])
        known = row.content_digest != row.published_digest  # else the scan takes the edit first
        strategy = row.strategy if row.strategy.is_uploaded else Strategy.REVIEW
        self._set(
            item,
            sync_state=SyncState.PENDING if known else SyncState.LOCAL,
            publish_as=strategy if known else None,
            revision=None,
            published_digest=None,
            uploaded_digest=None,
            s3_paths={},
            published_at=None,
            **NO_ERROR,
        )
        words = f"{item.ref} was deleted on the server and edited here: the edit is published anew."
        self._note(item, Rule.EDIT_BEATS_DELETION, words, "ours", done)
        self._journal.conflicts.settle([item.ref], "ours is published anew")

    def _change_beats_deletion(self, item: _Item, done: Reconciled) -> None:
        words = (
            f"{item.ref} changed on the server meanwhile and was not deleted."
            " Delete it again to insist."
        )
        move, values = following(item.row, item.theirs.live)
        if move:
            self._folders.move([move])
        told = {"error_type": "Conflict", "error": words}
        state = {**values, **told, "deleting": False, "sync_state": SyncState.PUBLISHED}
        self._set(item, **state)
        self._note(item, Rule.CHANGE_BEATS_DELETION, words, "theirs", done)

    def _replaced_there(self, item: _Item, done: Reconciled) -> None:
        words = (
            f"{item.ref} was replaced on the server by other content;"
            " that has come here, and a copy of what was here is kept."
        )
        self._replace(item, Rule.REPLACED_THERE, words, "theirs", done)

    def _edit_becomes_successor(self, item: _Item, done: Reconciled) -> None:
        rule = Rule.EDIT_BECOMES_SUCCESSOR
        self._folders.check(item.theirs.live, item.theirs.entries)
        try:
            kept = self._folders.keep_as(item.ref, strategy=Strategy.REVIEW)
        except StorageError:
            raise
        except PermanentError as error:  # it does not parse, or may not be stored: kept as it is
            words = (
                f"{item.ref} was edited here and can't become a version ({error.detail});"
                " a copy is kept, and the published content has come back."
            )
            self._replace(item, rule, words, "theirs", done)
            return
        words = f"{item.ref} was edited here: the edit is {kept} now, for review."
        self._journal.conflicts.note(item.ref, rule, words, f"ours is {kept}")
        more = f"{item.ref}: a copy is kept of what is no part of {kept}."
        note = partial(self._journal.conflicts.note, item.ref, rule, more, "theirs")
        self._folders.drop(item.ref, copy="edits", kept_as=kept, on_kept=note)
        self._bring(item, done)
        done.conflicts.append(Decided(item.ref, rule, words))

    def _open_conflict(self, item: _Item, done: Reconciled) -> None:
        there = item.theirs.there
        words = (
            f"The server already holds {item.ref} with other content (revision {there.revision})."
        )
        self._journal.conflicts.open(
            item.ref,
            Rule.OPEN_CONFLICT,
            words,
            server_revision=there.revision,
            server_digest=there.digest,
            theirs=item.theirs.raw,
        )
        told = {"error_type": "Conflict", "error": f"{words} {CONFLICT_REMEDY}"}
        self._set(item, **{**NO_ERROR, **told, "sync_state": SyncState.CONFLICT})
        done.conflicts.append(Decided(item.ref, Rule.OPEN_CONFLICT, words))

    def _theirs_is_gone(self, item: _Item, done: Reconciled) -> None:
        """Nothing stands in the way any more: what was wished before the conflict goes on."""
        row = item.row
        strategy = row.publish_as or row.strategy
        wished = strategy.is_uploaded and row.area is Area.LOCAL
        state = SyncState.PENDING if wished else SyncState.LOCAL
        self._set(item, sync_state=state, publish_as=strategy if wished else None, **NO_ERROR)
        self._journal.conflicts.settle([item.ref], "theirs was deleted")
        done.updated.append(item.ref)

    def _nothing(self, item: _Item, done: Reconciled) -> None:
        """Ours was never there: not even a conflict that its predecessor here had is left."""
        del done
        self._journal.conflicts.settle([item.ref], "theirs was deleted")

    # -- inside -----------------------------------------------------------------------------
    def _replace(
        self, item: _Item, rule: Rule, words: str, resolution: str, done: Reconciled
    ) -> None:
        self._folders.check(item.theirs.live, item.theirs.entries)  # before anything gives way
        note = partial(self._note, item, rule, words, resolution, done)
        if self._folders.drop(item.ref, copy="always", on_kept=note) is None:
            note()  # there was nothing to keep
        self._bring(item, done)

    def _bring(self, item: _Item, done: Reconciled) -> None:
        """Theirs in the place that is free now; a failure here is made good by the backlog."""
        errors = self._folders.take_in([(item.theirs.live, item.theirs.entries)])
        if errors:
            raise errors[item.ref]
        self._journal.conflicts.settle([item.ref], "theirs")
        done.pulled.append(item.ref)

    def _set(self, item: _Item, **values: Any) -> None:
        if not self._journal.versions.set(item.ref, fence=item.fence, **values):
            raise _lost(item.ref)

    def _note(
        self,
        item: _Item,
        rule: Rule,
        words: str,
        resolution: str,
        done: Reconciled,
        copy: KeptCopy | None = None,
    ) -> None:
        self._journal.conflicts.note(item.ref, rule, words, resolution, copy)
        done.conflicts.append(Decided(item.ref, rule, words))

    @contextmanager
    def _leased(
        self, wanted: dict[Ref, Theirs]
    ) -> Iterator[tuple[dict[Ref, VersionRecord], dict[Ref, int]]]:
        """The rows, read again under the leases that could be had."""
        owner = f"{this_process()}#pull-{uuid.uuid4().hex[:12]}"
        known = list(self._journal.versions.get_many(list(wanted)))
        held = self._journal.leases.acquire(known, owner) if known else {}
        try:
            rows = self._journal.versions.get_many(list(wanted))
            yield rows, held
        finally:
            self._journal.leases.release(list(held), owner)


def _lost(ref: Ref) -> LeaseHeld:
    return LeaseHeld(f"{ref} is just being worked on.", "It is taken in with a later sync.")


@contextmanager
def _failing(ref: Ref, done: Reconciled) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 — an item's mistake is its own, never its batch's
        done.failed[ref] = error
