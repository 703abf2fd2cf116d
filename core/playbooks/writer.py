"""Put folders in their place so that a kill at any instant loses nothing.

::

    staged folder, synced ──► lock ──► intent row ──► renames, synced ──► version row, intent gone
    (nothing to see yet)               └── from here the change is carried through, by this process
                                           or by the next one that takes the lock

`Stager` makes a checked draft a whole, synced folder in staging and the row that goes with it;
`FolderWriter` carries intents out (`core.playbooks.intents` says how each). The lock is an exclusive
``flock`` on ``<home>/run/store.lock``: the kernel releases it when its holder dies, so an intent that
is open while the lock is held belongs to a dead process and is replayed first.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.encryption import Envelope
from core.errors import (
    EscherError,
    StorageError,
    Unreadable,
    faults_of,
    storage_error,
)
from core.files import (
    fsync_dir,
    json_bytes,
    make_private_dir,
    remove_tree,
    write_tree,
)
from core.journal import Intent, Journal, VersionRecord
from core.models import (
    METADATA_FILE,
    Area,
    FileEntry,
    PlaybookDraft,
    PlaybookMetadata,
    Ref,
    Strategy,
    content_digest,
    file_entries,
)
from core.playbooks.checks import check_scripts
from core.playbooks.decisions import request_warnings
from core.playbooks.intents import FolderChanges, area_of, discard, staged_of
from core.playbooks.paths import OLD_SUFFIX, Layout
from core.playbooks.sealing import SealedCopies, published_form, to_disk
from core.playbooks.validation import draft_warnings
from core.playbooks.versioning import intake_of, is_decision, sync_fields

MAX_WARNINGS = 50
LOCK_SECONDS = 120.0
_STAGED = re.compile(r"[0-9a-f]{32}")
STALE_STAGING_SECONDS = 3600.0
# What a write decides; all else of a row that exists already is the publisher's and is kept.
_WRITTEN_FIELDS = (
    "area", "content_digest", "metadata", "generation", "fetched", "warnings", "sync_state", "publish_as",
    "publish_gate", "error_type", "error", "attempts", "next_attempt_at", "indexed_digest",
    "made_here", "modes_known", "intake", "asked", "filled",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a new row comes from.

    ``intake``: how it came in, see `core.journal.versions.VersionRecord`. ``check``: look through its
    scripts. ``old``: the row that it replaces. ``choice``: where the user lets it go; without it, new
    content under an old name goes where that was to go. ``extra``: warnings besides its own.
    """

    intake: str
    check: bool = True
    old: VersionRecord | None = None
    choice: Strategy | None = None
    extra: Sequence[str] = ()


class Stager:
    """Puts new folders together, several at a time and outside of any lock."""

    def __init__(self, layout: Layout, envelope: Envelope) -> None:
        self._layout = layout
        self._envelope = envelope

    def stage(self, draft: PlaybookDraft, area: Area, origin: Origin) -> Intent:
        """Write a normalised draft's folder into staging, synced, with the row that goes with it."""
        ref = PlaybookMetadata.model_validate(draft.metadata).ref
        old = origin.old
        generation = old.generation + 1 if old else 1
        marked = draft.executable or ()
        name = self.write(ref, draft.metadata, draft.files, generation, marked)
        files = file_entries(published_form(draft.files), marked)
        record = new_record(draft, area, files, generation, origin)
        return Intent(ref, "write", name, old.area if old else None, area, record, files)

    def write(
        self,
        ref: Ref,
        metadata: Mapping[str, Any],
        clear: Mapping[str, bytes],
        generation: int,
        executable: Collection[str],
    ) -> str:
        """Write a folder into staging, synced, sealed where it has to be; its name there."""
        sensitive = bool(metadata.get("sensitive"))
        disk = to_disk(clear, ref, generation, self._envelope, sensitive=sensitive)
        name = uuid.uuid4().hex
        whole = {METADATA_FILE: json_bytes(metadata), **disk}
        write_tree(self._layout.staged(name), whole, executable)
        return name


