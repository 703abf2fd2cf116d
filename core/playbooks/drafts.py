"""Playbooks from outside, read into drafts: one folder, a folder of many, or an archive.

A folder that holds ``metadata.json`` is a playbook; what else is in it is taken when it is content
(`core.content`), else named in ``ignored``. Which folders are playbooks: `core.playbooks.discovery`;
archives: `core.playbooks.archives`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from core.content import KNOWN_FILES, left_out_name, leftovers_but
from core.errors import (
    EscherError,
    InvalidPlaybook,
    NotFound,
    UnsafePath,
    UsageError,
    faults_of,
    storage_error,
)
from core.files import inner_file, is_executable, walk_files
from core.models import (
    FORMATS,
    METADATA_FILE,
    PlaybookDraft,
    parse_json_object,
)
from core.playbooks.archives.reading import drafts_in_archive, is_archive_name
from core.playbooks.discovery import MAX_DEPTH, playbook_folders, wrong_kind
from core.playbooks.validation import Limits


def iter_drafts(
    path: Path,
    limits: Limits | None = None,
    *,
    temporary: Path | None = None,
    skipped: list[str] | None = None,
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    """Yield each playbook in a folder, a ``.zip`` or a tar archive: its name and draft or error.

    One that can't be read is an error in its place; the others follow. ``temporary``: the folder on
    whose disk a large archive's files wait, else the system's. A ``metadata.json`` that is about a
    collection is added to ``skipped``. Raises `NotFound` or `UsageError` when ``path`` itself is not
    there, is something else, or holds no playbook at all.
    """
    limits = limits or Limits()
    skipped = [] if skipped is None else skipped
    if path.is_dir():
        empty = True
        for item in _drafts_in_folder(path, limits, skipped):
            empty = False
            yield item
        if empty:
            _refuse_without_playbook(path)
    elif path.is_file():
        yield from drafts_in_archive(path, limits, temporary, skipped)
    elif path.exists():
        raise UsageError(f"{path} is no file and no folder.", "Give a folder or an archive.")
    else:
        raise NotFound(
            f"{path} is not there.", "Give a folder of playbooks, or an archive of them."
        )


def draft_from_folder(
    path: Path,
    limits: Limits | None = None,
    known: Collection[str] = (),
    *,
    stored: bool = False,
) -> PlaybookDraft:
    """Read the folder of one playbook; nothing is followed out of it.

    Leftovers of editors, tools and runs are named in ``ignored``, unless they are ``known``; a link
    to a file in the same format folder is that file. ``stored``: it stands in the home already,
    maybe since before the limits on JSON.

    Raises `InvalidPlaybook` (no or wrong ``metadata.json``, too large), `UnsafePath` (any other
    link, a device) or `StorageError`.
    """
    limits = limits or Limits()
    if not path.is_dir():
        raise NotFound(f"{path} is not a folder.", f"Give the folder that holds {METADATA_FILE}.")
    try:
        found, ignored = _survey(path, known)
        if METADATA_FILE not in found:
            raise InvalidPlaybook(
                f"{path} holds no {METADATA_FILE}.", "Write one; see docs/file-structure.md."
            )
        limits.check(((name, seen.st_size) for name, seen in found.items()), path.name)
        linked = [name for name in found if (path / name).is_symlink()]
        files = {name: _read_capped(path, name, seen) for name, seen in found.items()}
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    metadata = parse_json_object(files.pop(METADATA_FILE), METADATA_FILE, stored=stored)
    marked = frozenset(name for name in files if is_executable(found[name]))
    return PlaybookDraft(
        metadata, files, tuple(ignored), executable=marked, linked=tuple(sorted(linked))
    )


def _survey(path: Path, known: Collection[str]) -> tuple[dict[str, os.stat_result], list[str]]:
    """Relative paths with the stats of their files, and the names that are left aside."""
    survey: dict[str, os.stat_result] = {}
    ignored: list[str] = []
    is_left_out = leftovers_but(known)

    def skip(prefix: str, inside: str) -> bool:
        left_out = is_left_out(prefix + inside)
        if left_out:
            ignored.append(left_out_name(prefix + inside))
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
            for name, found in walk_files(Path(entry.path), partial(skip, prefix), links=True):
                survey[prefix + name] = found
        elif entry.name in KNOWN_FILES and entry.is_file():
            survey[entry.name] = entry.stat()
        else:
            raise wrong_kind(entry.name, str(path))
    return survey, ignored


def _read_capped(root: Path, name: str, seen: os.stat_result) -> bytes:
    """Read the file that was ``seen`` a moment ago; a swap for a link or pipe is refused.

    A link to a file in the same format folder is read as that very file.
    """
    path, size = root / name, seen.st_size
    if path.is_symlink():
        format_, _, inside = name.partition("/")
        path = inner_file(root / format_, inside)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode):
            raise UnsafePath(f"{path} is not a regular file.", "Remove it.")
        content = file.read(size + 1)
    if len(content) != size or (now.st_ino, now.st_dev) != (seen.st_ino, seen.st_dev):
        raise InvalidPlaybook(f"{path} changed while it was read.", "Try again when it is quiet.")
    return content


def _drafts_in_folder(
    root: Path, limits: Limits, skipped: list[str]
) -> Iterator[tuple[str, PlaybookDraft | EscherError]]:
    for path in playbook_folders(root, skipped):
        name = path.relative_to(root).as_posix()
        found: PlaybookDraft | EscherError
        try:
            with faults_of(name):
                found = draft_from_folder(path, limits)
        except EscherError as error:
            found = error
        yield (root.name if name == "." else name), found


def _refuse_without_playbook(root: Path) -> None:
    """Say what a folder holds that holds no playbook."""
    archives = sorted(entry.name for entry in root.iterdir() if is_archive_name(entry.name))
    if archives:
        raise UsageError(
            f"{root} holds no playbook, but archives ({', '.join(archives[:3])}).",
            "Import each of them.",
        )
    raise UsageError(
        f"{root} holds no playbook: no {METADATA_FILE} up to {MAX_DEPTH} folders deep.",
        "Give the folder above the playbooks' folders.",
    )
