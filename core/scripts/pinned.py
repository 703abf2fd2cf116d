"""Whether what the server offers is what a name stands for, before a byte of it is taken.

::

    the answer tells the whole version      its digest is computed: the pinned one, or nothing is
    (manifest and metadata)                 taken and a conflict waits; the first one is pinned
    it does not (an older server)           held against the journal's list of files, where the
                                            version is known; a pinned one that is not is refused,
                                            one that nothing is known of is taken unpinned
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from core.errors import IntegrityError, OtherContent, Refused
from core.journal import Journal
from core.journal.pins import LIBRARY, SERVER
from core.models import SERVER_OWNED_FIELDS, Ref, canonical_json
from core.scripts.entries import LIBRARY_PREFIX
from core.server.answers import ManifestEntry, Script
from core.server.problems import CHECK_URL

IMMUTABLE = "immutable"  # as `core.publishing.conflict_rules.Rule` has it
_NAMED = 19  # characters of a digest that tell it from another one


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
        is_library = ref.playbook_id.startswith(LIBRARY_PREFIX)
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
