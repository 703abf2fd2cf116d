"""What a deletion of the other side took: kept for ``trash_days``, and brought back from here.

::

    trash/<playbook_id>-v<semver>-<time>/     the version's folder as it stood on disk, UTC
    trash/.<playbook_id>-….tmp                a copy that is being made

Sensitive content stays encrypted. The folders are all there is to know: nothing of them is in the
journal.
"""

from __future__ import annotations

import calendar
import logging
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.encryption import Envelope
from core.errors import InvalidPlaybook, NotFound, storage_error
from core.files import fsync_dir, make_private_dir, remove_tree
from core.models import METADATA_FILE, Area, Ref, Strategy, check_id, parse_version
from core.playbooks.conflict_copies import copy_folder, folder_digest, without_statistics
from core.playbooks.drafts import draft_from_folder
from core.playbooks.extras import carry
from core.playbooks.reader import is_unfetched
from core.playbooks.sealing import to_clear
from core.playbooks.store import PlaybookStore
from core.playbooks.verify import generation_on_disk
from core.playbooks.versioning import free_patch, successor_metadata

DAY_SECONDS = 86_400.0
AGAIN_SECONDS = 3600  # within which the same folder is the same deletion, done again after a crash
_TIME = "%Y%m%dT%H%M%SZ"
# an id holds no dot, so the last "-v" before the first dot parts it from the version
_NAME = re.compile(r"(?P<id>[^.]+)-v(?P<version>\d+\..+)-(?P<time>\d{8}T\d{6}Z)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """One folder in the trash; ``deleted_at`` in Unix seconds."""

    ref: Ref
    path: Path
    deleted_at: int

    def as_json(self, days: float) -> dict[str, Any]:
        return {
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "folder": str(self.path),
            "deleted_at": self.deleted_at,
            "kept_until": int(self.deleted_at + days * DAY_SECONDS),
        }


class Trash:
    """The folder ``trash/``; whoever keeps something holds the store's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, ref: Ref, folder: Path) -> Path:
        """Copy ``folder`` durably and return where to; a crash in the middle makes no second one."""
        check_id(ref.playbook_id)
        parse_version(ref.version)
        try:
            digest = folder_digest(folder)
            now = int(time.time())
            for entry in self._entries_of(ref):
                if now - entry.deleted_at < AGAIN_SECONDS and folder_digest(entry.path) == digest:
                    return entry.path
            make_private_dir(self._root)
            for stray in self._root.glob(".*.tmp"):
                if _NAME.fullmatch(stray.name[1:-4]):
                    remove_tree(stray)  # of a process that was killed
            while (target := self._root / _name(ref, now)).exists():
                now += 1
            temporary = self._root / f".{target.name}.tmp"
            copy_folder(folder, temporary)
            temporary.rename(target)
            fsync_dir(self._root)
            fsync_dir(self._root.parent)
        except OSError as error:
            raise storage_error(error, f"Keeping {ref} in the trash") from error
        return target

    def entries(self) -> list[TrashEntry]:
        """What is in the trash, the newest first."""
        try:
            names = [path.name for path in self._root.iterdir() if _is_folder(path)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, f"Reading {self._root}") from error
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        return sorted(found, key=lambda entry: (-entry.deleted_at, entry.ref))

    def find(self, ref: Ref) -> TrashEntry:
        """The newest entry of a version; `NotFound` when there is none."""
        for entry in self._entries_of(ref):
            return entry
        raise NotFound(f"{ref} is not in the trash.", "`escher-playbooks trash ls` lists it.")

    def purge(self, days: float) -> int:
        """Remove what is older than ``days``; how many folders that were."""
        oldest = time.time() - days * DAY_SECONDS
        old = [entry for entry in self.entries() if entry.deleted_at < oldest]
        for entry in old:
            self.remove(entry)
        return len(old)

    def remove(self, entry: TrashEntry) -> None:
        """Remove one folder for good."""
        try:
            remove_tree(entry.path)
        except OSError as error:
            raise storage_error(error, f"Removing {entry.path}") from error

    def _entries_of(self, ref: Ref) -> list[TrashEntry]:
        return [entry for entry in self.entries() if entry.ref == ref]

    def _entry(self, name: str) -> TrashEntry | None:
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        try:
            check_id(match["id"])
            parse_version(match["version"])
            at = calendar.timegm(time.strptime(match["time"], _TIME))
        except (InvalidPlaybook, ValueError):
            return None  # somebody else's
        return TrashEntry(Ref(match["id"], match["version"]), self._root / name, at)


def restore(store: PlaybookStore, envelope: Envelope, trash: Trash, ref: Ref) -> Ref:
    """Bring a version back from the trash as a private one, under the next free version; which.

    What stood beside the content comes along. What was never published from here is imported, to
    the secrets gate and where an AI wrote it: nobody here has decided on it yet.

    Raises `NotFound` when it is not there, or its content never came to this machine.
    """
    entry = trash.find(ref)
    if is_unfetched(entry.path):
        raise NotFound(
            f"Of {ref} only the metadata is in the trash: its content never came here.",
            "Ask a machine that had it.",
        )
    draft = draft_from_folder(entry.path, store.limits)
    clear = to_clear(
        draft.files,
        ref,
        generation_on_disk(draft.files),
        envelope,
        sensitive=bool(draft.metadata.get("sensitive")),
        edited=True,
    )
    base = without_statistics(draft.metadata) | {"playbook_id": ref.playbook_id}
    version = free_patch(store.journal.versions, ref)
    restored = replace(draft, metadata=successor_metadata(base, version), files=clear)
    is_own = store.journal.pins.is_published_here(ref)
    result = store.create_many(
        [restored],
        area=Area.LOCAL if is_own else None,
        strategy=Strategy.LOCAL_ONLY,
        intake="create" if is_own else "import",
    )[0]
    if result.error is not None:
        raise result.error
    carry(entry.path, store.folder(result.ref), {METADATA_FILE, *draft.files})
    trash.remove(entry)
    return result.ref


def _name(ref: Ref, at: int) -> str:
    return f"{ref.playbook_id}-v{ref.version}-{time.strftime(_TIME, time.gmtime(at))}"


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
