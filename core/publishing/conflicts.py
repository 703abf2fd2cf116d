"""Open conflicts with the server: settled by the user's choice, or by what has changed since.

A choice (`ConflictResolver`)::

    as_version V    ours becomes id@V (published next, if it was to be), theirs comes in
    rename ID       ours becomes ID@version, theirs comes in
    take "theirs"   a copy of ours is kept under conflicts/, theirs comes in

Theirs comes as any version of another machine does: metadata at once, content when it is wanted. Where
the server claims other content for a name that stands for ours, only theirs can be taken: the name is
pinned anew. The conflict of an id that was private here is about all its versions: ``rename`` moves
all of ours, "theirs" stands beside ours.

At the end of each pull (`settle_what_is_over`)::

    both sides agree, or ours is gone and theirs came     settled
    ours is gone, or was made anew; ours is an edit       the next full pass decides again (once)
    a version that waited for a conflict that is over     goes on as it was asked for
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from core.errors import (
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    Refused,
    TransientError,
    UsageError,
)
from core.journal import Journal
from core.journal.conflicts import ConflictRecord, KeptCopy
from core.journal.leases import VERSION
from core.journal.pins import SERVER
from core.journal.pulls import Name
from core.journal.versions import VersionRecord
from core.models import RESERVED_PREFIX, Area, Ref, SyncState, check_id, parse_version
from core.playbooks.remote_versions import RemoteVersions
from core.publishing.batch import NO_ERROR, set_rows
from core.publishing.conflict_rules import Rule
from core.publishing.feed import Theirs, find_theirs
from core.server.client import EscherServer

ASKED_FOR = "full_pass_asked_for"  # in the journal's facts: a digest of the conflicts that did
THEIRS = "theirs"
_HOW = "Give one of --as-version V, --rename ID and --take theirs."


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose; `UsageError` when that is not one thing, or no version or id."""

    as_version: str | None = None
    rename: str | None = None
    take: str | None = None

    def __post_init__(self) -> None:
        if sum(chosen is not None for chosen in (self.as_version, self.rename, self.take)) != 1:
            raise UsageError("A conflict is settled by one choice.", _HOW)
        if self.take not in {None, THEIRS}:
            raise UsageError(f"Only theirs can be taken, not {self.take!r}.", _HOW)
        try:
            if self.as_version is not None:
                parse_version(self.as_version)
            if self.rename is not None:
                check_id(self.rename)
        except InvalidPlaybook as error:  # of a request, not of a playbook
            raise UsageError(error.detail, error.remedy) from error


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a conflict was settled: what ours is now, or where its copy is, and whether theirs came."""

    ref: Ref
    resolution: str
    kept_as: Ref | None = None
    folder: str | None = None
    theirs_came: bool = False
    moved: tuple[Ref, ...] = ()  # all versions of an id that was renamed

    @property
    def changed(self) -> list[Ref]:
        """The versions that are to be indexed, and published where that was asked for."""
        came = [self.ref] if self.theirs_came else []
        ours = self.moved or ((self.kept_as,) if self.kept_as else ())
        return [*ours, *came]

    def as_json(self) -> dict[str, Any]:
        return {
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "resolution": self.resolution,
            "kept_as": str(self.kept_as) if self.kept_as else None,
            "folder": self.folder,
        }


class ConflictResolver:
    """Settles open conflicts by the user's choice."""

    def __init__(self, journal: Journal, folders: RemoteVersions, server: EscherServer) -> None:
        self._journal = journal
        self._folders = folders
        self._server = server

    def find(self, ref: Ref) -> ConflictRecord:
        """Return the open conflict of a version, else that of its id; raises `NotFound`."""
        conflict = self._journal.conflicts.open_of(ref)
        if conflict is None:
            of_id = self._journal.conflicts.open_of_id(ref.playbook_id)
            conflict = next((c for c in of_id if c.kind == Rule.PRIVATE_ID), None)
        if conflict is None:
            raise NotFound(
                f"{ref} has no open conflict.", "`escher-playbooks conflicts` lists them."
            )
        return conflict

    def resolve(self, ref: Ref, choice: Choice) -> Resolution:
        """Settle the open conflict of ``ref``; again after a crash, it goes on where it was.

        Raises `NotFound` (no open conflict), `AlreadyExists` (the new name is taken), `Refused`
        (nothing to take, or not what the conflict shows), `LeaseHeld`, or a `TransientError` when
        the server has to be asked.
        """
        conflict = self.find(ref)
        if conflict.kind == Rule.PRIVATE_ID and choice.rename is not None:
            return self._rename_all(conflict, choice.rename)
        theirs = self._ask(conflict, ref, choice)
        with self._leased(ref) as record:
            if theirs is not None:
                self._folders.check(theirs.live, theirs.entries)  # before ours gives way
            if choice.take is not None:
                return self._take(ref, conflict, theirs)
            return self._keep_both(ref, record, choice, theirs, conflict)

    def _ask(self, conflict: ConflictRecord, ref: Ref, choice: Choice) -> Theirs | None:
        """The server's side; offline it comes with the next full pass, unless it is to be taken."""
        try:
            theirs = find_theirs(self._server, ref)
            if theirs is None and conflict.ref != ref:
                if self._journal.versions.get(ref) is None:
                    raise NotFound(
                        f"There is no {ref}, here or on the server.",
                        f"The conflict is {conflict.ref}'s, and all versions' of that id.",
                    )
                theirs = find_theirs(self._server, conflict.ref)
        except TransientError:
            if choice.take is not None:
                raise
            self._journal.pull_state.want_full_pass("a conflict was settled while offline")
            return None
        shown = conflict.server_digest
        if (
            choice.take is not None
            and theirs is not None
            and theirs.ref == conflict.ref
            and shown not in {None, theirs.there.digest}
        ):
            self._journal.conflicts.open(
                conflict.ref, conflict.kind, conflict.reason,
                server_revision=theirs.there.revision, server_digest=theirs.there.digest,
            )  # fmt: skip
            raise Refused(
                f"The server changed its side of {conflict.ref} again: it is"
                f" {theirs.there.digest} now, not {shown}.",
                "Look at the conflict again before you take it.",
            )
        return theirs

    def _take(self, ref: Ref, conflict: ConflictRecord, theirs: Theirs | None) -> Resolution:
        if theirs is None:
            raise Refused(
                f"The server does not hold {ref} any more: there is nothing to take.",
                "Sync again: where nothing stands against it, ours goes on.",
            )
        words = f"{theirs.ref}: theirs was taken."
        note = partial(self._journal.conflicts.note, theirs.ref, "resolved", words, "take theirs")
        pinned = self._journal.pins.get(theirs.ref)
        if pinned not in {None, theirs.there.digest}:
            self._journal.pins.replace(theirs.ref, theirs.there.digest)
        copy = self._folders.drop(theirs.ref, copy="always", on_kept=note)
        self._bring(theirs)
        self._settle(conflict, "take theirs")
        folder = copy.folder if copy else None
        return Resolution(theirs.ref, "take theirs", folder=folder, theirs_came=True)

    def _keep_both(
        self,
        ref: Ref,
        record: VersionRecord | None,
        choice: Choice,
        theirs: Theirs | None,
        conflict: ConflictRecord,
    ) -> Resolution:
        if record is None:
            raise NotFound(f"{ref} is not here any more.", "Sync: the server's version comes then.")
        if conflict.kind == Rule.IMMUTABLE:
            raise UsageError(
                f"{ref} was published: its name can't be given to anything else.",
                "Take theirs, or leave it: the known content goes on being used.",
            )
        if (choice.rename or ref.playbook_id, choice.as_version or ref.version) == ref:
            raise UsageError(f"{ref} is the name both sides hold.", "Give another one.")
        kept = self._folders.keep_as(
            ref,
            playbook_id=choice.rename,
            version=choice.as_version,
            strategy=record.publish_as,
        )
        words = f"ours is {kept}"
        copy = drop_kept(self._journal, self._folders, ref, kept, "resolved", words)
        if conflict.kind == Rule.PRIVATE_ID and conflict.server_digest is not None:
            # the user lets theirs stand beside ours: the id is private no more
            self._journal.pins.put([(conflict.ref, conflict.server_digest)], SERVER)
        if theirs is not None:
            self._bring(theirs)
        self._settle(conflict, words)
        folder = copy.folder if copy else None
        return Resolution(ref, words, kept_as=kept, folder=folder, theirs_came=theirs is not None)

    def _rename_all(self, conflict: ConflictRecord, playbook_id: str) -> Resolution:
        """Every version of ours moves to another id; theirs come with the next pull."""
        old = conflict.ref.playbook_id
        if playbook_id == old:
            raise UsageError(f"{old} is the id both sides have.", "Give another one.")
        moved: list[Ref] = []
        words = f"ours is {playbook_id}"
        for row in sorted(self._journal.versions.of_playbook(old), key=lambda row: row.ref):
            with self._leased(row.ref) as record:
                if record is None:
                    continue
                kept = self._folders.keep_as(
                    row.ref, playbook_id=playbook_id, strategy=record.publish_as
                )
                drop_kept(self._journal, self._folders, row.ref, kept, "resolved", words)
                moved.append(kept)
        theirs = None
        with suppress(TransientError):
            theirs = find_theirs(self._server, conflict.ref)
        if theirs is not None:
            self._bring(theirs)
        self._settle(conflict, words)
        return Resolution(
            conflict.ref,
            words,
            kept_as=moved[0] if moved else None,
            theirs_came=theirs is not None,
            moved=tuple(moved),
        )

    def _settle(self, conflict: ConflictRecord, words: str) -> None:
        """Close it; of an id, what else waits with it comes with a full pass."""
        self._journal.conflicts.settle([conflict.ref], words)
        if conflict.kind == Rule.PRIVATE_ID:
            self._journal.pull_state.want_full_pass(f"{conflict.ref.playbook_id} is shared now")

    def _bring(self, theirs: Theirs) -> None:
        """What fails here is made good by the next pull: an open conflict without a row."""
        errors = self._folders.take_in([(theirs.live, theirs.entries)])
        if errors:
            raise errors[theirs.ref]

    @contextmanager
    def _leased(self, ref: Ref) -> Iterator[VersionRecord | None]:
        with self._journal.leases.holding(VERSION, [ref]) as held:
            record = self._journal.versions.get(ref)
            if record is not None and ref not in held:
                raise LeaseHeld(f"{ref} is just being worked on.", "Try again in a moment.")
            yield record


