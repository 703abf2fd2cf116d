"""Flow 3's front: which bytes answer a resolve, proven to be the right ones at that moment.

::

    in the journal ──► playbooks/local ──► playbooks/synced ──► cache, fresh ──► the server
      sensitive: decrypted into a private folder (`core.scripts.clear_text`)
      changed on disk: published, the cache or the server answers; else it is an edit
    not in the journal ───────────────────────────────────────► cache, fresh ──► the server

What the journal lists is what must be there: a file too many, too few or with another byte is no
answer. Where the server can't be reached, ``serve_stale`` allows an entry older than the TTL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from core.errors import (
    EscherError,
    IntegrityError,
    NotFound,
    ServerBusy,
    ServerUnreachable,
    StorageError,
    TransferInterrupted,
    UsageError,
    WrongKey,
)
from core.files import sha256_bytes
from core.journal.script_rows import KEPT_ANSWERS, ScriptRow, ScriptRows
from core.models import FORMATS, Area, Ref, entry_script
from core.scripts.cached import CacheHit
from core.scripts.clear_text import ClearLease, ClearText
from core.scripts.entries import Listing, ResolvedScript, ScriptKey, Source
from core.scripts.ports import Cache, Downloads, StoredVersions
from core.scripts.proof import Proofs, prove
from core.scripts.target import read_target
from core.settings import Settings
from core.versions import sorted_versions

LOOKS = 5  # a version may be replaced or moved while it is looked at, and then again
# Having failed to reach the server, what may be answered without it is, for so long, at once.
GIVEN_UP_SECONDS = 30.0
_OUT_OF_REACH = (ServerUnreachable, ServerBusy, TransferInterrupted)
_EDITED = (
    "An edit is taken in by the next sync, once it is quiet and can be read;"
    " `escher-playbooks verify` lists what differs."
)
_log = logging.getLogger(__name__)
_E = TypeVar("_E", bound=EscherError)


class _Answer(NamedTuple):
    """What a row came to; ``folder`` as text, since a look-up has no time for paths."""

    row: ScriptRow
    script: ResolvedScript
    folder: str


class ScriptResolver:
    """Resolves scripts; one a process, for all its threads."""

    def __init__(
        self,
        settings: Settings,
        rows: ScriptRows,
        proofs: Proofs,
        *,
        cache: Cache,
        downloads: Downloads,
        stored: StoredVersions,
        clear: ClearText,
        take_edit: Callable[[Ref], bool] | None = None,
    ) -> None:
        """``take_edit(ref)`` takes what was changed on disk into the journal; False: not yet."""
        self._settings = settings
        self._rows = rows
        self._proofs = proofs
        self._cache = cache
        self._downloads = downloads
        self._stored = stored
        self._clear = clear
        self._take_edit = take_edit
        self._given_up_until = 0.0  # monotonic
        self._answers: dict[tuple[str, str | None, str], _Answer] = {}
        self._cached: dict[ScriptKey, ResolvedScript] = {}

    def resolve(self, target: str, format_: str) -> ResolvedScript:
        """``id``, ``id@version`` or ``id@latest`` in one format; every byte was just proven.

        Raises `UsageError`, `NotFound`, `IntegrityError` (changed on disk, and not yet taken as an
        edit), or why the server could not give it.
        """
        return self._resolve(target, format_, held=False, seconds=None)

    @contextmanager
    def lease(
        self, target: str, format_: str, seconds: float | None = None
    ) -> Iterator[ResolvedScript]:
        """`resolve` for the length of a ``with``: clear text goes at its end.

        ``seconds`` bounds how long clear text may stand (default ``clear_text_seconds``).
        """
        script = self._resolve(target, format_, held=True, seconds=seconds)
        try:
            yield script
        finally:
            if script.expires_at is not None:
                self._clear.release(ClearLease(script.folder, script.expires_at))

    # -- known here ---------------------------------------------------------------------------
    def _resolve(
        self, target: str, format_: str, *, held: bool, seconds: float | None
    ) -> ResolvedScript:
        playbook_id, version = read_target(target)
        if format_ not in FORMATS:
            raise UsageError(f"Format {format_!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
        wrong: IntegrityError | None = None
        asked = (playbook_id, version, format_)
        for _ in range(LOOKS):
            row = self._rows.find(*asked)
            known = self._answers.get(asked)
            # the journal says what it said: only the bytes are left to be proven
            if known is not None and known.row is row and self._is_there(known):
                return known.script
            if row is None:
                return self._unknown(playbook_id, version, format_)
            listing = _listing(row, format_)
            try:
                if row.sensitive:
                    return self._in_clear(row, listing, held=held, seconds=seconds)
                return self._keep(asked, row, self._stand(row, listing))
            except WrongKey:
                raise
            except IntegrityError as error:
                wrong = error
            if self._rows.find(*asked) != row:
                continue  # it was replaced or moved meanwhile
            if row.published:
                return self._cached_or_fetched(listing.key, listing, wrong.detail)
            if not self._settle(row, listing):
                break
        assert wrong is not None  # else it was answered
        raise wrong

    def _is_there(self, known: _Answer) -> bool:
        format_ = known.script.listing.key.format
        return prove(known.folder, format_, known.row.files, self._proofs) is None

    def _keep(
        self, asked: tuple[str, str | None, str], row: ScriptRow, script: ResolvedScript
    ) -> ResolvedScript:
        if len(self._answers) >= KEPT_ANSWERS:
            self._answers.clear()
        self._answers[asked] = _Answer(row, script, str(script.folder))
        return script

    def _stand(self, row: ScriptRow, listing: Listing) -> ResolvedScript:
        """The folder in ``playbooks/`` that holds exactly the journal's files."""
        first = ""
        # its own area first; a version on its way into another one stands there already
        for area in (row.area, *(other for other in Area if other is not row.area)):
            folder = self._stored.folder_in(area, row.ref)
            wrong = prove(folder, listing.key.format, row.files, self._proofs)
            if wrong is None:
                return ResolvedScript(listing, folder, _source(area))
            first = first or f"{row.ref} was changed on disk: {wrong} in {folder}."
        raise IntegrityError(first, _EDITED)

    def _in_clear(
        self, row: ScriptRow, listing: Listing, *, held: bool, seconds: float | None
    ) -> ResolvedScript:
        clear = self._stored.read(row.ref)
        files = {file.path: clear.get(file.path, b"") for file in row.files}
        for file in row.files:
            if sha256_bytes(files[file.path]) != file.checksum:
                raise IntegrityError(f"{row.ref} {file.path} was changed on disk.", _EDITED)
        lease = self._clear.write(files, held=held, seconds=seconds)
        return ResolvedScript(listing, lease.folder, _source(row.area), expires_at=lease.ends_at)

    def _settle(self, row: ScriptRow, listing: Listing) -> bool:
        """Whether to look again: a writer was just at work, or the edit was taken in."""
        if not row.sensitive:  # reading those has waited already
            try:
                with self._stored.locked():
                    self._stand(row, listing)
            except StorageError as error:  # a home that can't be written has no writer
                _log.debug("not waited for a writer: %s", error.detail)
            except IntegrityError:
                pass  # as before
            else:
                return True
        if self._rows.find(*row.ref, listing.key.format) != row:
            return True
        return self._take_edit is not None and self._take_edit(row.ref)

    # -- from the cache or the server -----------------------------------------------------------
    def _unknown(self, playbook_id: str, version: str | None, format_: str) -> ResolvedScript:
        if version is not None:
            ref = Ref(playbook_id, version)
            return self._cached_or_fetched(ScriptKey(ref, format_), None)
        if self._given_up and (cached := self._latest_cached(playbook_id, format_)):
            return cached
        try:
            ref = self._downloads.latest(playbook_id, format_)
        except EscherError as error:
            if self._is_out_of_reach(error):
                cached = self._latest_cached(playbook_id, format_)
                if cached is not None:
                    return cached
            raise _explained(error, _not_here(playbook_id)) from error
        return self._cached_or_fetched(ScriptKey(ref, format_), None)

    def _latest_cached(self, playbook_id: str, format_: str) -> ResolvedScript | None:
        """The highest version in the cache that may be answered while the server can't be asked."""
        for version in reversed(sorted_versions(self._cache.cached_versions(playbook_id, format_))):
            hit = self._cache.find(ScriptKey(Ref(playbook_id, version), format_))
            if hit is not None and (hit.fresh or self._settings.serve_stale):
                return self._from_cache(hit, hit.listing, stale=not hit.fresh)
        return None

    def _cached_or_fetched(
        self, key: ScriptKey, known: Listing | None, why: str | None = None
    ) -> ResolvedScript:
        """A fresh entry, else the server's; ``why`` disk has no answer goes into the error.

        ``known``: what the journal lists. Another content under that name is no answer.
        """
        hit = self._cache.find(key)
        if hit is not None and known is not None and hit.listing.digest != known.digest:
            hit = None
        if hit is not None and hit.fresh:
            return self._from_cache(hit, known or hit.listing)
        may_be_stale = hit is not None and self._settings.serve_stale
        if hit is not None and may_be_stale and self._given_up:
            return self._from_cache(hit, known or hit.listing, stale=True)
        self._cache.miss()
        try:
            fetched = self._downloads.fetch(key, known.files if known else None)
            self._given_up_until = 0.0
        except EscherError as error:
            if self._is_out_of_reach(error) and hit is not None and may_be_stale:
                return self._from_cache(hit, known or hit.listing, stale=True)
            if why is None and hit is not None:
                why = f"The cached {key} is older than cache_ttl_days, and serve_stale is off."
            raise _explained(error, why or _not_here(key.ref)) from error
        if known is not None and fetched.listing.digest != known.digest:
            raise IntegrityError(
                f"{key} came with other files than the journal lists.",
                "`escher-playbooks sync` brings the journal up to date.",
            )
        source = Source.DOWNLOAD
        if hit is not None and hit.listing.digest == fetched.listing.digest:
            source = Source.CACHE  # the server still lists the same bytes: none were sent
        return ResolvedScript(known or fetched.listing, fetched.folder, source)

    @property
    def _given_up(self) -> bool:
        return time.monotonic() < self._given_up_until

    def _is_out_of_reach(self, error: EscherError) -> bool:
        if not isinstance(error, _OUT_OF_REACH):
            return False
        self._given_up_until = time.monotonic() + GIVEN_UP_SECONDS
        return True

    def _from_cache(
        self, hit: CacheHit, listing: Listing, *, stale: bool = False
    ) -> ResolvedScript:
        self._cache.hit()
        if stale:
            _log.warning("%s: a stale entry is served, as the server is out of reach", listing.key)
            return ResolvedScript(listing, hit.folder, Source.CACHE, stale=True)
        script = self._cached.get(listing.key)
        if script is None or script.listing is not listing:  # made once for as long as it stands
            if len(self._cached) >= KEPT_ANSWERS:
                self._cached.clear()
            script = ResolvedScript(listing, hit.folder, Source.CACHE)
            self._cached[listing.key] = script
        return script


def _listing(row: ScriptRow, format_: str) -> Listing:
    entry: str | None
    if len(row.files) == 1:  # whatever is named
        entry = row.files[0].path
    else:
        entry, _ = entry_script(format_, [file.path for file in row.files], row.entry_points)
    if entry is None:
        raise NotFound(
            f"{row.ref} has no {format_} script.", "`escher-playbooks show` lists its files."
        )
    return Listing(ScriptKey(row.ref, format_), row.files, entry)


def _source(area: Area) -> Source:
    return Source.SYNCED if area is Area.SYNCED else Source.LOCAL


def _not_here(what: object) -> str:
    return f"There is no {what} on this machine."


def _explained(error: _E, why: str) -> _E:
    """The same kind of error, saying first why disk has no answer."""
    return type(error)(f"{why} {error.detail}", error.remedy, error.retry_after)
