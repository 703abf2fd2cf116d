"""Compare folders with the journal, and take those into it that it does not know.

`verify` reads every byte of every version and changes nothing. `adopt` rebuilds a lost journal from
disk: the folders are the truth for content; what only the journal knew (revisions, the latest generation
of encrypted content) is taken from the server's changes feed and from the envelopes themselves.
What the user had chosen is lost: a folder's strategy and status are requests, in ``synced/``, too,
until the server's feed says what they are. What is sealed is sensitive, whatever its flag says.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.content import programs
from core.encryption import Envelope, is_sealed, sealed_generation
from core.entry_scripts import by_rule
from core.errors import EscherError, InvalidPlaybook, UnsafePath, WrongKey, faults_of
from core.journal import VersionRecord
from core.models import (
    PARAMETERS_FILE,
    Area,
    FileEntry,
    Ref,
    content_digest,
    file_entries,
    parse_metadata,
)
from core.playbooks.decisions import Decided, split_requests
from core.playbooks.drafts import draft_from_folder
from core.playbooks.intents import rewrite_metadata
from core.playbooks.paths import FoundFolder, Layout
from core.playbooks.reader import PlaybookReader, is_unfetched
from core.playbooks.sealing import published_form, sealed_defaults, to_clear
from core.playbooks.validation import Limits
from core.playbooks.writer import STALE_STAGING_SECONDS

CHUNK = 200  # rows whose files are looked up in one query
_RECOVER = "It is finished by the next command that writes; `escher-playbooks verify` again then."


def adopt(reader: PlaybookReader) -> tuple[list[Ref], dict[Path, EscherError]]:
    """Take every unknown folder into the journal as it stands; the refs, and what can't be taken.

    On disk only fields of ``metadata.json`` that are not followed change. A second copy of a known
    version, and metadata without content in ``synced/`` (the changes feed brings it), are left
    alone.
    """
    rows: list[tuple[VersionRecord, tuple[FileEntry, ...]]] = []
    failed: dict[Path, EscherError] = {}
    with reader.locked():
        known = set(reader.journal.versions.refs())
        for found in reader.layout.find():
            if found.ref in known or (found.area is Area.SYNCED and is_unfetched(found.path)):
                continue
            try:
                with faults_of(str(found.path)):
                    row = _row(found, reader.envelope, reader.limits)
            except EscherError as error:
                failed[found.path] = error
            else:
                rows.append(row)
                known.add(row[0].ref)
                # an edited ``sensitive`` stays for the scan to find
                rewrite_metadata(found.path, row[0])
        with reader.journal.database.write() as connection:
            reader.journal.versions.put(rows, connection)
    return [record.ref for record, _ in rows], failed


def _row(
    found: FoundFolder, envelope: Envelope, limits: Limits
) -> tuple[VersionRecord, tuple[FileEntry, ...]]:
    draft = draft_from_folder(found.path, limits, stored=True)
    metadata = parse_metadata(draft.metadata)
    if found.ref is None or metadata.ref != found.ref:
        raise InvalidPlaybook(
            f"{found.path} holds {metadata.ref}.", "Rename the folder, or mend its metadata."
        )
    generation = generation_on_disk(draft.files)
    sensitive = metadata.sensitive or any(map(is_sealed, draft.files.values()))
    clear = to_clear(draft.files, found.ref, generation, envelope, sensitive=sensitive, edited=True)
    marked = programs(clear, draft.executable or ())
    files = file_entries(published_form(clear), marked)
    held, asked = split_requests(draft.metadata, Decided())
    if sensitive:  # an edited flag then differs from the row's, and is reported
        held["sensitive"] = True
    record = VersionRecord(
        found.ref,
        found.area,
        content_digest(held, files),
        held,
        generation=generation,
        # what stands in synced/ may be anybody's: `keys claim` says otherwise
        made_here=found.area is not Area.SYNCED,
        modes_known=True,
        intake="adopt",
        filled=by_rule(held, {file.path for file in files}),
        asked=asked,
    )
    return record, files


def generation_on_disk(disk: Mapping[str, bytes]) -> int:
    """The highest generation of what is sealed in a folder's files; 1 where nothing is."""
    found = [1]
    for path, content in disk.items():
        if is_sealed(content):
            found.append(sealed_generation(content, path))
        elif path == PARAMETERS_FILE:
            for text in sealed_defaults(content):
                try:
                    found.append(sealed_generation(base64.b64decode(text, validate=True), path))
                except binascii.Error as error:
                    raise InvalidPlaybook(
                        f"{path}: an encrypted default is not base64.", "Mend or remove it."
                    ) from error
    return max(found)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be; ``ref`` is None where no version is concerned."""

    ref: Ref | None
    path: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return {
            "ref": str(self.ref) if self.ref else None,
            "path": self.path,
            "what": self.what,
            "remedy": self.remedy,
        }


def verify(reader: PlaybookReader) -> list[Problem]:
    """Read every byte of every version and compare; nothing is changed.

    What looks wrong is looked at a second time under the store's lock, so that a version which is
    just being written is not reported.
    """
    versions = reader.journal.versions
    suspects: list[Ref] = []
    refs = versions.refs()
    for start in range(0, len(refs), CHUNK):
        part = refs[start : start + CHUNK]
        rows, files = versions.get_many(part), versions.files_many(part)
        suspects.extend(ref for ref, row in rows.items() if _check(reader, row, files.get(ref, ())))
    with reader.locked():
        problems = []
        for ref in suspects:
            if (row := versions.get(ref)) is not None:
                problems += _check(reader, row, versions.files(ref))
        problems += _unknown_folders(reader)
        problems += _left_behind(reader)
    return problems


def _check(
    reader: PlaybookReader, row: VersionRecord, files: tuple[FileEntry, ...]
) -> list[Problem]:
    folder = str(reader.layout.folder(row.area, row.ref))
    return [
        Problem(row.ref, folder, error.detail, _remedy(error, row))
        for error in reader.check_version(row, files)
    ]


def _remedy(error: EscherError, row: VersionRecord) -> str:
    if isinstance(error, WrongKey | UnsafePath):
        return error.remedy
    if row.is_published:
        return "It is published: `escher-playbooks sync` fetches it again; an edit is kept."
    return error.remedy


def _unknown_folders(reader: PlaybookReader) -> list[Problem]:
    layout, problems = reader.layout, []
    known = {row.ref: row.area for row in reader.journal.versions.select()}
    for found in layout.find():
        path = str(found.path)
        if found.ref is None:
            problems.append(
                Problem(None, path, "No version can have a folder of this name.", _rename(found))
            )
        elif found.ref not in known:
            problems.append(
                Problem(
                    found.ref,
                    path,
                    "The journal does not know this folder.",
                    f"Move it out of the store and take it in: escher-playbooks create {path}",
                )
            )
        elif known[found.ref] is not found.area:
            problems.append(
                Problem(
                    found.ref,
                    path,
                    f"A second copy: the journal knows {found.ref} in {known[found.ref]}/.",
                    "Compare the two and move this one away.",
                )
            )
    return problems


def _rename(found: FoundFolder) -> str:
    shape = "<id>-v<semver>" if found.area is Area.AI_GENERATED else "<id>/v<semver>"
    return f"Rename it to {shape}, or move it away."


def _left_behind(reader: PlaybookReader) -> list[Problem]:
    layout: Layout = reader.layout
    intents = reader.journal.intents.open()
    problems = [
        Problem(i.ref, str(layout.root), f"A {i.kind} was begun and not finished.", _RECOVER)
        for i in intents
    ]
    waiting = {intent.staged for intent in intents}
    for path in sorted(_listed(layout.staging)):
        age = time.time() - path.lstat().st_mtime
        if path.name.partition(".")[0] not in waiting and age > STALE_STAGING_SECONDS:
            problems.append(
                Problem(
                    None,
                    str(path),
                    "Left in staging by a process that was killed.",
                    "`escher-playbooks up` (or any recovery) removes it.",
                )
            )
    return problems


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