def state_after_conflict(row: VersionRecord) -> dict[str, Any]:
    """Return the row's values once its conflict is over: it goes on as it was asked for before."""
    if row.is_published:
        return NO_ERROR | {"sync_state": SyncState.PUBLISHED}
    strategy = row.chosen_strategy
    if strategy.is_uploaded and row.area is Area.LOCAL:
        return NO_ERROR | {"sync_state": SyncState.PENDING, "publish_as": strategy}
    return NO_ERROR | {"sync_state": SyncState.LOCAL, "publish_as": None}


def drop_kept(
    journal: Journal, folders: RemoteVersions, ref: Ref, kept: Ref, kind: str, resolution: str
) -> KeptCopy | None:
    """Remove a version whose edit is stored as ``kept``, and copy what is no part of that.

    Returns the copy, which is written down before anything goes; None where nothing was left over.
    """
    words = f"{ref}: a copy is kept of what is no part of {kept}."
    note = partial(journal.conflicts.note, ref, kind, words, resolution)
    return folders.drop(ref, copy="edits", kept_as=kept, on_kept=note)


def needs_full_pass(journal: Journal) -> bool:
    """Tell whether open conflicts need a full pass to be decided; true once for the same ones."""
    waiting, rows, private = _open_conflicts(journal)
    undecided = [
        f"{c.conflict_id} {_state_of(rows.get(c.ref))}"
        for c in waiting
        if _is_undecided(c, rows.get(c.ref), private)
    ]
    key = hashlib.sha256(" ".join(sorted(undecided)).encode()).hexdigest()
    if journal.facts.get(ASKED_FOR) == key:
        return False
    journal.facts.set(ASKED_FOR, key)
    return bool(undecided)


