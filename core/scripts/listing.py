"""What the server says of a format folder, checked before anything of it touches the disk.

Names from the server are labels: each must be a safe relative path inside the format's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import (
    IntegrityError,
    InvalidPlaybook,
    NotEscherServer,
    NotFound,
    Refused,
    UnsafePath,
)
from core.files import check_distinct, check_relative_path
from core.models import FileEntry, Ref
from core.scripts.entries import Listing, ScriptKey
from core.server.answers import Script, ScriptFile
from core.server.problems import CHECK_URL, clean_words
from core.settings import Settings
from core.versions import parse_version

MAX_FILES = 2000
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked listing, with the URLs of its files by path."""

    listing: Listing
    files: dict[str, ScriptFile]


def check_offer(script: Script, key: ScriptKey, settings: Settings) -> Offer:
    """The server's answer for ``key`` as an `Offer`.

    `NotEscherServer` when it is about something else or names a path that is not safe, `Refused`
    when it is larger than the settings allow, `NotFound` when it has no files.
    """
    said = (script.playbook_id, script.version, script.format)
    if said != (*key.ref, key.format):
        asked = clean_words(" ".join(str(part) for part in said))
        raise NotEscherServer(f"The server was asked for {key} and answered {asked}.", CHECK_URL)
    if not script.files:
        raise NotFound(f"The server has no {key.format} script of {key.ref}.")
    if len(script.files) > MAX_FILES:
        raise Refused(f"{key} has {len(script.files)} files; at most {MAX_FILES} are fetched.")
    files = {file.path: file for file in script.files}
    _check_paths(key, [file.path for file in script.files])
    if script.entry_point not in files:
        raise NotEscherServer(
            f"The server names an entry point of {key} that is not among its files.", CHECK_URL
        )
    _check_sizes(key, script.files, settings)
    entries = tuple(
        FileEntry(file.path, file.size_bytes, file.checksum)
        for file in sorted(script.files, key=lambda file: file.path)
    )
    return Offer(Listing(key, entries, script.entry_point), files)


def difference(expected: Iterable[FileEntry], listed: Iterable[FileEntry]) -> str | None:
    """The first path by name that is not the same in both; None when all are."""
    here = {file.path: file for file in expected}
    there = {file.path: file for file in listed}
    return min(
        (path for path in here.keys() | there.keys() if here.get(path) != there.get(path)),
        default=None,
    )


def mismatch(key: ScriptKey, path: str) -> IntegrityError:
    """The server lists, for a published version, other files than were published."""
    return IntegrityError(
        f"The server lists {path} of {key.ref} otherwise than it was published.",
        "Nothing was downloaded: a published version never changes. Ask the server's operator.",
    )


def check_version(script: Script, playbook_id: str) -> Ref:
    """The version that the server calls the latest of ``playbook_id``."""
    try:
        parse_version(script.version)
    except InvalidPlaybook:
        raise NotEscherServer(
            f"The server names a latest version of {playbook_id} that is no version.", CHECK_URL
        ) from None
    if script.playbook_id != playbook_id:
        raise NotEscherServer(
            f"The server was asked for {playbook_id} and answered another playbook.", CHECK_URL
        )
    return Ref(playbook_id, script.version)


def _check_paths(key: ScriptKey, paths: list[str]) -> None:
    try:
        for path in paths:
            check_relative_path(path)
            if not path.startswith(f"{key.format}/"):
                raise UnsafePath(f"Path {path!r} is outside of {key.format}/.")
        check_distinct(paths)
    except UnsafePath as error:
        raise NotEscherServer(
            f"The server lists {key} with a name that is not safe: {clean_words(error.detail)}",
            CHECK_URL,
        ) from None
    names = {path.casefold() for path in paths}
    parents = {
        name[:end] for name in names for end in range(len(name)) if name[end] == "/"
    }  # fmt: skip
    if len(names) < len(paths) or names & parents:
        raise NotEscherServer(
            f"The server lists a name of {key} twice, or as a file and a folder.", CHECK_URL
        )


def _check_sizes(key: ScriptKey, files: Iterable[ScriptFile], settings: Settings) -> None:
    total = 0
    for file in files:
        total += file.size_bytes
        if file.size_bytes > settings.max_script_size_mb * MEBIBYTE:
            raise Refused(
                f"{file.path} of {key.ref} has {file.size_bytes} bytes, more than the "
                f"{settings.max_script_size_mb:g} MiB that are fetched.",
                "Raise max_script_size_mb.",
            )
    if total > settings.cache_max_size_mb * MEBIBYTE:
        raise Refused(
            f"{key} has {total} bytes, more than the whole cache's "
            f"{settings.cache_max_size_mb:g} MiB.",
            "Raise cache_max_size_mb.",
        )
