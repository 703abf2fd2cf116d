"""What a folder holds, stored under another version or id: an edit that could not stay in its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import NotFound, Unchanged, UnsafePath, storage_error
from core.files import (
    fsync_dir,
    make_private_dir,
    read_bytes,
    remove_tree,
    sha256_bytes,
    write_new_file,
)
from core.journal import VersionRecord
from core.models import (
    Area,
    FileEntry,
    PlaybookDraft,
    Ref,
    Strategy,
    check_id,
    content_digest,
    is_higher,
)
from core.playbooks.decisions import COUNTS, new_requests
from core.playbooks.reader import is_unfetched
from core.playbooks.sealing import published_form
from core.playbooks.store import PlaybookStore
from core.playbooks.versioning import came_in, free_patch, successor_metadata


def keep_as(
    store: PlaybookStore,
    ref: Ref,
    playbook_id: str | None,
    version: str | None,
    strategy: Strategy | None,
) -> Ref:
    """Store what the folder of ``ref`` holds now as another version, durably, and return it.

    Neither ``playbook_id`` nor ``version``: the next free patch. A version with this very content
    is taken for it (the step is done again after a crash); other content is `AlreadyExists`.
    What is sensitive stays private, whatever ``strategy`` says.
    """
    record = store.get(ref)
    folder = store.layout.folder(record.area, ref)
    if store.journal.versions.files(ref) and is_unfetched(folder):
        raise NotFound(f"The content of {ref} is not on this machine.")
    draft = store.edited_draft(ref)
    named = {"playbook_id": playbook_id or ref.playbook_id}
    base = new_requests(draft.metadata, record) | named
    if version is None:
        version = (
            ref.version if playbook_id else _free_patch(store, ref, replace(draft, metadata=base))
        )
    area = Area.AI_GENERATED if record.area is Area.AI_GENERATED else Area.LOCAL
    kept = replace(draft, metadata=successor_metadata(base, version, area))
    wanted = Strategy.LOCAL_ONLY if kept.metadata.get("sensitive") else strategy
    result = store.create_many(
        [kept], area=area, strategy=wanted, intake=came_in("edit", [record])
    )[0]
    if result.error is not None and not isinstance(result.error, Unchanged):
        raise result.error
    return result.ref


def without_statistics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata but for the counts, which are of the version that they were counted for."""
    return {name: value for name, value in metadata.items() if name not in COUNTS}


def draft_digest(
    draft: PlaybookDraft, metadata: Mapping[str, Any], executable: Collection[str] = ()
) -> str:
    """The content digest of a draft's files under ``metadata``; ``executable``: which are."""
    entries = [
        FileEntry(path, len(content), sha256_bytes(content), path in executable)
        for path, content in published_form(draft.files).items()
    ]
    return content_digest(metadata, entries)


def _free_patch(store: PlaybookStore, ref: Ref, draft: PlaybookDraft) -> str:
    """The next free patch, or the version that an interrupted attempt has made already."""
    others = store.journal.versions.of_playbook(ref.playbook_id)
    for other in others:
        if _is_this(other, ref, draft):
            return other.ref.version
    return free_patch(store.journal.versions, ref)


def _is_this(other: VersionRecord, ref: Ref, draft: PlaybookDraft) -> bool:
    if other.is_published or not is_higher(other.ref.version, ref.version):
        return False
    metadata = draft.metadata | {"version": other.ref.version}
    return draft_digest(draft, metadata) == other.content_digest


# Copies of what a conflict set aside: nothing is overwritten without one.
#
# ::
#
#     conflicts/<playbook_id>/v<semver>-<12 hex>/…     a version's folder as it stood on disk
#     conflicts/<playbook_id>/.v<semver>-….tmp         a copy that is being made
#
# The hex digits are of the content, so that the same folder is kept once. Sensitive content stays
# encrypted, under the generation that the journal's row of the conflict names.

DIGITS = 12


class ConflictCopies:
    """The folder ``conflicts/``; the caller holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, ref: Ref, folder: Path) -> Path:
        """Copy ``folder`` durably and return where to; a copy of the same content is there once."""
        place = self._root / check_id(ref.playbook_id)
        try:
            target = place / f"v{ref.version}-{folder_digest(folder)[:DIGITS]}"
            if place.is_symlink() or target.is_symlink():
                raise UnsafePath(
                    f"{place} or {target.name} in it is a link, and copies are kept here only.",
                    "Remove the link.",
                )
            if target.is_dir():
                return target
            make_private_dir(place)
            for stray in place.glob(".v*-*.tmp"):
                remove_tree(stray)  # of a process that was killed
            temporary = place / f".{target.name}.tmp"
            copy_folder(folder, temporary)
            temporary.rename(target)
            fsync_dir(place)
            fsync_dir(self._root)
        except OSError as error:
            raise storage_error(error, f"Keeping a copy of {ref}") from error
        return target


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and links as ``(relative path, path)``, by name; what is neither is left out."""
    for current, names, files in os.walk(folder):
        names.sort()
        links = [name for name in names if (Path(current) / name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(current) / name
            if path.is_symlink() or path.is_file():
                yield path.relative_to(folder).as_posix(), path


def folder_digest(folder: Path) -> str:
    """Of the names and bytes of a folder, in hex."""
    digest = hashlib.sha256()
    for name, path in _walk(folder):
        target = str(path.readlink()) if path.is_symlink() else sha256_bytes(read_bytes(path))
        digest.update(f"{name}\0{target}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def copy_folder(folder: Path, target: Path) -> None:
    """Copy files and links durably into the new folder ``target``."""
    make_private_dir(target)
    folders = {target}
    for name, path in _walk(folder):
        place = target / name
        make_private_dir(place.parent)
        folders.update(parent for parent in place.parents if parent.is_relative_to(target))
        if path.is_symlink():
            place.symlink_to(path.readlink())
        else:
            write_new_file(place, read_bytes(path))
    for made in folders:
        fsync_dir(made)