def _state_of(row: VersionRecord | None) -> str:
    """What a decision on a version depends on, of our side: once it moves, another is due."""
    return f"{row.sync_state} {row.deleting} {row.content_digest}" if row else "gone"


def private_id_words(theirs: Ref) -> str:
    """Say what stands against what, where an id that is private here is the server's, too."""
    return (
        f"The server has versions of {theirs.playbook_id}, which is private here"
        f" (such as {theirs}); ours goes on, theirs waits."
    )


@dataclass(frozen=True, slots=True)
class WholeFeed:
    """What a full pass found: every name, those not read, and theirs of ids private here."""

    names: Collection[Name]
    unread: Collection[Name]
    private: Mapping[Ref, Theirs]


def settle_what_is_over(journal: Journal, feed: WholeFeed | None) -> None:
    """Settle the conflicts that need no choice any more; the versions that waited go on.

    ``feed``: what the server has, after a full pass; else None.
    """
    waiting, rows, private = _open_conflicts(journal)
    over: list[Ref] = []
    for conflict in waiting:
        row = rows.get(conflict.ref)
        if conflict.kind != Rule.PRIVATE_ID:
            if _is_over(conflict, row) or _is_unseen(conflict, row, feed):
                over.append(conflict.ref)
        elif conflict.ref.playbook_id not in private:
            over.append(conflict.ref)
            # What waited with it is to be read again, also where this was a full pass: the id may
            # have become shared when theirs had been looked at already.
            journal.pull_state.want_full_pass(f"{conflict.ref.playbook_id} is shared")
        elif feed is not None and _has_no_version(conflict, feed):
            over.append(conflict.ref)
            _name_anew(journal, conflict, feed)
    journal.conflicts.settle(over, "over: it needs no choice any more")
    in_conflict = journal.versions.select(sync=SyncState.CONFLICT.value)
    if in_conflict:
        open_ = journal.conflicts.open_ones()
        refs = {conflict.ref for conflict in open_}
        ids = {c.ref.playbook_id for c in open_ if c.kind == Rule.PRIVATE_ID}
        free = [r for r in in_conflict if r.ref not in refs and r.ref.playbook_id not in ids]
        set_rows(journal, {row.ref: state_after_conflict(row) for row in free})


