"""Bytes handed in by a caller, taken into the cache under the same rules as a download.

A claim in the journal keeps downloads of the same script off, and room is reserved, before a byte
is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import EscherError, LeaseHeld
from core.files import write_tree
from core.journal import Journal
from core.models import FileEntry
from core.scripts.cache import ScriptCache
from core.scripts.cached import PARTIAL, CacheHit
from core.scripts.claim import Claim
from core.scripts.entries import Listing, ScriptKey
from core.scripts.staging import LIBRARY, TENANT, row_key


def insert(
    journal: Journal,
    cache: ScriptCache,
    listing: Listing,
    files: Mapping[str, bytes],
    *,
    whole: bool = True,
) -> CacheHit:
    """Make ``{path: bytes}``, which are what ``listing`` says, the cached entry of its key.

    ``whole`` False: more files belong to it, and until they are there nobody runs it.

    Raises `LeaseHeld` while it is being downloaded, `CacheFull`, `Refused` (larger than the cache)
    or `StorageError`.
    """
    key = listing.key
    cache.layout.prepare()
    with Claim(journal, cache.layout.staging, [key]) as claim:
        if key not in claim.rows:
            raise LeaseHeld(f"{key} is just being downloaded.", "Try again in a moment.")
        try:
            hit = _insert(journal, cache, claim, listing, files, whole=whole)
        except EscherError as error:
            claim.settle({key: error})
            raise
    return hit


def _insert(
    journal: Journal,
    cache: ScriptCache,
    claim: Claim,
    listing: Listing,
    files: Mapping[str, bytes],
    *,
    whole: bool,
) -> CacheHit:
    key = listing.key
    size = cache.footprint(listing)
    with journal.database.write() as connection:
        journal.downloads.reserve({row_key(key): 0}, claim.lease, connection)
        cache.make_room(size, connection)
        journal.downloads.reserve({row_key(key): size}, claim.lease, connection)
    write_tree(claim.folders[key], dict(files))
    source = PARTIAL
    if whole:
        source = LIBRARY if key.is_library else TENANT
    hit = cache.promote(
        claim.folders[key], listing, source, settle=lambda opened: claim.done([key], opened)
    )
    claim.close([key])
    return hit


def with_file(
    cache: ScriptCache, key: ScriptKey, entry: FileEntry, content: bytes
) -> dict[str, bytes]:
    """The files of the cached entry of ``key``, proven, with ``entry`` among them or in its place."""
    hit = cache.find(key)
    held = {} if hit is None else {file.path: hit.folder for file in hit.listing.files}
    return {path: (folder / path).read_bytes() for path, folder in held.items()} | {
        entry.path: content
    }
