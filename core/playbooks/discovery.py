"""Finds the folders of playbooks below a folder, and tells a playbook's metadata from a collection's.

A folder with a ``metadata.json`` is a playbook, and inside of it there is no other, unless the file is
about the playbooks below::

    mine/metadata.json         {"playbooks": …}, or beside no format folder    left out, and named
    mine/stop/metadata.json                                                    a playbook
    mine/stop/shell/app/metadata.json                                          its content
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from core.bounded_json import BadJson, read_json
from core.content import is_leftover
from core.errors import InvalidPlaybook
from core.limits import METADATA_BYTES
from core.models import FORMATS, METADATA_FILE

MAX_DEPTH = 6  # folders between the one that is given and a playbook's
_OF_PLAYBOOKS = frozenset({"cloud_provider", "playbook_id"})
_FORMATS = frozenset(FORMATS)
_OF_MACOS = "__MACOSX"  # what it puts beside the files of a .zip


def playbook_folders(root: Path, skipped: list[str]) -> Iterator[Path]:
    """Yield the folders of playbooks, by name; a playbook's own sub-folders are not looked at.

    The ``metadata.json`` of collections are added to ``skipped``.
    """
    for folder, names, files in os.walk(root):  # links are not followed
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        if METADATA_FILE in files:
            if depth < MAX_DEPTH and _is_collection(path, names, MAX_DEPTH - depth):
                skipped.append((path.relative_to(root) / METADATA_FILE).as_posix())
            else:
                names.clear()
                yield path
        elif depth >= MAX_DEPTH:
            names.clear()
        names[:] = sorted(filter(is_looked_into, names))


def is_looked_into(folder: str) -> bool:
    """Whether playbooks are looked for in a folder of that name: not in hidden ones or tools' own."""
    return not folder.startswith(".") and folder != _OF_MACOS and not is_leftover(f"{folder}/")


def wrong_kind(name: str, where: str) -> InvalidPlaybook:
    """The refusal of a file that is called like a format, or a folder like a known file."""
    kind = "a file, and a format is a folder" if name in FORMATS else "not a file"
    return InvalidPlaybook(f"{name!r} in {where} is {kind}.", "Rename or remove it.")


def is_of_collection(metadata: bytes, folders: Collection[str], inner: Collection[str]) -> bool:
    """Whether a ``metadata.json`` with others below it is about those, and no playbook's itself.

    ``folders`` stand beside it, and a playbook has one of a format; the others are in ``inner``.
    """
    if _FORMATS.isdisjoint(folders):
        return True
    try:
        said = read_json(metadata, max_bytes=METADATA_BYTES)
    except BadJson:  # a playbook's, most likely, and its error is told
        return False
    if not isinstance(said, dict):
        return True
    lists_them = isinstance(said.get("playbooks"), list | dict) or not _FORMATS.issuperset(inner)
    return lists_them and _OF_PLAYBOOKS.isdisjoint(said)


def _is_collection(path: Path, folders: Collection[str], levels: int) -> bool:
    try:
        with (path / METADATA_FILE).open("rb") as file:
            metadata = file.read(METADATA_BYTES + 1)
    except OSError:
        return False  # whoever reads it says why
    if not is_of_collection(metadata, folders, ("",)):  # whatever else there is
        return False
    inner = set()
    for folder, names, files in os.walk(path):
        parts = Path(folder).relative_to(path).parts
        if parts and METADATA_FILE in files:
            inner.add(parts[0])
            names.clear()
        names[:] = sorted(filter(is_looked_into, names)) if len(parts) < levels else []
    return bool(inner) and is_of_collection(metadata, folders, inner)
