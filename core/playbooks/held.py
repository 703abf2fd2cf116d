"""Hold tampering with sealed content, in sealed form, until the user takes or drops it.

::

    sensitive edited to false, or clear text over an envelope, or beside the envelopes
        │ sealed at once into conflicts/<id>/held-v<semver>-<hex>/ (a row of held_edits names it)
        ▼
    the folder holds again what it held, and that goes on being answered
        ├── accept    the held files become the content, sealed; the flag stays
        └── discard   they go

The journal's flag counts, never the file's; only `declassify` takes it away.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from core.encryption import Place, is_sealed
from core.errors import EscherError, IntegrityError, NotFound, Refused, UsageError
from core.files import (
    fsync_dir,
    make_private_dir,
    read_bytes,
    remove_tree,
    sha256_bytes,
    write_tree,
)
from core.journal import VersionRecord
from core.journal.conflicts import HeldEdit
from core.models import METADATA_FILE, PlaybookDraft, Ref, parse_json_object
from core.playbooks.compare import FolderStat
from core.playbooks.reader import PlaybookReader
from core.playbooks.store import PlaybookStore, StoreResult


@dataclass(frozen=True, slots=True)
class Tampering:
    """What lies in a sensitive version's folder and must not: ``clear`` by path, and the flag."""

    flag: bool
    clear: dict[str, bytes]
    metadata: bytes


def find_tampering(
    reader: PlaybookReader, record: VersionRecord, seen: FolderStat, folder: Path | None = None
) -> Tampering | None:
    """What somebody did to a sensitive version's folder, or None.

    The very content that is sealed there, in clear, is none: it only is to be sealed again.
    ``folder``: where it was moved to, else its own place.
    """
    if not record.sensitive or record.is_published:
        return None
    folder = folder or reader.layout.folder(record.area, record.ref)
    rows = {row.path: row.checksum for row in reader.journal.versions.files(record.ref)}
    reader.limits.check((path, found.st_size) for path, found in seen.files.items())
    clear = {}
    for path in sorted(seen.content(rows).difference(seen.irregular(rows))):
        content = read_bytes(folder / path)  # a link is for whoever reads it: it opens no envelope
        if not is_sealed(content) and sha256_bytes(content) != rows.get(path):
            clear[path] = content
    metadata = read_bytes(folder / METADATA_FILE) if METADATA_FILE in seen.files else b""
    try:
        flag = parse_json_object(metadata, METADATA_FILE, stored=True).get("sensitive") is not True
    except EscherError:
        flag = False  # it says nothing at all; whoever reads it says what is wrong with it
    return Tampering(flag, clear, metadata) if flag or clear else None


class HeldEdits:
    """Holds edits of sealed content, and settles them by the user's choice."""

    def __init__(self, store: PlaybookStore, conflicts: Path) -> None:
        self._store = store
        self._rows = store.journal.held_edits
        self._envelope = store.envelope
        self._root = conflicts

    def hold(self, record: VersionRecord, found: Tampering) -> HeldEdit:
        """Write what was found down in sealed form, durably; the folder is left as it is."""
        ref = record.ref
        name = f"held-v{ref.version}-{uuid.uuid4().hex[:12]}"
        place = self._root / ref.playbook_id / name
        files = {METADATA_FILE: found.metadata, **found.clear}
        make_private_dir(self._root)
        make_private_dir(place.parent)
        write_tree(
            place,
            {
                path: self._envelope.seal(content, _place(ref, path, record.generation))
                for path, content in files.items()
            },
        )
        fsync_dir(place.parent)
        fsync_dir(self._root)
        edit = HeldEdit(ref, tuple(found.clear), found.flag, str(place), record.generation)
        self._rows.put(edit)
        return edit

    def of(self, target: str) -> HeldEdit:
        """The held edit of ``ID@VERSION``, or of the one version of ``ID`` that has one.

        Raises `NotFound` where nothing is held, `UsageError` where an id has several.
        """
        found = [
            edit for edit in self._rows.entries() if target in {str(edit.ref), edit.ref.playbook_id}
        ]
        if not found:
            raise NotFound(
                f"No edit of {target} is held.",
                "Give the folder of the new content; `escher-playbooks status` counts held edits.",
            )
        if len(found) > 1:
            names = ", ".join(str(edit.ref) for edit in found)
            raise UsageError(f"Edits of several versions are held: {names}.", "Name the version.")
        return found[0]

    def accept(self, edit: HeldEdit) -> StoreResult:
        """Let the held files be the version's content, sealed as before; the flag is not taken."""
        files = {path: self._open(edit, path) for path in (METADATA_FILE, *edit.paths)}
        metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE)
        content = self._store.read(edit.ref) | files
        result = self._store.replace(edit.ref, PlaybookDraft(metadata, content))
        self.discard(edit)
        return result

    def _open(self, edit: HeldEdit, path: str) -> bytes:
        file = Path(edit.folder) / path
        if not file.is_file():
            raise IntegrityError(
                f"The held edit of {edit.ref} lacks {path}.",
                f"Drop it: escher-playbooks update {edit.ref} --discard.",
            )
        return self._envelope.open(read_bytes(file), _place(edit.ref, path, edit.generation))

    def discard(self, edit: HeldEdit) -> None:
        """Drop what is held; the content stays what it is."""
        self._rows.remove(edit.ref)
        # an earlier edit's too; but 1.0.0-rc.1 is no edit of 1.0.0
        own = re.compile(rf"held-v{re.escape(edit.ref.version)}-[0-9a-f]{{12}}")
        parent = self._root / edit.ref.playbook_id
        for folder in parent.iterdir() if parent.is_dir() else ():
            if own.fullmatch(folder.name):
                remove_tree(folder)


def declassify(store: PlaybookStore, ref: Ref) -> StoreResult:
    """Make a version not sensitive: its files lie in clear from then on, and it may be published.

    Raises `Refused` where it is not sensitive, is published, or an edit of it is held.
    """
    record = store.get(ref)
    if not record.sensitive:
        raise Refused(f"{ref} is not sensitive.", "There is nothing to do.")
    if record.is_published:
        raise Refused(f"{ref} is published: it never changes.", "Make a new version of it.")
    if store.journal.held_edits.get(ref) is not None:
        raise Refused(
            f"An edit of {ref} is held.",
            f"Take it (escher-playbooks update {ref}) or drop it (--discard), then declassify.",
        )
    draft = PlaybookDraft(dict(record.metadata), store.read(ref))
    return store.replace(ref, draft, declassify=True)


def _place(ref: Ref, path: str, generation: int) -> Place:
    # a place of its own: what is held opens nowhere else, and no content opens here
    return Place(*ref, f"held/{path}", generation)
