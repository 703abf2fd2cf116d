"""What stands in a version's folder and is no part of it: a README, an editor's swap file.

It is carried into the folder that takes the place, as hard links where the file system has them,
so that an editor goes on writing to the same file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from core.content import KNOWN_FILES, is_leftover, is_state
from core.errors import storage_error
from core.files import PRIVATE_DIR, fsync_dir
from core.models import FORMATS

_FORMAT_FOLDERS = {(name,) for name in FORMATS}


def carry(
    folder: Path,
    staged: Path,
    content: Collection[str],
    *,
    leftovers: bool = True,
    beside: bool = False,
) -> None:
    """Bring into ``staged`` what is in ``folder`` besides the ``content`` (relative paths).

    The state of runs always comes along; ``leftovers``: what editors and tools left beside the
    scripts, too; ``beside``: whatever else is there. Pipes, sockets and devices stay behind. Raises
    `StorageError`.
    """

    def is_carried(path: str) -> bool:
        if is_leftover(path):
            return leftovers or is_state(path)
        return beside

    try:
        if folder.is_symlink() or not folder.is_dir():  # behind a link is nothing of ours
            return
        for parent, folders, files in os.walk(folder, onerror=_raise):  # links are not followed
            inside = Path(parent).relative_to(folder)
            in_format = inside.parts[:1] and inside.parts[0] in FORMATS
            links = [name for name in folders if (Path(parent) / name).is_symlink()]
            carried = [
                name
                for name in [*files, *links]
                if (inside / name).as_posix() not in content
                and (
                    is_carried((inside / name).as_posix())
                    if in_format
                    else _is_foreign(inside / name)
                )
            ]
            target = staged / inside
            if (carried or not in_format) and not target.is_dir():
                target.mkdir(mode=PRIVATE_DIR, parents=True)
                fsync_dir(target.parent)
            for name in carried:
                _bring(Path(parent) / name, target / name)
            if carried:
                fsync_dir(target)
    except OSError as error:
        raise storage_error(error, f"Carrying along what stands in {folder}") from error


def has_others(folder: Path) -> bool:
    """Whether something stands in ``folder`` that is neither the playbook's nor an editor's own.

    The state of a run is nobody's to lose.
    """
    try:
        for parent, _, files in os.walk(folder, onerror=_raise):
            inside = Path(parent).relative_to(folder)
            for path in (inside / name for name in files):
                if inside.parts[:1] in _FORMAT_FOLDERS:
                    if is_state(path.as_posix()):
                        return True
                elif _is_foreign(path) and not is_leftover(path.as_posix()):
                    return True
        return False
    except OSError as error:
        raise storage_error(error, f"Looking at {folder}") from error


def _is_foreign(path: Path) -> bool:
    return len(path.parts) > 1 or (path.name not in KNOWN_FILES and path.name not in FORMATS)


def _bring(source: Path, target: Path) -> None:
    if not (source.is_symlink() or source.is_file()):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _raise(error: OSError) -> None:
    raise error
