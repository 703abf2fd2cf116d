"""Carries the conflict rules out, a batch of the server's versions at a time.

Everything is done so that it may be interrupted and done again: first the folder, then the row, and
what waits for the user (or was set aside) is written down before anything gives way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from core.errors import LeaseHeld, PermanentError, StorageError
from core.journal import Journal
from core.journal.conflicts import KeptCopy
from core.journal.leases import VERSION, Held
from core.journal.pins import TOMBSTONE
from core.journal.versions import VersionRecord
from core.models import Area, Ref, Strategy, SyncState, content_digest, executables
from core.playbooks.remote_versions import RemoteVersions
from core.publishing.batch import CONFLICT_REMEDY, NO_ERROR, at_once_or_each
from core.publishing.conflict_rules import LOOK_AT_DISK, Here, Rule, There, decide
from core.publishing.conflicts import drop_kept, private_id_words, state_after_conflict
from core.publishing.feed import Theirs, server_owned_changes


@dataclass(frozen=True, slots=True)
class Decided:
    """A rule that concerns the user: what it did about which version, in words."""

    ref: Ref
    rule: Rule
    words: str

    def as_json(self) -> dict[str, Any]:
        return {"ref": str(self.ref), "kind": self.rule.value, "reason": self.words}


@dataclass(slots=True)
class Changes:
    """Which versions the server's changes concerned here, by what was done."""

    pulled: list[Ref] = field(default_factory=list)
    updated: list[Ref] = field(default_factory=list)
    deleted: list[Ref] = field(default_factory=list)
    trashed: list[str] = field(default_factory=list)  # folders in the trash
    conflicts: list[Decided] = field(default_factory=list)

    def add(self, others: Changes) -> None:
        self.pulled += others.pulled
        self.updated += others.updated
        self.deleted += others.deleted
        self.trashed += others.trashed
        self.conflicts += others.conflicts


@dataclass(slots=True)
class Reconciled(Changes):
    """The result of a batch; a version that needed nothing is in none of the lists."""

    to_delete: dict[Ref, There] = field(default_factory=dict)  # not yet: how many are they?
    failed: dict[Ref, Exception] = field(default_factory=dict)
    older: list[Ref] = field(default_factory=list)  # known here at a higher revision
    private: dict[Ref, Theirs] = field(default_factory=dict)  # theirs of ids that are private here
    unnamed: list[Ref] = field(default_factory=list)  # deleted, and each names a conflict of its id


@dataclass(frozen=True, slots=True)
class _Item:
    """One version of both sides under its lease."""

    theirs: Theirs
    row: VersionRecord
    lease: str

    @property
    def ref(self) -> Ref:
        return self.theirs.ref


