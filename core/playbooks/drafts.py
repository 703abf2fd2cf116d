"""Playbooks from outside, read into drafts: one folder, a folder of many, or an archive.

A folder that holds ``metadata.json`` is a playbook; what else is in it is taken when it is
``parameters.json``, ``explain_plan.json`` or stands in a format's folder, else named in ``ignored``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from core.content import KNOWN_FILES, leftovers_but
from core.errors import (
    EscherError,
    InvalidPlaybook,
    NotFound,
    UnsafePath,
    UsageError,
    faults_of,
    storage_error,
)
from core.files import walk_files
from core.models import (
    FORMATS,
    METADATA_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.archive import drafts_in_archive
from core.playbooks.validation import MAX_DEPTH, Limits


def iter_drafts(
    path: Path, limits: Limits | None = None
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Every playbook in a folder or a ``.tar.gz``/``.tgz``/``.tar``: its name and draft or error.

    One that can't be read is an error in its place; the others follow. Raises when ``path`` itself
    is not there or holds no playbook at all.
    """
    limits = limits or Limits()
    if path.is_dir():
        found = _drafts_in_folder(path, limits)
    elif path.is_file():
        found = drafts_in_archive(path, limits)
    else:
        raise NotFound(f"{path} is not there.", "Give a folder of playbooks or a .tar.gz of them.")
    empty = True
    for item in found:
        empty = False
        yield item
    if empty:
        raise UsageError(
            f"{path} holds no playbook: no {METADATA_FILE} up to {MAX_DEPTH} folders deep.",
            "Give the folder above the playbooks' folders.",
        )


def draft_from_folder(
    path: Path,
    limits: Limits | None = None,
    known: Collection[str] = (),
    *,
    stored: bool = False,
) -> PlaybookDraft:
    """Read the folder of one playbook; nothing is followed out of it.

    Leftovers of editors, tools and runs are named in ``ignored``, unless they are ``known``.
    ``stored``: it stands in the home already, maybe since before the limits on JSON.

    Raises `InvalidPlaybook` (no or wrong ``metadata.json``, too large), `UnsafePath` (a symbolic
    link, a device) or `StorageError`.
    """
    limits = limits or Limits()
    if not path.is_dir():
        raise NotFound(f"{path} is not a folder.", f"Give the folder that holds {METADATA_FILE}.")
    try:
        sizes, ignored = _survey(path, known)
        if METADATA_FILE not in sizes:
            raise InvalidPlaybook(
                f"{path} holds no {METADATA_FILE}.", "Write one; see docs/file-structure.md."
            )
        limits.check(sizes.items(), path.name)
        files = {name: _read_capped(path / name, size) for name, size in sizes.items()}
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE, stored=stored)
    return PlaybookDraft(metadata, files, tuple(ignored))


def without_leftovers(draft: PlaybookDraft) -> PlaybookDraft:
    """The draft without what editors, tools and runs leave; that is named in ``ignored``."""
    is_left_out = leftovers_but(())
    left_out = [path for path in draft.files if is_left_out(path)]
    if not left_out:
        return draft
    files = {path: content for path, content in draft.files.items() if path not in left_out}
    return PlaybookDraft(draft.metadata, files, (*draft.ignored, *left_out))


def _survey(path: Path, known: Collection[str]) -> tuple[dict[str, int], list[str]]:
    """Relative paths with sizes, and the names that are left aside."""
    sizes: dict[str, int] = {}
    ignored: list[str] = []
    is_left_out = leftovers_but(known)

    def skip(prefix: str, inside: str) -> bool:
        left_out = is_left_out(prefix + inside)
        if left_out:
            ignored.append(prefix + inside)
        return left_out

    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name not in KNOWN_FILES and entry.name not in FORMATS:
            ignored.append(entry.name)
        elif entry.is_symlink():
            raise UnsafePath(
                f"{entry.name!r} in {path} is a symbolic link.", "Replace the link by a file."
            )
        elif entry.name in FORMATS and entry.is_dir():
            prefix = f"{entry.name}/"
            for name, found in walk_files(Path(entry.path), partial(skip, prefix)):
                sizes[prefix + name] = found.st_size
        elif entry.name in KNOWN_FILES and entry.is_file():
            sizes[entry.name] = entry.stat().st_size
        else:
            kind = "a file, and a format is a folder" if entry.name in FORMATS else "not a file"
            raise InvalidPlaybook(f"{entry.name!r} in {path} is {kind}.", "Rename or remove it.")
    return sizes, ignored


def _read_capped(path: Path, size: int) -> bytes:
    """Read a file that was ``size`` bytes long a moment ago; a swap for a link or pipe is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsafePath(f"{path} is not a regular file.", "Remove it.")
        content = file.read(size + 1)
    if len(content) != size:
        raise InvalidPlaybook(f"{path} changed while it was read.", "Try again when it is quiet.")
    return content


def _drafts_in_folder(
    root: Path, limits: Limits
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    for path in _playbook_folders(root):
        name = path.relative_to(root).as_posix()
        found: PlaybookDraft | EscherError
        try:
            with faults_of(name):
                found = draft_from_folder(path, limits)
        except EscherError as error:
            found = error
        yield (root.name if name == "." else name), found


def _playbook_folders(root: Path) -> Iterator[Path]:
    """Folders with a ``metadata.json``, by name; a playbook's own sub-folders are not looked at."""
    for folder, names, files in os.walk(root):  # links are not followed
        if METADATA_FILE in files:
            names.clear()
            yield Path(folder)
        elif len(Path(folder).relative_to(root).parts) >= MAX_DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