def new_record(
    draft: PlaybookDraft,
    area: Area,
    files: tuple[FileEntry, ...],
    generation: int,
    origin: Origin,
) -> VersionRecord:
    """The row of a normalised draft's content, made here, with what is odd about it."""
    metadata = PlaybookMetadata.model_validate(draft.metadata)
    wanted = sync_fields(origin.choice, area, origin.old, sensitive=metadata.sensitive)
    is_chosen = origin.choice is not None or wanted.get("publish_as") is not None
    requests = [] if is_chosen else request_warnings(metadata.ref, draft.asked)
    warnings = [*origin.extra, *requests, *draft_warnings(draft)]
    if origin.check:
        warnings.extend(warning.as_text() for warning in check_scripts(draft.files))
    return VersionRecord(
        metadata.ref,
        area,
        content_digest(draft.metadata, files),
        draft.metadata,
        generation=generation,
        warnings=tuple(warnings[:MAX_WARNINGS]),
        made_here=True,
        modes_known=True,
        intake=origin.intake,
        asked=draft.asked,
        filled=draft.filled,
        **wanted,
    )


def draft_digest(
    draft: PlaybookDraft, metadata: Mapping[str, Any], executable: Collection[str] | None = None
) -> str:
    """The content digest of a draft's files under ``metadata``; ``executable``: else its own."""
    marked = executable if executable is not None else draft.executable or ()
    return content_digest(metadata, file_entries(published_form(draft.files), marked))


