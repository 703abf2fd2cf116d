"""What `resolve.py` measures on: homes and folders with scripts of 2 KB, each unlike all others."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.files import sha256_bytes
from core.journal import VersionRecord
from core.journal.script_lookup import ToldStatus
from core.models import Area, FileEntry, PlaybookDraft, Ref, ScriptKey, content_digest
from core.scripts.models import Listing, Staged
from core.service import PlaybookService

PATH = "shell/main.sh"
SIZE_BYTES = 2048
BATCH = 64
REVISION = "0" * 40


@dataclass(frozen=True)
class Competitors:
    """The same files for `pooch` and `huggingface_hub`, as hard links."""

    pooch_folder: Path
    hub: Path
    hashes: dict[str, str]  # by playbook id


def name(number: int) -> str:
    return f"playbook-{number:05d}"


def cached_name(number: int) -> str:
    return f"cached-{number:05d}"


def script(number: int) -> bytes:
    text = f"#!/usr/bin/env bash\n# playbook {number}\n" + "echo 'stop what nobody uses'\n" * 100
    return text.encode()[:SIZE_BYTES]


def draft(number: int) -> PlaybookDraft:
    metadata = {
        "playbook_id": name(number),
        "version": "1.0.0",
        "name": f"Playbook {number}",
        "description": "Stops what nobody uses. " * 20,
        "use_cases": ["Cost"] * 5,
        "cloud_provider": ["aws"],
    }
    return PlaybookDraft(metadata, {PATH: script(number)})


def fill_home(service: PlaybookService, versions: int) -> None:
    """Versions in ``playbooks/local``, and their rows in one transaction.

    The folders and rows that `create` leaves, written without it: it syncs each to the disk.
    """
    rows = []
    for number in range(versions):
        made = draft(number)
        ref = Ref(name(number), "1.0.0")
        metadata = made.metadata | {"created_at": 1, "updated_at": 1}
        path = service.store.layout.folder(Area.LOCAL, ref) / PATH
        path.parent.mkdir(parents=True)
        path.write_bytes(made.files[PATH])
        entry = FileEntry(PATH, len(made.files[PATH]), sha256_bytes(made.files[PATH]))
        digest = content_digest(metadata, [entry])
        record = VersionRecord(ref, Area.LOCAL, digest, metadata, made_here=True)
        rows.append((record, (entry,)))
    with service.journal.database.write() as connection:
        service.journal.versions.put(rows, connection)


def fill_cache(service: PlaybookService, numbers: Sequence[int]) -> None:
    """Entries that the journal knows no version of, promoted as after a download."""
    items = []
    service.cache.layout.prepare()
    for number in numbers:
        content = script(number)
        staged = service.cache.layout.staging / cached_name(number)
        (staged / "shell").mkdir(parents=True)
        (staged / PATH).write_bytes(content)
        entry = FileEntry(PATH, len(content), sha256_bytes(content))
        key = ScriptKey(Ref(cached_name(number), "1.0.0"), "shell")
        items.append(Staged(staged, Listing(key, (entry,), PATH), "tenant"))
    for start in range(0, len(items), BATCH):
        service.cache.promote_many(items[start : start + BATCH])
    told = ToldStatus("approved", None, None, None, int(time.time()))
    service.journal.script_rows.note_told({item.listing.key.ref: told for item in items})


def link_for_others(folder: Path, service: PlaybookService, numbers: Sequence[int]) -> Competitors:
    made = Competitors(folder / "pooch", folder / "hub", {})
    made.pooch_folder.mkdir(parents=True)
    for number in numbers:
        playbook_id = name(number)
        source = service.store.layout.folder(Area.LOCAL, Ref(playbook_id, "1.0.0")) / PATH
        made.hashes[playbook_id] = sha256_bytes(source.read_bytes())
        os.link(source, made.pooch_folder / f"{playbook_id}.sh")
        repository = made.hub / f"models--escher--{playbook_id}"
        blob = repository / "blobs" / made.hashes[playbook_id].removeprefix("sha256:")
        pointer = repository / "snapshots" / REVISION / PATH
        for path in (blob, pointer, repository / "refs" / "main"):
            path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, blob)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        (repository / "refs" / "main").write_text(REVISION)
    return made
