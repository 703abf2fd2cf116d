"""Writes a version out as a folder or an archive of the user's own: to work in, or to give away.

::

    DIR              metadata.json and the files, with their modes; must not be there, or be empty
    FILE.tar.gz      the same under one folder, as `import` takes it

It holds exactly the content, whatever stands beside it in the home. Nothing leads back: what is
changed or left there changes nothing here until `update`.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import AlreadyExists, IntegrityError, NotFound, Refused, UsageError, storage_error
from core.files import file_mode, fsync_dir, json_bytes, sha256_bytes, write_tree
from core.journal import VersionRecord
from core.models import METADATA_FILE, PARAMETERS_FILE, Ref, executables
from core.playbooks.sealing import published_form
from core.playbooks.store import PlaybookStore
from core.settings import Settings

ARCHIVES = (".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote where; ``left_out`` says in words what is kept back."""

    ref: Ref
    path: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "playbook_id": self.ref.playbook_id,
            "version": self.ref.version,
            "path": str(self.path),
            "files": list(self.files),
            "warnings": list(self.left_out),
        }


def export(
    store: PlaybookStore,
    settings: Settings,
    ref: Ref,
    target: Path,
    fetch: Callable[[Ref], Mapping[str, bytes]],
    *,
    reveal: bool = False,
) -> Exported:
    """Write ``ref`` to ``target``, whole or not at all.

    ``fetch`` gives the content of a published version that is not here, or was changed here.
    ``reveal``: what is sensitive is written in clear; without it a sensitive version is `Refused`,
    and defaults of sensitive parameters are left out. `AlreadyExists` for a target that holds
    something, `UsageError` for one inside the home.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  links are as the user wrote them
    record = store.get(ref)
    if record.sensitive and not reveal:
        raise Refused(
            f"{ref} is sensitive, and an export holds it in clear.",
            "Give --reveal to write it out all the same.",
        )
    _check_target(target, settings)
    clear = _content(store, record, fetch)
    left_out: tuple[str, ...] = ()
    if not reveal and PARAMETERS_FILE in clear:
        published = published_form(clear)
        if published != clear:
            words = f"the defaults of sensitive parameters are left out of {PARAMETERS_FILE}"
            left_out = (f"{words} (--reveal writes them)",)
        clear = published
    files = {METADATA_FILE: json_bytes(record.metadata), **clear}
    marked = executables(store.journal.versions.files(ref))
    if not record.modes_known:  # of a version from before its scripts are to be run, too
        marked |= {path for path, content in clear.items() if content[:2] == b"#!"}
    try:
        if target.name.endswith(ARCHIVES):
            _write_archive(target, f"{ref.playbook_id}-v{ref.version}", files, marked)
        else:
            _write_folder(target, files, marked)
    except OSError as error:
        raise storage_error(error, f"Writing {target}") from error
    return Exported(ref, target, tuple(sorted(files)), left_out)


def _check_target(target: Path, settings: Settings) -> None:
    real = Path(os.path.realpath(target))
    for ours in (settings.home, settings.playbooks_path, settings.cache_path):
        if real.is_relative_to(Path(os.path.realpath(ours))):
            raise UsageError(
                f"{target} is inside the home: what is written there would be taken for its own.",
                "Name a folder or file elsewhere.",
            )
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", "Make it first.")
    archive = target.name.endswith(ARCHIVES)
    empty = not archive and target.is_dir() and not any(target.iterdir())
    if os.path.lexists(target) and (target.is_symlink() or not empty):
        raise AlreadyExists(f"{target} is there already.", "Name a new one, or an empty folder.")


def _content(
    store: PlaybookStore, record: VersionRecord, fetch: Callable[[Ref], Mapping[str, bytes]]
) -> dict[str, bytes]:
    """The content as its rows list it; a published one may come from the server."""
    try:
        return store.read(record.ref)
    except (NotFound, IntegrityError):
        if not record.is_published:
            raise
        fetched = dict(fetch(record.ref))
    for row in store.journal.versions.files(record.ref):
        path = row.path
        if sha256_bytes(fetched[path]) != row.checksum:
            raise IntegrityError(f"{record.ref} {path} came with other bytes than were published.")
    return fetched


def _write_folder(target: Path, files: dict[str, bytes], scripts: set[str]) -> None:
    built = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:8]}.tmp")
    write_tree(built, files, scripts)
    try:
        built.rename(target)  # over an empty folder at most
    except BaseException:
        shutil.rmtree(built, ignore_errors=True)
        raise
    fsync_dir(target.parent)


def _write_archive(target: Path, root: str, files: dict[str, bytes], scripts: set[str]) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent)
    built = Path(name)
    try:
        with os.fdopen(fd, "wb") as opened:
            with tarfile.open(fileobj=opened, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
                for path, content in sorted(files.items()):
                    member = tarfile.TarInfo(f"{root}/{path}")
                    member.size = len(content)
                    member.mode = file_mode(path in scripts)
                    archive.addfile(member, io.BytesIO(content))
            opened.flush()
            os.fsync(opened.fileno())
        os.link(built, target)  # never over what somebody put there meanwhile
    except FileExistsError as error:
        raise AlreadyExists(f"{target} is there already.", "Name a new one.") from error
    finally:
        built.unlink(missing_ok=True)
    fsync_dir(target.parent)