class FolderWriter:
    """Carries intents out, and replays those of a process that died."""

    def __init__(self, layout: Layout, journal: Journal, run_path: Path) -> None:
        self._layout = layout
        self._journal = journal
        self._run_path = run_path
        self._changes = FolderChanges(layout)
        self._copies = SealedCopies(layout.sealed)

    def prepare(self) -> None:
        """Make the folders that every write needs."""
        for folder in (self._layout.staging, *(self._layout.area(area) for area in Area)):
            if not folder.is_dir():
                make_private_dir(folder)
                self._sync({folder.parent, self._layout.root.parent})

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The store's lock; gives the number of intents that were replayed first."""
        make_private_dir(self._run_path)
        lock = FileLock(
            self._run_path / "store.lock", timeout=LOCK_SECONDS, mode=0o600, poll_interval=0.01
        )
        try:
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"The store's lock {lock.lock_file} was held for {LOCK_SECONDS:.0f} s.",
                "Another process is writing, or hangs; `escher-playbooks status` shows it.",
            ) from error
        except OSError as error:
            raise storage_error(error, "Taking the store's lock") from error
        try:
            self.prepare()
            yield self._replay()
        finally:
            lock.release()

    def apply(self, intents: Sequence[Intent]) -> dict[Ref, EscherError]:
        """Carry out changes under the lock; the errors of those that failed and were taken back.

        Raises `StorageError` when nothing could be begun, or when the journal could not be
        written at the end: then everything was taken back as far as the disk allows it.
        """
        if not intents:
            return {}
        intents = [self._with_inode(intent) for intent in intents]
        self._journal.intents.begin(intents)
        done: list[Intent] = []
        failed: dict[Ref, EscherError] = {}
        for intent in intents:
            try:
                self._changes.carry_out(intent)
                done.append(intent)
            except EscherError as error:
                failed[intent.ref] = error
                self._changes.take_back(intent)
        try:
            self._sync_places(done)
            self._commit(done, closing=[intent.ref for intent in intents])
        except BaseException:
            for intent in done:
                self._changes.take_back(intent)
            raise
        self._keep_sealed(done)
        self._tidy(intents)
        return failed

    def _with_inode(self, intent: Intent) -> Intent:
        """A ``write`` with what its folder is known by when it stands in its place."""
        if intent.kind == "write":
            with contextlib.suppress(OSError):  # it is not there: carrying it out says so
                return replace(intent, inode=self._layout.staged(staged_of(intent)).lstat().st_ino)
        return intent

    def recover(self) -> int:
        """Replay what a dead process left open and clear the staging; how many were replayed."""
        with self.locked() as replayed:
            waiting = {intent.staged for intent in self._journal.intents.open()}
            try:
                for path in list(self._layout.staging.iterdir()):
                    name, dot, _ = path.name.partition(".")
                    if not _STAGED.fullmatch(name):
                        continue  # of somebody else, whose folder playbooks_dir names
                    # a young one without a suffix may be another process' that is still staging
                    age = time.time() - path.lstat().st_mtime
                    if name not in waiting and (dot or age > STALE_STAGING_SECONDS):
                        remove_tree(path)
            except OSError as error:
                raise storage_error(error, "Clearing the staging folder") from error
        return replayed

    def apply_one(self, intent: Intent) -> None:
        """`apply` for one change; raises what it was taken back for."""
        for error in self.apply([intent]).values():
            raise error

    @contextmanager
    def discarding(self, *staged: str | None) -> Iterator[None]:
        """Forget these staged folders when the block, which is to put them in place, fails."""
        try:
            yield
        except BaseException:
            for name in staged:
                if name is not None:
                    self.discard(name)
            raise

    def discard(self, staged: str) -> None:
        """Forget a staged folder that came to nothing."""
        try:
            discard(self._layout.staged(staged))
        except OSError as error:  # harmless: `recover` removes it after an hour
            log.warning("staged folder %s stays behind: %s", staged, error.strerror)

    # -- the journal ------------------------------------------------------------------------
    def _commit(self, done: Sequence[Intent], closing: Sequence[Ref]) -> None:
        """Write the rows of what was done and close the intents, in one transaction."""
        versions = self._journal.versions
        kept = [intent for intent in done if intent.record is not None]
        with self._journal.database.write() as connection:
            current = versions.get_many([intent.ref for intent in kept])
            versions.put(
                [(_merged(current.get(intent.ref), intent), intent.files) for intent in kept],
                connection,
            )
            gone = [intent.ref for intent in done if intent.kind == "delete"]
            if gone:
                versions.delete(gone, connection)
            self._journal.intents.finish(closing, connection)

    def _keep_sealed(self, done: Sequence[Intent]) -> None:
        """Keep a second copy of what was sealed; drop that of what is gone or in clear now."""
        self._copies.forget(i.ref for i in done if i.record is None or not i.record.sensitive)
        for intent in done:
            record = intent.record
            if record is not None and record.sensitive and intent.kind == "write":
                place = self._layout.folder(area_of(intent.to_area), intent.ref)
                self._copies.keep(record, place, [f.path for f in intent.files if record.fetched])
        held = {edit.ref: edit for edit in self._journal.held_edits.entries()}
        for intent in done:
            if intent.kind == "delete" and intent.ref in held:
                self._journal.held_edits.remove(intent.ref)

    # -- replay -----------------------------------------------------------------------------
    def _replay(self) -> int:
        intents = self._journal.intents.open()
        if not intents:
            return 0
        done: list[Intent] = []
        closing: list[Ref] = []
        for intent in intents:
            try:
                with faults_of(str(intent.ref)):
                    if self._changes.carry_through(intent):
                        done.append(intent)
                closing.append(intent.ref)
            except (StorageError, Unreadable) as error:
                # stays open: the disk may be full for a while, the mistake be one of ours
                log.warning("%s waits to be recovered: %s", intent.ref, error)
            except EscherError as error:
                log.warning("%s of %s was given up: %s", intent.kind, intent.ref, error)
                closing.append(intent.ref)
        if not closing:
            return 0
        self._sync_places(done)
        self._commit(done, closing)
        self._keep_sealed(done)
        self._tidy([intent for intent in intents if intent.ref in closing])
        log.info("recovered %d changes of an earlier process", len(done))
        return len(done)

    # -- durability and leftovers -----------------------------------------------------------
    def _sync_places(self, intents: Sequence[Intent]) -> None:
        folders = {self._layout.staging}
        for intent in intents:
            for area in {intent.from_area, intent.to_area} - {None}:
                parent = self._layout.folder(area_of(area), intent.ref).parent
                folders.update({parent, self._layout.area(area_of(area))})
        self._sync(folders)

    def _sync(self, folders: set[Path]) -> None:
        try:
            for folder in folders:
                if folder.is_dir():
                    fsync_dir(folder)
        except OSError as error:
            raise storage_error(error, "Syncing the playbooks' folders") from error

    def _tidy(self, intents: Sequence[Intent]) -> None:
        """Remove what stepped aside, and playbook folders that hold no version any more."""
        for intent in intents:
            if intent.staged is not None:
                self.discard(intent.staged)
                self.discard(intent.staged + OLD_SUFFIX)
            if intent.from_area in {Area.LOCAL, Area.SYNCED}:
                with contextlib.suppress(OSError):  # other versions stand there: it stays
                    self._layout.folder(area_of(intent.from_area), intent.ref).parent.rmdir()


def _merged(current: VersionRecord | None, intent: Intent) -> VersionRecord:
    wanted = intent.record
    assert wanted is not None
    if current is None:
        return wanted
    if intent.kind == "move":
        moved = replace(current, area=wanted.area, metadata=wanted.metadata)
        if is_decision(intent.from_area, intent.to_area):
            moved = replace(
                moved,
                sync_state=wanted.sync_state,
                publish_as=wanted.publish_as,
                publish_gate=wanted.publish_gate,
            )
        return moved
    written = {name: getattr(wanted, name) for name in _WRITTEN_FIELDS}
    return replace(current, **written | {"intake": intake_of(str(wanted.intake), [current])})