def _open_conflicts(
    journal: Journal,
) -> tuple[list[ConflictRecord], dict[Ref, VersionRecord], set[str]]:
    """The open conflicts, their versions' rows, and those of their ids that are private."""
    waiting = journal.conflicts.open_ones()
    rows = journal.versions.get_many([conflict.ref for conflict in waiting])
    return waiting, rows, journal.pins.private_ids(c.ref.playbook_id for c in waiting)


def _is_over(conflict: ConflictRecord, row: VersionRecord | None) -> bool:
    if conflict.kind == Rule.IMMUTABLE:
        return False
    return row is not None and row.sync_state is SyncState.PUBLISHED


def _is_unseen(conflict: ConflictRecord, row: VersionRecord | None, feed: WholeFeed | None) -> bool:
    """Whether the server has lost its side."""
    if feed is None or conflict.ref.playbook_id.startswith(RESERVED_PREFIX):
        return False  # the feed never tells of the Escher Library
    return conflict.ref not in feed.names and (row is None or conflict.kind == Rule.IMMUTABLE)


def _has_no_version(conflict: ConflictRecord, feed: WholeFeed) -> bool:
    """Whether the version that names a conflict of an id is not on the server any more."""
    playbook_id = conflict.ref.playbook_id
    unread = any(name[0] == playbook_id for name in feed.unread)
    return conflict.ref not in feed.private and not unread


def _name_anew(journal: Journal, conflict: ConflictRecord, feed: WholeFeed) -> None:
    """Let another of the server's versions name the conflict of its id, where one is left."""
    left = [ref for ref in feed.private if ref.playbook_id == conflict.ref.playbook_id]
    if left:
        theirs = feed.private[min(left)]
        journal.conflicts.open(
            theirs.ref,
            Rule.PRIVATE_ID,
            private_id_words(theirs.ref),
            server_revision=theirs.there.revision,
            server_digest=theirs.there.digest,
        )


def _is_undecided(conflict: ConflictRecord, row: VersionRecord | None, private: set[str]) -> bool:
    """Whether only the server can tell what is to become of it."""
    if conflict.kind == Rule.PRIVATE_ID:
        return conflict.ref.playbook_id not in private
    if conflict.kind == Rule.IMMUTABLE:
        return False
    if row is None or conflict.kind == Rule.EDIT_BECOMES_SUCCESSOR:
        return True
    return row.sync_state not in {SyncState.CONFLICT, SyncState.PUBLISHED}
