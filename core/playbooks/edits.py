"""Take in what people did to the playbook folders with an editor, a copy or a move.

::

    edited, unpublished   the row comes to say what the folder holds         (intent ``take``)
                          … written anew where a part of it must be sealed   (intent ``write``)
    tampered, sensitive   what was laid there is held, sealed; the content is brought back
    edited, published     stored as the next free patch, for review where the user ever chose that
                          for the id; then the published one is restored
    added                 a row for the folder as it stands, or sealed
    moved, renamed        the row follows; a published version's folder goes back to its place
    vanished              unpublished: the row goes, and its point; published: fetched again

Each is done under the store's lock and only while the folder still stands as it was read; what
changes meanwhile is left to the next scan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from core.errors import (
    EscherError,
    InvalidPlaybook,
    LeaseHeld,
    NotFound,
    TransientError,
    Unchanged,
    faults_of,
)
from core.files import read_bytes
from core.journal import Intent, VersionRecord
from core.models import PARAMETERS_FILE, Area, Move, Ref, executables, file_entries, is_higher
from core.playbooks.compare import FolderStat, State, read_metadata
from core.playbooks.decisions import Decided, new_requests, split_requests
from core.playbooks.entry_points import draft_makes
from core.playbooks.folder_copies import carry_extras
from core.playbooks.held import HeldEdits, find_tampering
from core.playbooks.intake import Edit, Intake, choice_kept
from core.playbooks.paths import FoundFolder
from core.playbooks.restore import Fetch, FolderMover, Restorer
from core.playbooks.scan import Moved, ScanResult
from core.playbooks.sealing import published_form, unflagged_defaults
from core.playbooks.store import PlaybookStore
from core.playbooks.versioning import (
    check_pin,
    check_unchanged,
    intake_of,
    strategy_of_successor,
    waits_for_decision,
)
from core.playbooks.writer import Origin, new_record
from core.secrets import SecretFinding, named
from core.settings import Settings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EditReport:
    """What became of a scan's findings.

    ``deferred``: it will be tried again by the next sync, with the reason; ``failed``: the user has
    to do something about it, with the reason. Keys are ``id@version``, or a folder's path.
    """

    updated: list[Ref] = field(default_factory=list)
    kept_as: dict[Ref, Ref] = field(default_factory=dict)  # published → the version of the edit
    added: list[Ref] = field(default_factory=list)
    moved: list[Ref] = field(default_factory=list)
    forgotten: list[Ref] = field(default_factory=list)
    restored: list[Ref] = field(default_factory=list)
    findings: dict[Ref, tuple[SecretFinding, ...]] = field(default_factory=dict)
    unfetched: list[Ref] = field(default_factory=list)  # restored, but for the content
    held: dict[str, str] = field(default_factory=dict)  # tampering with what is sealed: what
    waiting: dict[str, str] = field(default_factory=dict)  # stays here until the user chooses: why
    deferred: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> list[Ref]:
        """Versions whose content here is another than before."""
        return [*self.updated, *self.kept_as.values(), *self.added, *self.moved]


class Edits:
    """Takes in what a `ScanResult` names; safe to do twice."""

    def __init__(self, store: PlaybookStore, settings: Settings) -> None:
        self._store = store
        self._layout = store.layout
        self._journal = store.journal
        self._versions = store.journal.versions
        self._writer = store.writer
        self._compare = store.compare
        self._intake = Intake(store, store.envelope)
        self._restorer = Restorer(store)
        self._mover = FolderMover(store, self._intake)
        self._held = HeldEdits(store, settings.conflicts_path)

    def take(self, found: ScanResult, fetch: Fetch) -> EditReport:
        """Take in what a scan found; one that fails holds back no other.

        ``fetch`` is asked for the content of published versions; it may raise `TransientError`.
        Raises `StorageError` when the home can't be written.
        """
        report = EditReport()
        if not found.has_changes:
            return report
        self._writer.prepare()
        for item in found.moved:
            self._try(report, str(item.ref), partial(self._move, report, item, fetch))
        for folder in found.added:
            self._try(report, str(folder.path), partial(self._add, report, folder))
        for ref in found.tampered:
            self._try(report, str(ref), partial(self._hold, report, ref))
        for ref in found.edited:
            self._try(report, str(ref), partial(self._edit, report, ref, fetch))
        for ref in (*found.resealed, *found.owned):
            self._try(report, str(ref), partial(self._mend, report, ref, fetch))
        for ref in found.vanished:
            self._try(report, str(ref), partial(self._vanish, report, ref, fetch))
        return report

    @staticmethod
    def _try(report: EditReport, what: str, work: Callable[[], object]) -> None:
        try:
            with faults_of(what):
                work()
        except TransientError as error:
            report.deferred[what] = str(error)
        except EscherError as error:
            log.warning("%s is left as it is: %s", what, error.detail)
            report.failed[what] = str(error)

    # -- edited -----------------------------------------------------------------------------
    def _edit(self, report: EditReport, ref: Ref, fetch: Fetch) -> None:
        record = self._store.get(ref)
        self._tell_unflagged(report, record)
        if record.is_published:
            kept, seen = self._keep_as_next(record, fetch, report)
            if kept != ref:
                report.kept_as[ref] = kept
                self._tell_waiting(report, ref, kept)
            self._restore(report, ref, fetch, seen)
            return
        if self._hold(report, ref):
            return
        if record.deleting:
            return  # typed after the deletion was asked for: who removes it keeps a copy of that
        with self._store.leased([ref]):
            edit = self._intake.read_edit(record)
            if waits_for_decision(edit.draft.metadata, record):
                if record.area is not Area.AI_GENERATED:  # first the place: killed then, it waits
                    self._versions.withdraw([ref])
                    self._store.move([Move(ref, Area.AI_GENERATED, {})])
                    record = self._store.get(ref)
                    edit = self._intake.read_edit(record)
                report.waiting[str(ref)] = _undecided(ref)
            self._take(edit, report)
        report.updated.append(ref)
        if self._store.get(ref).sensitive and not record.sensitive:
            sent = record.uploaded_digest is not None
            gone = " Files of it were uploaded before; those can't be taken back." if sent else ""
            report.waiting[str(ref)] = f"{ref} is sensitive now: it is sealed and stays here.{gone}"

    def _tell_unflagged(self, report: EditReport, record: VersionRecord) -> None:
        """Report a sealed default of a parameter whose ``sensitive`` was edited; it stays sealed."""
        path = self._layout.folder(record.area, record.ref) / PARAMETERS_FILE
        if record.sensitive or not path.is_file():
            return
        if names := unflagged_defaults(read_bytes(path)):
            report.held[str(record.ref)] = (
                f"{record.ref} was tampered with: `sensitive` of {', '.join(names[:5])} was edited in"
                f" {PARAMETERS_FILE}. The defaults stay sealed, and the parameters sensitive."
            )

    def _hold(self, report: EditReport, ref: Ref) -> bool:
        """Hold what was done to a sensitive version's folder, and bring its content back.

        False where nothing was done that has to be held.
        """
        record = self._store.get(ref)
        place = FoundFolder(record.area, self._layout.folder(record.area, ref), ref)
        seen = self._compare.look(place.path, place.area)
        found = None if seen is None else find_tampering(self._store, record, seen)
        if seen is None or found is None:
            return False
        if not self._intake.is_still(place, seen):
            raise LeaseHeld(f"{ref} is being edited.", "It is looked at again.")
        held = self._held.hold(record, found)
        try:
            self._restorer.put_back(record, seen)
        except NotFound:
            # of a home from before, edited before its first sync: what was sealed is gone
            with self._store.leased([ref]):
                self._take(self._intake.read_edit(record), report)
            self._held.discard(held)
            report.updated.append(ref)
            report.held[str(ref)] = (
                f"{ref}: clear text was laid over its only sealed content; it is sealed and is the"
                " content now."
            )
            return True
        log.warning("%s", held.as_text())
        report.held[str(ref)] = held.as_text()
        return True

    def _keep_as_next(
        self, record: VersionRecord, fetch: Fetch, report: EditReport
    ) -> tuple[Ref, FolderStat]:
        """Store the edit of a published version as a version of its own; that, and what was read.

        A crash may have come between storing and restoring: the edit is stored once. But who brings
        a version back to what a lower one holds wants a next version of that.
        """
        ref = record.ref
        found = self._compare.look(self._layout.folder(record.area, ref), record.area)
        is_empty = bool(self._versions.files(ref)) and (found is None or not found.content())
        files = dict(fetch(ref)) if is_empty else None
        edit = self._intake.read_edit(record, files)
        same = edit.draft.metadata | {"version": ref.version}
        marked = executables(self._versions.files(ref))
        if draft_makes(edit.draft, same, str(record.published_digest), marked):
            return ref, edit.seen  # the flag of a sealed default was edited, and nothing else
        for row in self._versions.of_playbook(ref.playbook_id):
            if row.ref != ref and (row.deleting or not is_higher(row.ref.version, ref.version)):
                continue
            draft = edit.draft
            if draft_makes(
                draft, draft.metadata | {"version": row.ref.version}, row.content_digest
            ):
                return row.ref, edit.seen
        strategy = strategy_of_successor(self._journal, edit.draft.metadata, record)
        result = self._store.create_many(
            [edit.draft], area=edit.area, strategy=strategy, intake="edit"
        )[0]
        if result.error is not None and not isinstance(result.error, Unchanged):
            raise result.error
        _tell(report, result.ref, result.findings)
        return result.ref, edit.seen

    def _tell_waiting(self, report: EditReport, ref: Ref, kept: Ref) -> None:
        """Why an edit of a published version is not published, where that is so."""
        row = self._versions.get(kept)
        if row is None or row.is_published or row.publish_as is not None:
            return
        if row.sensitive:
            why = f"{kept} is sensitive: it is sealed and stays on this machine."
            if not self._store.get(ref).sensitive:
                why += f" The published copies of {ref} can't be taken back."
        elif row.area is Area.AI_GENERATED:
            why = _undecided(kept)
        else:
            why = (
                f"Nobody chose review for {ref.playbook_id} on this machine: it is kept private."
                f" Choose with `escher-playbooks publish {kept} --as review`; later edits follow."
            )
        report.waiting[str(kept)] = why

    def _restore(
        self, report: EditReport, ref: Ref, fetch: Fetch, seen: FolderStat, *, beside: bool = False
    ) -> None:
        self._store.handed_out.check(ref)
        if self._restorer.restore(ref, fetch, seen, beside=beside):
            report.restored.append(ref)
        else:
            report.unfetched.append(ref)

    def _mend(self, report: EditReport, ref: Ref, fetch: Fetch) -> None:
        """The content is right, its form is not: fields of the server, or a secret in clear."""
        record = self._store.get(ref)
        if record.is_published:
            found = self._compare(record, self._versions.files(ref))
            if found.seen is None or found.state not in {State.OWNED, State.CLEAR}:
                raise LeaseHeld(f"{ref} is being edited.", "It is looked at again.")
            self._keep_requests(record)
            self._restore(report, ref, fetch, found.seen, beside=True)
            return
        with self._store.leased([ref]):
            self._take(self._intake.read_edit(record), report)
        report.updated.append(ref)

    def _keep_requests(self, record: VersionRecord) -> None:
        """Note what a hand's edit of the server's fields asked for; they come back as they were."""
        try:
            disk = read_metadata(self._layout.folder(record.area, record.ref))
            asked = {
                **record.asked,
                **split_requests(
                    new_requests(disk, record), Decided(record.strategy, record.status)
                )[1],
            }
        except EscherError:
            return  # no strategy or status at all: nothing that could be asked for
        if asked != record.asked:
            self._versions.set(record.ref, asked=asked)

    # -- added and moved --------------------------------------------------------------------
    def _add(self, report: EditReport, folder: FoundFolder) -> None:
        edit = self._intake.read_added(folder)
        if edit.draft.metadata["author"] == "ai_generated" and edit.area is Area.LOCAL:
            # a copy is no decision; nobody has made one yet. Killed after it, it is found there
            edit = self._intake.read_added(self._mover.to_undecided(edit))
        self._take(edit, report)
        report.added.append(edit.ref)

    def _move(self, report: EditReport, moved: Moved, fetch: Fetch) -> None:
        record = self._store.get(moved.ref)
        is_renamed = moved.folder.ref != moved.ref
        if is_renamed and self._is_tampered(record, moved.folder):
            with self._store.leased([moved.ref]):
                self._mover.rename_back(moved.folder, record)
            self._hold(report, moved.ref)
            return
        with self._store.leased([moved.ref]):
            if is_renamed:
                edit = self._intake.read_added(moved.folder, record)
                if waits_for_decision(edit.draft.metadata, record):
                    if edit.area is not Area.AI_GENERATED:
                        edit = self._intake.read_added(self._mover.to_undecided(edit), record)
                    report.waiting[str(edit.ref)] = _undecided(edit.ref)
                self._take(edit, report)
                self._forget(moved.ref)
                report.forgotten.append(moved.ref)
                report.moved.append(edit.ref)
                return
            stands = {record.area, moved.folder.area} == {Area.LOCAL, Area.AI_GENERATED}
            waits = waits_for_decision(record.metadata, record)
            follow = stands and not waits and not record.is_published
            self._mover.settle(record, moved.folder.area, follow=follow)
            if waits:
                report.waiting[str(moved.ref)] = _undecided(moved.ref)
        report.moved.append(moved.ref)
        there = self._store.get(moved.ref)  # it may have been edited on its way
        found = self._compare(there, self._versions.files(moved.ref))
        if found.state is State.EDITED and found.error is None:
            self._edit(report, moved.ref, fetch)

    def _is_tampered(self, record: VersionRecord, folder: FoundFolder) -> bool:
        seen = self._compare.look(folder.path, folder.area)
        return seen is not None and bool(find_tampering(self._store, record, seen, folder.path))

    # -- vanished ---------------------------------------------------------------------------
    def _vanish(self, report: EditReport, ref: Ref, fetch: Fetch) -> None:
        record = self._versions.get(ref)
        if record is None:
            return
        if record.is_published:
            self._restorer.bring_back(ref, fetch)
            report.restored.append(ref)
            return
        with self._store.leased([ref]):
            self._forget(ref)
        report.forgotten.append(ref)

    def _forget(self, ref: Ref) -> None:
        """Remove the row of an unpublished version whose folder is gone, and note its point."""
        with self._writer.locked():
            record = self._versions.get(ref)
            if record is None:
                return
            if record.is_published or self._layout.areas_with(ref):
                raise LeaseHeld(f"{ref} is there again.", "It is looked at again.")
            with self._journal.database.write() as connection:
                self._versions.delete([ref], connection)

    # -- taking in --------------------------------------------------------------------------
    def _take(self, edit: Edit, report: EditReport) -> None:
        """Write the row of what lies in the folder; seal it first where it has to be."""
        secrets, published = self._store.secrets, published_form(edit.draft.files)
        secrets.keep(secrets.scan_new(edit.draft.metadata, published))
        name, marked = None, edit.draft.executable or frozenset()
        if edit.must_be_written:
            name = self._store.stager.write(
                edit.ref, edit.draft.metadata, edit.draft.files, edit.generation + 1, marked
            )
        with self._writer.discarding(name):
            files = file_entries(published, marked)
            old = edit.former if edit.former and edit.former.ref == edit.ref else None
            renamed = choice_kept(edit.former, edit.ref) if edit.former and not old else None
            intake = intake_of("edit", [edit.former]) if edit.former else "adopt"
            origin = Origin(intake, old=old, choice=renamed)
            record = self._store.with_gate(
                new_record(edit.draft, edit.area, files, edit.generation + 1, origin),
                old.publish_gate if old is not None else None,
            )
            kind = "take" if name is None else "write"
            intent = Intent(edit.ref, kind, name, edit.area, edit.area, record, files)
            check_pin(self._versions, edit.ref, record.content_digest)
            with self._writer.locked():
                if old is not None:
                    check_unchanged(self._versions, old)
                elif self._versions.get(edit.ref) is not None:
                    raise InvalidPlaybook(f"{edit.ref} exists already.", "Give another version.")
                if not self._intake.is_still(edit.found, edit.seen):
                    raise LeaseHeld(f"{edit.found.path} is being edited.", "It is read again.")
                if name is not None:  # only now: a hard link changes the ctime
                    carry_extras(edit.found.path, self._layout.staged(name), edit.draft.files)
                self._writer.apply_one(intent)
        _tell(report, edit.ref, secrets.findings_of(record, files))


def _undecided(ref: Ref) -> str:
    return f"An AI wrote it: decide (escher-playbooks decide {ref} keep|review|trusted)."


def _tell(report: EditReport, ref: Ref, findings: tuple[SecretFinding, ...]) -> None:
    """Note what the scan found in an edit, in the log too: nothing of it has left yet."""
    if findings:
        report.findings[ref] = findings
        log.warning("%s may hold secrets: %s", ref, named(findings))
