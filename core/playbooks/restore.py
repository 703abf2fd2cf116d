"""A published version's folder, brought back to what was published.

From what is still right in the folder and, for the rest, from the server's bytes; where those
can't be had now, ``metadata.json`` stands alone until they are wanted (`is_unfetched`). What is no
part of a playbook (a README, an editor's swap file) is carried along.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from core.encryption import Envelope
from core.errors import (
    EscherError,
    IntegrityError,
    LeaseHeld,
    NotFound,
    Refused,
)
from core.files import read_bytes, sha256_bytes
from core.journal import Intent, VersionRecord
from core.journal.versions import DiskFile, executables
from core.models import PARAMETERS_FILE, Ref
from core.playbooks.extras import carry
from core.playbooks.sealing import published_form, to_clear, with_defaults_of
from core.playbooks.stats import FolderStat, stat_folder
from core.playbooks.store import PlaybookStore
from core.playbooks.writer import FolderWriter, Stager, disk_files
from core.settings import Settings

Fetch = Callable[[Ref], Mapping[str, bytes]]
"""The published bytes of a version by path; `TransientError` when the server is out of reach."""

log = logging.getLogger(__name__)


class Restorer:
    """Writes published folders anew; safe to do twice, and to be killed in."""

    def __init__(self, store: PlaybookStore, envelope: Envelope, settings: Settings) -> None:
        self._store = store
        self._layout = store.layout
        self._versions = store.journal.versions
        self._envelope = envelope
        self._stager = Stager(store.layout, envelope)
        self._writer = FolderWriter(store.layout, store.journal, settings.run_path)

    def restore(self, ref: Ref, fetch: Fetch, seen: FolderStat, *, beside: bool = False) -> bool:
        """Bring the folder back to what was published; False when it had to stay without content.

        ``beside``: what stands beside the content stays there; else it is part of an edit.
        ``seen``: the folder as its edit was taken; another one holds an edit that was not, and is
        left (`LeaseHeld`). Raises `LeaseHeld` while a worker is at the version, `Refused` for one that is not published.
        """
        record = self._published(ref)
        rows = self._versions.files(ref)
        clear = self._still_right(record, rows)
        if len(clear) < len(rows):
            try:
                clear = self._complete(record, rows, clear, fetch(ref))
            except EscherError as error:
                log.warning("%s stands without its content for now: %s", ref, error.detail)
                self._replace(record, {}, rows, seen, beside=beside)
                return False
        self._replace(record, clear, rows, seen, beside=beside)
        return True

    def bring_back(self, ref: Ref, fetch: Fetch) -> None:
        """Write a published folder that vanished; raises what kept its content from coming."""
        record = self._published(ref)
        rows = self._versions.files(ref)
        self._replace(record, self._complete(record, rows, {}, fetch(ref)), rows, None)

    def put_back(self, record: VersionRecord, seen: FolderStat) -> None:
        """Bring the folder ``seen`` of a sensitive version back to what was sealed in it.

        Raises `NotFound` where its sealed content is nowhere any more.
        """
        rows = self._versions.files(record.ref)
        clear = self._still_right(record, rows)
        for row in rows:
            path = row.entry.path
            if path not in clear:
                kept = self._store.sealed_copy(record, path)
                if kept is None or _digest(path, kept) != row.entry.checksum:
                    raise NotFound(f"{record.ref} {path} is kept nowhere else.")
                clear[path] = kept
        self._replace(record, clear, rows, seen)

    # -- parts ------------------------------------------------------------------------------
    def _published(self, ref: Ref) -> VersionRecord:
        record = self._store.get(ref)
        if not record.is_published:
            raise Refused(
                f"{ref} is not published: there is nothing to restore it from.",
                "Restore it from a backup.",
            )
        return record

    def _still_right(self, record: VersionRecord, rows: tuple[DiskFile, ...]) -> dict[str, bytes]:
        """In clear, the files of the folder that are what was published."""
        folder = self._layout.folder(record.area, record.ref)
        right = {}
        for row in rows:
            try:
                clear = self._clear(record, row.entry.path, read_bytes(folder / row.entry.path))
                if _digest(row.entry.path, clear) == row.entry.checksum:
                    right[row.entry.path] = clear
            except EscherError:
                continue  # gone, a link, broken or sealed elsewhere: it is fetched
        return right

    def _clear(self, record: VersionRecord, path: str, disk: bytes) -> bytes:
        opened = to_clear(
            {path: disk},
            record.ref,
            record.generation,
            self._envelope,
            sensitive=record.sensitive,
            edited=True,
        )
        return opened[path]

    def _complete(
        self,
        record: VersionRecord,
        rows: tuple[DiskFile, ...],
        clear: Mapping[str, bytes],
        fetched: Mapping[str, bytes],
    ) -> dict[str, bytes]:
        """``clear`` with what it lacks from ``fetched``, each byte checked."""
        complete = {}
        for row in rows:
            path = row.entry.path
            content = clear.get(path, fetched.get(path))
            if content is None:
                raise NotFound(f"{record.ref} {path} could not be had.", "Sync again.")
            if _digest(path, content) != row.entry.checksum:
                raise IntegrityError(
                    f"{record.ref} {path} came with other bytes than were published.",
                    "Sync again; if it stays, tell the server's operator.",
                )
            complete[path] = content
        if PARAMETERS_FILE in complete and PARAMETERS_FILE not in clear:
            complete[PARAMETERS_FILE] = self._with_own_defaults(record, complete[PARAMETERS_FILE])
        return complete

    def _with_own_defaults(self, record: VersionRecord, published: bytes) -> bytes:
        """The defaults of sensitive parameters never left this machine: keep them where they are."""
        path = self._layout.folder(record.area, record.ref) / PARAMETERS_FILE
        try:
            return with_defaults_of(
                published, self._clear(record, PARAMETERS_FILE, read_bytes(path))
            )
        except EscherError:
            return published  # there is no own file, or it can't be read

    def _replace(
        self,
        record: VersionRecord,
        clear: Mapping[str, bytes],
        rows: tuple[DiskFile, ...],
        seen: FolderStat | None,
        *,
        beside: bool = False,
    ) -> None:
        """Let the content take the place of the folder ``seen``; None: of nothing."""
        ref = record.ref
        place = self._layout.place(record.area, ref, itself=False)
        self._writer.prepare()
        with self._store.leased([ref]):
            generation = record.generation + 1
            name = self._stager.write(ref, record.metadata, clear, generation)
            try:
                files = self._placed(name, clear, rows)
                with self._writer.locked():
                    current = self._versions.get(ref)
                    stands = stat_folder(place, 0, with_parent=False)
                    if current is None or _told(current) != _told(record) or not _is(stands, seen):
                        raise LeaseHeld(f"{ref} was changed meanwhile.", "Try again.")
                    paths = {row.entry.path for row in rows}
                    carry(
                        place,
                        self._layout.staged(name),
                        paths,
                        leftovers=bool(clear),
                        beside=beside,
                    )
                    there = current.area if seen is not None else None
                    renewed = replace(current, generation=generation)
                    intent = Intent(ref, "write", name, there, current.area, renewed, files)
                    failed = self._writer.apply([intent])
            except BaseException:
                self._writer.discard(name)
                raise
        if ref in failed:
            raise failed[ref]

    def _placed(
        self, name: str, clear: Mapping[str, bytes], rows: tuple[DiskFile, ...]
    ) -> tuple[DiskFile, ...]:
        if not clear:
            return tuple(DiskFile(row.entry, 0, 0, 0, 0) for row in rows)
        return disk_files(self._layout.staged(name), published_form(clear), executables(rows))


def _digest(path: str, clear: bytes) -> str:
    return sha256_bytes(published_form({path: clear})[path])


def _is(stands: FolderStat | None, seen: FolderStat | None) -> bool:
    if stands is None or seen is None:
        return stands is seen
    return stands.own_fingerprint == seen.own_fingerprint


def _told(record: VersionRecord) -> tuple[object, ...]:
    return record.area, record.generation, record.content_digest, record.metadata, record.revision
