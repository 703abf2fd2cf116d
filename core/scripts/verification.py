"""Staged bytes hashed again, as a step of its own; it alone promotes them into the cache.

What was hashed on its way in says that the right bytes came; this says that the right bytes are on
the disk, and that nothing else is. Each file is then synced, so that it is durable before the
rename; what was only staged may be lost to a power cut, and is found wrong here. Names are not
synced: an entry that lost one is no longer what its manifest says, which every look-up finds out,
and is fetched again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from core.errors import EscherError, TransferInterrupted, storage_error
from core.scripts.cache import ScriptCache
from core.scripts.cached import CacheHit, Staged
from core.scripts.claim import Claim
from core.scripts.entries import ScriptKey
from core.scripts.outcomes import in_words
from core.scripts.proof import prove
from core.scripts.threads import in_threads

log = logging.getLogger(__name__)


def verify_staged(
    cache: ScriptCache, claim: Claim, staged: Mapping[ScriptKey, Staged], threads: int
) -> dict[ScriptKey, CacheHit | EscherError]:
    """Promote what is right, set aside what is not; each script ends in its own result.

    `TransferInterrupted`: the staged bytes were not those that had been downloaded. What was
    promoted is settled; failures are the caller's to settle.
    """

    def work(key: ScriptKey) -> str | None:
        """What is wrong with the staged files; None of right ones, which are durable then."""
        files = staged[key].listing.files
        wrong = prove(staged[key].folder, key.format, files, None)
        if wrong is None:
            for file in files:
                _sync(f"{staged[key].folder}/{file.path}")
        return wrong

    results: dict[ScriptKey, CacheHit | EscherError] = {}
    right: list[ScriptKey] = []
    for key, wrong in in_threads(work, list(staged), threads).items():
        if wrong is None:
            right.append(key)
        elif isinstance(wrong, BaseException):
            results[key] = in_words(key, wrong)
        else:
            results[key] = _set_aside(cache, staged[key], wrong)
    return results | _promote(cache, claim, {key: staged[key] for key in right})


def _sync(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, f"Writing {path}") from error


def _promote(
    cache: ScriptCache, claim: Claim, right: Mapping[ScriptKey, Staged]
) -> dict[ScriptKey, CacheHit | EscherError]:
    """All in one transaction; where that fails, one by one to find what stops the others."""
    if not right:
        return {}
    items = list(right.values())
    try:
        hits = cache.promote_many(items, settle=lambda opened: claim.done(right, opened))
    except Exception as error:  # noqa: BLE001 — an item's mistake is its own, never its batch's
        if len(right) == 1:
            return {key: in_words(key, error) for key in right}
        results: dict[ScriptKey, CacheHit | EscherError] = {}
        for key, item in right.items():
            results |= _promote(cache, claim, {key: item})
        return results
    claim.close(right)
    return dict(zip(right, hits, strict=True))


def _set_aside(cache: ScriptCache, item: Staged, wrong: str) -> EscherError:
    key = item.listing.key
    log.warning("the staged bytes of %s are not those that came: %s", key, wrong)
    try:
        cache.quarantine_staged(item.folder, key, wrong)
    except Exception as error:  # noqa: BLE001 — as above
        return in_words(key, error)
    return TransferInterrupted(
        f"The staged bytes of {key} are not those that were downloaded: {wrong}.",
        "They are fetched anew.",
    )
