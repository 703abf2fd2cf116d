"""Rows for folders that the journal does not know: a lost journal is rebuilt from disk.

The folders are the truth for content; what only the journal knew (revisions, the latest generation
of encrypted content) is taken from the server's changes feed and from the envelopes themselves.
What the user had chosen is lost: a folder's strategy and status are requests, in ``synced/``, too,
until the server's feed says what they are. What is sealed is sensitive, whatever its flag says.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from core.encryption import Envelope, is_sealed, sealed_generation
from core.errors import EscherError, InvalidPlaybook, faults_of
from core.files import atomic_write, json_bytes, read_bytes
from core.journal import VersionRecord
from core.journal.records import DiskFile
from core.models import (
    METADATA_FILE,
    PARAMETERS_FILE,
    SERVER_OWNED_FIELDS,
    Area,
    Ref,
    content_digest,
    parse_json_object,
    parse_metadata,
)
from core.playbooks.drafts import draft_from_folder
from core.playbooks.file_requests import Standing, follow
from core.playbooks.layout import FoundFolder
from core.playbooks.limits import Limits
from core.playbooks.parameters import sealed_defaults
from core.playbooks.reading import PlaybookReader, is_unfetched
from core.playbooks.sealing import published_form, to_clear
from core.playbooks.staging import disk_files


def adopt(reader: PlaybookReader, envelope: Envelope) -> tuple[list[Ref], dict[Path, EscherError]]:
    """Take every unknown folder into the journal as it stands; the refs, and what can't be taken.

    On disk only fields of ``metadata.json`` that are not followed change. A second copy of a known
    version, and metadata without content in ``synced/`` (the changes feed brings it), are left
    alone.
    """
    rows: list[tuple[VersionRecord, tuple[DiskFile, ...]]] = []
    failed: dict[Path, EscherError] = {}
    with reader.locked():
        known = set(reader.journal.versions.refs())
        for found in reader.layout.find():
            if found.ref in known or (found.area is Area.SYNCED and is_unfetched(found.path)):
                continue
            try:
                with faults_of(str(found.path)):
                    row = _row(found, envelope, reader.limits)
            except EscherError as error:
                failed[found.path] = error
            else:
                rows.append(row)
                known.add(row[0].ref)
                _rewrite(found, row[0])
        with reader.journal.database.write() as connection:
            reader.journal.versions.put(rows, connection)
    return [record.ref for record, _ in rows], failed


def _row(
    found: FoundFolder, envelope: Envelope, limits: Limits
) -> tuple[VersionRecord, tuple[DiskFile, ...]]:
    draft = draft_from_folder(found.path, limits, stored=True)
    metadata = parse_metadata(draft.metadata)
    if found.ref is None or metadata.ref != found.ref:
        raise InvalidPlaybook(
            f"{found.path} holds {metadata.ref}.", "Rename the folder, or mend its metadata."
        )
    generation = generation_on_disk(draft.files)
    sensitive = metadata.sensitive or any(map(is_sealed, draft.files.values()))
    clear = to_clear(draft.files, found.ref, generation, envelope, sensitive=sensitive, edited=True)
    files = disk_files(found.path, published_form(clear))
    held, asked = follow(draft.metadata, Standing())
    if sensitive:  # an edited flag then differs from the row's, and is reported
        held["sensitive"] = True
    record = VersionRecord(
        found.ref,
        found.area,
        content_digest(held, [file.entry for file in files]),
        held,
        generation=generation,
        # what stands in synced/ may be anybody's: `keys claim` says otherwise
        made_here=found.area is not Area.SYNCED,
        intake="adopt",
        asked=asked,
    )
    return record, files


def _rewrite(found: FoundFolder, record: VersionRecord) -> None:
    """Let ``metadata.json`` say what holds; an edited ``sensitive`` stays for the scan to find."""
    path = found.path / METADATA_FILE
    disk = parse_json_object(read_bytes(path), METADATA_FILE, stored=True)
    kept = {name: value for name, value in disk.items() if name not in SERVER_OWNED_FIELDS}
    owned = {k: v for k, v in record.metadata.items() if k in SERVER_OWNED_FIELDS}
    if kept | owned != disk:
        atomic_write(path, json_bytes(kept | owned))


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
