"""Every row against its folder, every folder against its row, and what was left half-way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import EscherError, UnsafePath, WrongKey
from core.journal import VersionRecord
from core.journal.records import DiskFile
from core.models import Area, Ref
from core.playbooks.layout import FoundFolder, Layout
from core.playbooks.reading import PlaybookReader
from core.playbooks.writing import STALE_STAGING_SECONDS

CHUNK = 200  # rows whose files are looked up in one query
_RECOVER = "It is finished by the next command that writes; `escher-playbooks verify` again then."


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
    reader: PlaybookReader, row: VersionRecord, files: tuple[DiskFile, ...]
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
