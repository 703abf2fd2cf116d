"""Check what the server offers of a script before a byte of it touches the disk.

Names from the server are labels: each must be a safe relative path inside the format's folder.
Whether the offer is what the name stands for::

    the answer tells the whole version      its digest is computed: the pinned one, or nothing is
    (manifest and metadata)                 taken and a conflict waits; the first one is pinned
    it does not (an older server)           held against the journal's list of files, where the
                                            version is known; a pinned one that is not is refused,
                                            one that nothing is known of is taken unpinned
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import (
    IntegrityError,
    InvalidPlaybook,
    NotEscherServer,
    NotFound,
    OtherContent,
    Refused,
    UnsafePath,
)
from core.files import check_distinct, check_relative_path
from core.journal import Journal
from core.journal.pins import LIBRARY, SERVER
from core.models import (
    RESERVED_PREFIX,
    SERVER_OWNED_FIELDS,
    FileEntry,
    Ref,
    ScriptKey,
    canonical_json,
    parse_version,
)
from core.scripts.models import Listing
from core.server.answers import CHECK_URL, ManifestEntry, Script, ScriptFile, clean_words
from core.settings import Settings

MAX_FILES = 2000
MEBIBYTE = 1 << 20
IMMUTABLE = "immutable"  # as `core.publishing.conflict_rules.Rule` has it
_NAMED = 19  # characters of a digest that tell it from another one


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


def check_pinned(journal: Journal, ref: Ref, script: Script, *, is_known: bool) -> None:
    """Raise where ``script`` offers another content than ``ref`` names; pin it where it names none.

    ``is_known``: the journal lists the version's files, and they are compared. `OtherContent`, or
    `IntegrityError` for an answer that contradicts itself, `Refused` for a version of an id that is
    private here.
    """
    if not is_known and journal.pins.private_ids([ref.playbook_id]):
        raise Refused(
            f"{ref} is somebody else's: {ref.playbook_id} is private here.",
            "`escher-playbooks conflicts` lists what waits for your choice.",
        )
    pinned = journal.pins.get(ref)
    if script.manifest is None or script.metadata is None:
        if pinned is not None and not is_known:
            raise IntegrityError(
                f"The server does not tell the whole of {ref}, so it can't be compared with what"
                " that name stands for.",
                "Nothing was downloaded. Ask the server's operator.",
            )
        return
    _check_files(ref, script, script.manifest)
    digest = version_digest(script.metadata, script.manifest)
    if script.content_digest not in {None, digest}:
        raise IntegrityError(
            f"The server's account of {ref} does not make the digest that it names.", CHECK_URL
        )
    if pinned is None:
        is_library = ref.playbook_id.startswith(RESERVED_PREFIX)
        journal.pins.put([(ref, digest)], LIBRARY if is_library else SERVER)
        pinned = journal.pins.get(ref)  # another process may have been first
    if pinned != digest:
        words = (
            f"The server claims other content for {ref} than that name stands for"
            f" ({digest[:_NAMED]}…); nothing of it is taken."
        )
        journal.conflicts.open(ref, IMMUTABLE, words, server_digest=digest)
        raise OtherContent(
            words, "Choose with `escher-playbooks conflicts resolve`, or ask its operator."
        )


def version_digest(metadata: dict[str, object], manifest: Iterable[ManifestEntry]) -> str:
    """The content digest of a version as a script answer tells it."""
    document = {
        "metadata": {k: v for k, v in metadata.items() if k not in SERVER_OWNED_FIELDS},
        "files": sorted(
            [entry.path, entry.checksum, *(["x"] if entry.executable else [])] for entry in manifest
        ),
    }
    return "sha256:" + hashlib.sha256(canonical_json(document)).hexdigest()


def _check_files(ref: Ref, script: Script, manifest: Iterable[ManifestEntry]) -> None:
    """The files that are offered are those of the manifest, in the format that was asked for."""
    listed = {entry.path: entry.checksum for entry in manifest}
    offered = {file.path: file.checksum for file in script.files}
    lacking = {
        path
        for path in listed
        if script.format is not None and path.startswith(f"{script.format}/")
    } - offered.keys()
    wrong = {path for path, checksum in offered.items() if listed.get(path) != checksum}
    if lacking or wrong:
        path = min(lacking | wrong)
        raise IntegrityError(
            f"The server offers {path[:200]!r} of {ref} otherwise than its own manifest says.",
            CHECK_URL,
        )