class Reconciler:
    """Brings versions here in step with the server's; safe beside publishers of the same home.

    ``in_use`` tells of a version whose path was just handed out: its folder does not go yet.
    """

    def __init__(
        self,
        journal: Journal,
        folders: RemoteVersions,
        in_use: Callable[[Ref], bool] = lambda _ref: False,
    ) -> None:
        self._journal = journal
        self._folders = folders
        self._in_use = in_use
        self._rules: dict[Rule, Callable[[_Item, Reconciled], None]] = {
            Rule.EDIT_BEATS_DELETION: self._edit_beats_deletion,
            Rule.CHANGE_BEATS_DELETION: self._change_beats_deletion,
            Rule.IMMUTABLE: self._immutable,
            Rule.EDIT_BECOMES_SUCCESSOR: self._edit_becomes_successor,
            Rule.OPEN_CONFLICT: self._open_conflict,
            Rule.PRIVATE_ID: self._private_id,
            Rule.NAME_IS_TAKEN: self._name_is_taken,
            Rule.THEIRS_IS_GONE: self._theirs_is_gone,
            Rule.DELETED_THERE: self._deleted_there,
        }

    def apply(self, batch: Sequence[Theirs], before: Mapping[Ref, int] | None = None) -> Reconciled:
        """Decide on each version and carry it out; what can't be done now is in ``failed``.

        ``before``: the revisions known here before the server was asked. Where one has not moved
        since, the server's answer counts though its revision is a lower one. Deletions of what is
        untouched here are only named (`Reconciled.to_delete`), for `delete` to carry out.
        """
        done = Reconciled()
        wanted = {theirs.ref: theirs for theirs in batch}
        pins = self._journal.pins.get_many(list(wanted))
        private = self._journal.pins.private_ids(ref.playbook_id for ref in wanted)
        with self._leased(wanted) as (rows, held):
            new: list[Theirs] = []
            same: list[_Item] = []
            gone: list[Ref] = []
            for ref, theirs in wanted.items():
                row = rows.get(ref)
                is_private = ref.playbook_id in private
                if row is None:
                    rule = decide(None, theirs.there, pinned=pins.get(ref), private=is_private)
                    with _failing(ref, done):
                        self._without_row(rule, theirs, new, gone, done)
                elif ref not in held:
                    done.failed[ref] = _lost(ref)
                else:
                    item = self._with_their_modes(_Item(theirs, row, held.token))
                    fresh = before is not None and before.get(ref) == row.revision
                    with _failing(ref, done):
                        rule = self._rule(item, pins.get(ref), private=is_private, fresh=fresh)
                        if not fresh and theirs.there.revision < (row.revision or 0):
                            done.older.append(ref)
                        if rule is Rule.SAME_CONTENT:
                            same.append(item)
                        elif rule is Rule.NOTHING:
                            # not even a conflict that ours had before it was made anew is left
                            self._theirs_deleted([ref], "theirs was deleted", done)
                        elif rule in self._rules:
                            self._rules[rule](item, done)
            if gone:
                self._theirs_deleted(gone, "both sides are gone", done)
            self._take_in(new, done)
            self._same_content(same, done)
        self._pin_tombstones(batch, pins, private)
        return done

    def delete(self, batch: Sequence[Theirs]) -> Reconciled:
        """Carry out deletions of the server: into the trash, unless somebody edited it meanwhile.

        What is being worked on, or was just handed out, stays in ``to_delete``.
        """
        done = Reconciled()
        wanted = {theirs.ref: theirs for theirs in batch}
        with self._leased(wanted) as (rows, held):
            for ref, theirs in wanted.items():
                row = rows.get(ref)
                if row is None:
                    continue
                if ref not in held or self._in_use(ref):
                    done.to_delete[ref] = theirs.there
                    continue
                item = _Item(theirs, row, held.token)
                with _failing(ref, done):
                    rule = self._rule(item, None, private=False, fresh=False)
                    if rule is Rule.DELETED_THERE:
                        self._into_trash(item, done)
                    elif rule is Rule.EDIT_BEATS_DELETION:
                        self._edit_beats_deletion(item, done)
        return done

    def _rule(self, item: _Item, pinned: str | None, *, private: bool, fresh: bool) -> Rule:
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
        rule = decide(here, there, pinned=pinned, private=private, fresh=fresh)
        if rule in LOOK_AT_DISK and self._folders.is_edited(item.ref):
            here = replace(here, edited=True)
            return decide(here, there, pinned=pinned, private=private, fresh=fresh)
        return rule

    def _with_their_modes(self, item: _Item) -> _Item:
        """Take the server's word on modes where the journal was made anew from folders.

        A folder that another version of this service wrote may show other ones than were published:
        with the very same bytes that is no other content.
        """
        row, theirs = item.row, item.theirs
        if (
            row.intake != "adopt"
            or theirs.record is None
            or theirs.there.digest == row.content_digest
        ):
            return item
        marked = executables(theirs.entries)
        files = [
            replace(file, executable=file.path in marked)
            for file in self._journal.versions.files(item.ref)
        ]
        digest = content_digest(row.metadata, files)
        if digest != theirs.there.digest or not self._journal.versions.set_modes(
            item.ref, marked, digest, lease=item.lease
        ):
            return item
        return replace(item, row=replace(row, content_digest=digest, modes_known=True))

    def _without_row(
        self, rule: Rule, theirs: Theirs, new: list[Theirs], gone: list[Ref], done: Reconciled
    ) -> None:
        """What is not here, and is there, or was."""
        if rule is Rule.TAKE_IN:
            new.append(theirs)
        elif rule is Rule.PRIVATE_ID:
            self._open_private_id(theirs, done)
        elif rule is Rule.IMMUTABLE:
            self._open_immutable(theirs, done)
        else:
            gone.append(theirs.ref)

    def _pin_tombstones(
        self, batch: Sequence[Theirs], pins: Mapping[Ref, str], private: Collection[str]
    ) -> None:
        """A deleted name goes on standing for what was deleted; nothing of that came here."""
        new = [
            (theirs.ref, theirs.there.digest)
            for theirs in batch
            if theirs.there.deleted
            and theirs.ref not in pins
            and theirs.ref.playbook_id not in private
        ]
        self._journal.pins.put(new, TOMBSTONE)
        # what was told of a version before it was deleted gives no right to run a cached copy
        self._journal.script_rows.forget_told(
            [theirs.ref for theirs in batch if theirs.there.deleted]
        )

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
        wanted = {item.ref: server_owned_changes(item.row, item.theirs.live) for item in items}
        moves = {ref: move for ref, (move, _) in wanted.items() if move}
        at_once_or_each(
            list(moves),
            lambda refs: self._folders.move([moves[ref] for ref in refs]),
            done.failed.__setitem__,
        )
        changes = [
            (item.ref, item.lease, values)
            for item in items
            if item.ref not in done.failed and (values := wanted[item.ref][1])
        ]
        written = self._journal.versions.set_many(changes)
        for (ref, _, _), is_mine in zip(changes, written, strict=True):
            if not is_mine:
                done.failed[ref] = _lost(ref)
        agreed = [item.ref for item in items if item.ref not in done.failed]
        self._journal.conflicts.settle(agreed, "the same content")
        done.updated += [ref for ref in agreed if any(wanted[ref])]

    def _deleted_there(self, item: _Item, done: Reconciled) -> None:
        if not item.row.deleting:
            done.to_delete[item.ref] = item.theirs.there
            return
        # the user of this home has asked for it, too
        words = f"{item.ref} was deleted on the server."
        note = partial(self._note, item, Rule.DELETED_THERE, words, "deleted", done)
        self._folders.drop(item.ref, copy="edits", on_kept=note)
        self._note_deleted(item, done)

    def _into_trash(self, item: _Item, done: Reconciled) -> None:
        copy = self._folders.drop(item.ref, copy="trash")
        if copy is not None:
            done.trashed.append(copy.folder)
        self._note_deleted(item, done)

    def _note_deleted(self, item: _Item, done: Reconciled) -> None:
        self._journal.conflicts.settle([item.ref], "deleted there")
        done.deleted.append(item.ref)

    def _edit_beats_deletion(self, item: _Item, done: Reconciled) -> None:
        """The edit is a private version of its own: its name is that of what was deleted."""
        rule = Rule.EDIT_BEATS_DELETION
        kept, why = self._keep_edit(item, Strategy.LOCAL_ONLY)
        if kept is None:
            words = (
                f"{item.ref} was deleted on the server; it was edited here and can't become a"
                f" version ({why}): a copy is in the trash."
            )
            self._into_trash(item, done)
            self._note(item, rule, words, "deleted", done)
            return
        words = (
            f"{item.ref} was deleted on the server and edited here: the edit is {kept} now,"
            " private until you publish it."
        )
        self._note(item, rule, words, f"ours is {kept}", done)
        drop_kept(self._journal, self._folders, item.ref, kept, rule, "deleted")
        self._journal.conflicts.settle([item.ref], f"ours is {kept}")

    def _keep_edit(self, item: _Item, strategy: Strategy | None) -> tuple[Ref | None, str]:
        """Store the edit as the next free patch; None and the reason where it can't be stored."""
        try:
            return self._folders.keep_as(item.ref, strategy=strategy), ""
        except StorageError:
            raise
        except PermanentError as error:  # it does not parse, or may not be stored: kept as it is
            return None, error.detail

    def _change_beats_deletion(self, item: _Item, done: Reconciled) -> None:
        words = (
            f"{item.ref} changed on the server meanwhile and was not deleted."
            " Delete it again to insist."
        )
        move, values = server_owned_changes(item.row, item.theirs.live)
        if move:
            self._folders.move([move])
        self._hold(item, SyncState.PUBLISHED, words, **values, deleting=False)
        self._note(item, Rule.CHANGE_BEATS_DELETION, words, "theirs", done)

    def _immutable(self, item: _Item, done: Reconciled) -> None:
        """The known content goes on being answered; nothing of it changes before the user says so."""
        words = self._open_immutable(item.theirs, done)
        if item.row.deleting:
            state = SyncState.PUBLISHED if item.row.is_published else SyncState.LOCAL
            self._hold(item, state, words, deleting=False)

    def _open_immutable(self, theirs: Theirs, done: Reconciled) -> str:
        words = (
            f"The server claims other content for {theirs.ref} than that name stands for"
            f" ({theirs.there.digest[:19]}…); the known content stays."
        )
        self._open(theirs, Rule.IMMUTABLE, words, done)
        return f"{words} {CONFLICT_REMEDY}"

    def _private_id(self, item: _Item, done: Reconciled) -> None:
        """The same version of both: ours is not sent while the user has not chosen."""
        done.private[item.ref] = item.theirs
        known = self._journal.conflicts.open_of(item.ref)
        in_conflict = item.row.sync_state is SyncState.CONFLICT
        if in_conflict and known and known.server_digest == item.theirs.there.digest:
            return  # it waits already
        self._hold(item, SyncState.CONFLICT, self._open_private_id(item.theirs, done))

    def _open_private_id(self, theirs: Theirs, done: Reconciled) -> str:
        """One conflict for all of the server's versions of the id; the first one names it."""
        words = private_id_words(theirs.ref)
        done.private[theirs.ref] = theirs
        of_id = self._journal.conflicts.open_of_id(theirs.ref.playbook_id)
        waiting = [conflict.ref for conflict in of_id if conflict.kind == Rule.PRIVATE_ID]
        if not waiting or theirs.ref in waiting:
            self._open(theirs, Rule.PRIVATE_ID, words, done)
        return f"{words} {CONFLICT_REMEDY}"

    def _name_is_taken(self, item: _Item, done: Reconciled) -> None:
        known = self._journal.conflicts.open_of(item.ref)
        if known is not None and known.kind == Rule.PRIVATE_ID:
            done.unnamed.append(item.ref)  # others of the id may wait, under a name of their own
        words = f"{item.ref} was deleted on the server, and its name stands for what it held:"
        words = f"{words} ours needs another version or id."
        self._open(item.theirs, Rule.NAME_IS_TAKEN, words, done)

    def _open(self, theirs: Theirs, rule: Rule, words: str, done: Reconciled) -> None:
        """Have it in the list once; told again only when it is another one."""
        known = self._journal.conflicts.open_of(theirs.ref)
        there = theirs.there
        self._journal.conflicts.open(
            theirs.ref, rule, words, server_revision=there.revision, server_digest=there.digest
        )
        if known is None or (known.kind, known.server_digest) != (rule, there.digest):
            done.conflicts.append(Decided(theirs.ref, rule, words))

    def _edit_becomes_successor(self, item: _Item, done: Reconciled) -> None:
        if self._in_use(item.ref):
            raise LeaseHeld(f"{item.ref} was just handed out to be run.", "It stays for now.")
        rule = Rule.EDIT_BECOMES_SUCCESSOR
        self._folders.check(item.theirs.live, item.theirs.entries)  # before anything gives way
        chosen = self._journal.choices.is_for_review(item.ref.playbook_id)
        kept, why = self._keep_edit(item, Strategy.REVIEW if chosen else None)
        if kept is None:
            words = (
                f"{item.ref} was edited here and can't become a version ({why});"
                " a copy is kept, and the published content has come back."
            )
            note = partial(self._note, item, rule, words, "theirs", done)
            if self._folders.drop(item.ref, copy="always", on_kept=note) is None:
                note()  # there was nothing to keep
            self._bring(item, done)
            return
        how = "for review" if chosen else "kept private until you choose (publish --as)"
        words = f"{item.ref} was edited here: the edit is {kept} now, {how}."
        self._journal.conflicts.note(item.ref, rule, words, f"ours is {kept}")
        drop_kept(self._journal, self._folders, item.ref, kept, rule, "theirs")
        self._bring(item, done)
        done.conflicts.append(Decided(item.ref, rule, words))

    def _open_conflict(self, item: _Item, done: Reconciled) -> None:
        there = item.theirs.there
        words = (
            f"The server already holds {item.ref} with other content (revision {there.revision})."
        )
        self._open(item.theirs, Rule.OPEN_CONFLICT, words, done)
        self._hold(item, SyncState.CONFLICT, f"{words} {CONFLICT_REMEDY}")

    def _theirs_is_gone(self, item: _Item, done: Reconciled) -> None:
        """Nothing stands in the way any more: what was asked before the conflict goes on."""
        if self._theirs_deleted([item.ref], "theirs was deleted", done):
            return
        self._set(item, **state_after_conflict(item.row))
        done.updated.append(item.ref)

    def _theirs_deleted(self, refs: Collection[Ref], words: str, done: Reconciled) -> bool:
        """Settle the conflicts of deleted versions; answers whether one was of a whole id.

        Others of the id may wait with that one: the end of a full pass tells.
        """
        whole = {
            conflict.ref
            for conflict in self._journal.conflicts.open_ones()
            if conflict.kind == Rule.PRIVATE_ID and conflict.ref in refs
        }
        done.unnamed.extend(whole)
        self._journal.conflicts.settle([ref for ref in refs if ref not in whole], words)
        return bool(whole)

    # -- inside -----------------------------------------------------------------------------
    def _bring(self, item: _Item, done: Reconciled) -> None:
        """Theirs in the place that is free now; a failure here is made good by the backlog."""
        errors = self._folders.take_in([(item.theirs.live, item.theirs.entries)])
        if errors:
            raise errors[item.ref]
        self._journal.conflicts.settle([item.ref], "theirs")
        done.pulled.append(item.ref)

    def _hold(self, item: _Item, state: SyncState, words: str, **values: Any) -> None:
        """Keep in the row why it does not go on as it was asked for."""
        told = {"error_type": "Conflict", "error": words, "sync_state": state}
        self._set(item, **{**values, **NO_ERROR, **told})

    def _set(self, item: _Item, **values: Any) -> None:
        if not self._journal.versions.set(item.ref, lease=item.lease, **values):
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
    ) -> Iterator[tuple[dict[Ref, VersionRecord], Held[Ref]]]:
        """The rows, read again under the leases that could be had."""
        known = self._journal.versions.get_many(list(wanted))
        with self._journal.leases.holding(VERSION, known) as held:
            yield self._journal.versions.get_many(list(wanted)), held


def _lost(ref: Ref) -> LeaseHeld:
    return LeaseHeld(f"{ref} is just being worked on.", "It is taken in with a later sync.")


@contextmanager
def _failing(ref: Ref, done: Reconciled) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 — an item's mistake is its own, never its batch's
        done.failed[ref] = error
