"""What the resolver needs of its neighbours; `core.service.scripts` hands it in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from core.content import entry_script, is_state
from core.errors import (
    EscherError,
    IntegrityError,
    LeaseHeld,
    NotFound,
    OtherContent,
    Refused,
    ServerBusy,
    ServerUnreachable,
    StateBesideContent,
    StorageError,
    TransferInterrupted,
    UsageError,
    WrongKey,
)
from core.files import sha256_bytes
from core.journal.script_lookup import KEPT_ANSWERS, ScriptRow, ScriptRows, ToldStatus, VersionFacts
from core.models import FORMATS, Area, FileEntry, Ref
from core.scripts.clear_text import ClearText
from core.scripts.integrity import Proofs, files_beside, prove
from core.scripts.models import (
    PARTIAL,
    CacheHit,
    Listing,
    ResolvedScript,
    ScriptKey,
    Source,
    Standing,
    read_target,
)
from core.scripts.run_policy import (
    NOTHING,
    Allow,
    Choice,
    RunFacts,
    RunPolicy,
    check_named,
    choose_latest,
    decide,
    facts_here,
    facts_there,
)
from core.settings import Settings


class StoredVersions(Protocol):
    """The local store."""

    def folder_in(self, area: Area, ref: Ref) -> Path:
        """Where the version's folder stands in ``area``, or would."""

    def read(self, ref: Ref) -> Mapping[str, bytes]:
        """Clear bytes by path, checked against the journal; `IntegrityError` when they differ."""

    def locked(self) -> AbstractContextManager[object]:
        """While this is held nobody changes the folders; `StorageError` in a read-only home."""


class Cache(Protocol):
    """The downloaded scripts."""

    def find(self, key: ScriptKey) -> CacheHit | None:
        """The entry, its bytes proven now and its time of use noted."""

    def cached_versions(self, playbook_id: str, format_: str) -> Sequence[str]:
        """The versions of which there is an entry."""

    def hit(self) -> None: ...

    def miss(self) -> None: ...


class Downloads(Protocol):
    """The server, once for however many ask."""

    def fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None) -> CacheHit:
        """Bring the entry into the cache; its files are ``expected`` where that is given."""

    def latest(self, playbook_id: str, format_: str | None) -> tuple[Ref, ToldStatus]:
        """The version that the server calls the latest, and what it says of it."""

    def tell(self, ref: Ref, format_: str | None) -> ToldStatus:
        """What the server says of a version, asked now."""


# Flow 3's front: which bytes answer a resolve, proven to be the right ones at that moment.
#
# ::
#
#     in the journal ──► playbooks/local ──► playbooks/synced ──► cache, fresh ──► the server
#       sensitive: decrypted into a private folder (`core.scripts.clear_text`)
#       changed on disk: published, the cache or the server answers; else it is an edit
#     not in the journal ───────────────────────────────────────► cache, fresh ──► the server
#
# Which version that is, and whether it may be run at all, is decided before a byte is looked at
# (`core.scripts.run_policy`). What the journal lists is what must be there: a file too many, too few
# or with another byte is no answer. Where the server can't be reached, ``serve_stale`` allows an entry
# older than the TTL.


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


class Asking(NamedTuple):
    """How a caller asks: what is overridden for this call, and whether a copy is wanted.

    ``ignore_state``: the state of a run that lies beside the scripts is no reason to refuse.
    """

    allow: Allow = NOTHING
    copy: bool = False
    ignore_state: bool = False


PLAIN = Asking()
_Asked = tuple[str, str | None, str, Asking]  # id, version (None: the latest), format
_Seen = ScriptRow | tuple[VersionFacts, ...] | None


class _Answer(NamedTuple):
    """What ``seen`` in the journal came to; ``folder`` as text: a look-up has no time for paths."""

    seen: _Seen
    row: ScriptRow
    script: ResolvedScript
    folder: str


class _Cached(NamedTuple):
    """An answer from the cache, good for as long as entry and status are the same."""

    listing: Listing
    told: ToldStatus | None
    script: ResolvedScript


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
        copies: Callable[[Listing, Path], Path],
        hand_out: Callable[[Ref], object] = lambda _ref: None,
        take_edit: Callable[[Ref], bool] | None = None,
    ) -> None:
        """``take_edit(ref)`` takes what was changed on disk into the journal; False: not yet.

        ``copies``: see `core.scripts.copies.Copies.of`. ``hand_out(ref)`` notes that a path into
        the version's own folder is given away.
        """
        self._settings = settings
        self._rows = rows
        self._proofs = proofs
        self._cache = cache
        self._downloads = downloads
        self._stored = stored
        self._clear = clear
        self._copies = copies
        self._hand_out = hand_out
        self._take_edit = take_edit
        self._given_up_until = 0.0  # monotonic
        self._answers: dict[_Asked, _Answer] = {}
        self._cached: dict[tuple[ScriptKey, Asking], _Cached] = {}

    def resolve(self, target: str, format_: str, asking: Asking = PLAIN) -> ResolvedScript:
        """``id``, ``id@version`` or ``id@latest`` in one format; every byte was just proven.

        Raises `UsageError`, `NotFound`, `NotRunnable`, `IntegrityError` (changed on disk, and not
        yet taken as an edit), or why the server could not give it.
        """
        return self._resolve(target, format_, asking, held=False, seconds=None)

    @contextmanager
    def lease(
        self, target: str, format_: str, seconds: float | None = None, asking: Asking = PLAIN
    ) -> Iterator[ResolvedScript]:
        """`resolve` for the length of a ``with``: clear text goes at its end.

        ``seconds`` bounds how long clear text may stand (default ``clear_text_seconds``).
        """
        script = self._resolve(target, format_, asking, held=True, seconds=seconds)
        try:
            yield script
        finally:
            if script.expires_at is not None:
                self._clear.release(script.folder)

    def permit(self, key: ScriptKey, allow: Allow = NOTHING) -> ScriptRow | None:
        """Its row where this home has the version; `NotRunnable` when it may not be run here."""
        row = self._rows.find(*key.ref, key.format)
        if row is not None:
            check_named(facts_here(key.ref.playbook_id, row.facts), self._policy, allow)
            return row
        self.check_shared(key.ref)
        self._elsewhere(key, allow)
        return None

    # -- known here ---------------------------------------------------------------------------
    @property
    def _policy(self) -> RunPolicy:
        return self._settings.run_policy

    def _resolve(
        self, target: str, format_: str, asking: Asking, *, held: bool, seconds: float | None
    ) -> ResolvedScript:
        playbook_id, version = read_target(target)
        if format_ not in FORMATS:
            raise UsageError(f"Format {format_!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
        wrong: IntegrityError | None = None
        asked = (playbook_id, version, format_, asking)
        for _ in range(LOOKS):
            seen: _Seen
            if version is None:
                seen = self._rows.versions_of(playbook_id, format_)
            else:
                seen = self._rows.find(playbook_id, version, format_)
            known = self._answers.get(asked)
            # the journal says what it said: only the bytes are left to be proven
            if known is not None and known.seen is seen and self._is_there(known):
                self._hand_out(known.row.ref)
                return known.script
            if not seen:
                return self._unknown(asked)
            choice = self._choose(asked, seen)
            row = (
                seen if isinstance(seen, ScriptRow) else self._rows.find(*choice.facts.ref, format_)
            )
            if row is None:
                continue  # it was deleted meanwhile
            listing, standing = _listing(row, format_), choice.standing
            if row.sensitive and asking.copy:
                raise Refused(
                    f"{row.ref} is sensitive: no copy of it is kept in clear.",
                    "Resolve it without --copy: clear text stands in a private folder for a while.",
                )
            try:
                if row.sensitive:
                    return self._in_clear(row, listing, standing, held=held, seconds=seconds)
                script, beside = self._stand(row, listing, standing)
                if beside or asking.copy:
                    return self._copied(script, beside, asking)
                self._hand_out(row.ref)
                return self._keep(asked, seen, row, script)
            except WrongKey:
                raise
            except IntegrityError as error:
                wrong = error
            if self._rows.find(*row.ref, format_) != row:
                continue  # it was replaced or moved meanwhile
            if row.published:
                return self._cached_or_fetched(listing.key, standing, listing, asking, wrong.detail)
            if not self._settle(row, listing, standing):
                break
        if wrong is None:
            raise LeaseHeld(f"{target} is just being changed.", "Try again.")
        raise wrong

    def _choose(self, asked: _Asked, seen: ScriptRow | tuple[VersionFacts, ...]) -> Choice:
        """The version to run; `NotRunnable` when there is none, `NotFound` without the format."""
        playbook_id, _, format_, asking = asked
        if isinstance(seen, ScriptRow):
            facts = facts_here(playbook_id, seen.facts)
            if not seen.facts.has_format:
                raise _no_script(seen.ref, format_)
            return check_named(facts, self._policy, asking.allow)
        choice = choose_latest(
            [facts_here(playbook_id, facts) for facts in seen], self._policy, asking.allow
        )
        if choice is None:
            raise _no_script(playbook_id, format_)
        return choice

    def _is_there(self, known: _Answer) -> bool:
        format_ = known.script.listing.key.format
        return prove(known.folder, format_, known.row.files, self._proofs) is None

    def _keep(
        self, asked: _Asked, seen: _Seen, row: ScriptRow, script: ResolvedScript
    ) -> ResolvedScript:
        if len(self._answers) >= KEPT_ANSWERS:
            self._answers.clear()
        self._answers[asked] = _Answer(seen, row, script, str(script.folder))
        return script

    def _stand(
        self, row: ScriptRow, listing: Listing, standing: Standing
    ) -> tuple[ResolvedScript, Sequence[str]]:
        """The folder in ``playbooks/`` that holds the journal's files, and what was left there."""
        first = ""
        # its own area first; a version on its way into another one stands there already
        for area in (row.area, *(other for other in Area if other is not row.area)):
            folder = self._stored.folder_in(area, row.ref)
            wrong = prove(folder, listing.key.format, row.files, self._proofs)
            beside: Sequence[str] = ()
            if wrong is not None and (
                beside := files_beside(folder, listing.key.format, row.files)
            ):
                wrong = prove(folder, listing.key.format, row.files, self._proofs, beside)
            if wrong is None:
                return ResolvedScript(listing, folder, _source(area), standing), beside
            first = first or f"{row.ref} was changed on disk: {wrong} in {folder}."
        raise IntegrityError(first, _EDITED)

    def _in_clear(
        self,
        row: ScriptRow,
        listing: Listing,
        standing: Standing,
        *,
        held: bool,
        seconds: float | None,
    ) -> ResolvedScript:
        clear = self._stored.read(row.ref)
        files = {file.path: clear.get(file.path, b"") for file in row.files}
        for file in row.files:
            if sha256_bytes(files[file.path]) != file.checksum:
                raise IntegrityError(f"{row.ref} {file.path} was changed on disk.", _EDITED)
        lease = self._clear.write(files, held=held, seconds=seconds)
        source = _source(row.area)
        return ResolvedScript(listing, lease.folder, source, standing, expires_at=lease.ends_at)

    def _settle(self, row: ScriptRow, listing: Listing, standing: Standing) -> bool:
        """Whether to look again: a writer was just at work, or the edit was taken in."""
        if not row.sensitive:  # reading those has waited already
            try:
                with self._stored.locked():
                    self._stand(row, listing, standing)
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
    def _unknown(self, asked: _Asked) -> ResolvedScript:
        """Of a version, or of a playbook, that the journal does not know."""
        playbook_id, version, format_, asking = asked
        if version is not None:
            key = ScriptKey(Ref(playbook_id, version), format_)
            self.check_shared(key.ref)
            return self._named_elsewhere(key, asking)
        if self._given_up and (cached := self._latest_cached(playbook_id, format_, asking)):
            return cached
        try:
            ref, told = self._downloads.latest(playbook_id, format_)
        except EscherError as error:
            if self._is_out_of_reach(error):
                cached = self._latest_cached(playbook_id, format_, asking)
                if cached is not None:
                    return cached
            raise _explained(error, _not_here(playbook_id)) from error
        choice = choose_latest([self._there(ref, told)], self._policy, asking.allow)
        assert choice is not None  # it has the format: it was asked for it
        return self._cached_or_fetched(ScriptKey(ref, format_), choice.standing, None, asking)

    def check_shared(self, ref: Ref) -> None:
        """`NotFound` for the server's versions of an id that is this home's own."""
        if self._rows.is_private(ref.playbook_id):
            raise NotFound(
                f"There is no {ref} on this machine, and {ref.playbook_id} is private here: no"
                " version of it was published from here or pulled.",
                "What the server has under that id is never run; `escher-playbooks conflicts`"
                " shows it.",
            )

    def _named_elsewhere(self, key: ScriptKey, asking: Asking) -> ResolvedScript:
        """A version that only the server knows, by its name."""
        told = self._rows.told(key.ref)
        hit = self._find(key)
        known = self._cached.get((key, asking))
        if (
            hit is not None
            and hit.fresh
            and known is not None
            and known.told is told
            and known.listing is hit.listing
            and not hit.beside
        ):
            self._cache.hit()
            return known.script
        choice = self._elsewhere(key, asking.allow)
        script = self._cached_or_fetched(key, choice.standing, None, asking)
        if script.source is Source.CACHE and not script.stale and not script.is_copy:
            if len(self._cached) >= KEPT_ANSWERS:
                self._cached.clear()
            told = self._rows.told(key.ref)
            self._cached[key, asking] = _Cached(script.listing, told, script)
        return script

    def _elsewhere(self, key: ScriptKey, allow: Allow) -> Choice:
        """Whether a version that only the server knows may be run; it is asked where it matters.

        What it said last counts while the bytes of that are fresh, and while it is out of reach.
        """
        told = self._rows.told(key.ref)
        hit = self._find(key)
        usable = hit is not None and (hit.fresh or self._settings.serve_stale)
        facts = self._there(key.ref, told)
        if usable and self._given_up:
            return check_named(facts, self._policy, allow)
        known = told is not None and hit is not None and hit.fresh
        if known and decide(facts, self._policy).runs(allow):
            return check_named(facts, self._policy, allow)
        try:
            told = self._downloads.tell(key.ref, key.format)
            self._given_up_until = 0.0
        except EscherError as error:
            if not (self._is_out_of_reach(error) and usable):
                why = _not_here(key.ref)
                if hit is not None:
                    why = f"The cached {key} is older than cache_ttl_days, and serve_stale is off."
                raise _explained(error, why) from error
        return check_named(self._there(key.ref, told), self._policy, allow)

    def _there(self, ref: Ref, told: ToldStatus | None) -> RunFacts:
        return facts_there(ref, told, in_conflict=self._rows.in_conflict(ref))

    def _find(self, key: ScriptKey) -> CacheHit | None:
        hit = self._cache.find(key)
        return None if hit is None or hit.source == PARTIAL else hit

    def _latest_cached(
        self, playbook_id: str, format_: str, asking: Asking
    ) -> ResolvedScript | None:
        """The latest of what is cached and may be run, while the server can't be asked.

        None where nothing that may be answered is cached; `NotRunnable` where none of it may run.
        """
        hits: dict[Ref, CacheHit] = {}
        for version in self._cache.cached_versions(playbook_id, format_):
            ref = Ref(playbook_id, version)
            hit = self._find(ScriptKey(ref, format_))
            if hit is not None and (hit.fresh or self._settings.serve_stale):
                hits[ref] = hit
        if not hits:
            return None
        versions = [self._there(ref, self._rows.told(ref)) for ref in hits]
        choice = choose_latest(versions, self._policy, asking.allow)
        assert choice is not None
        hit = hits[choice.facts.ref]
        return self._from_cache(hit, hit.listing, choice.standing, asking, stale=not hit.fresh)

    def _cached_or_fetched(
        self,
        key: ScriptKey,
        standing: Standing,
        known: Listing | None,
        asking: Asking,
        why: str | None = None,
    ) -> ResolvedScript:
        """A fresh entry, else the server's; ``why`` disk has no answer goes into the error.

        ``known``: what the journal lists. Another content under that name is no answer.
        """
        hit = self._find(key)
        if hit is not None and known is not None and hit.listing.digest != known.digest:
            hit = None
        if hit is not None and hit.fresh:
            return self._from_cache(hit, known or hit.listing, standing, asking)
        may_be_stale = hit is not None and self._settings.serve_stale
        if hit is not None and may_be_stale and self._given_up:
            return self._from_cache(hit, known or hit.listing, standing, asking, stale=True)
        self._cache.miss()
        try:
            fetched = self._downloads.fetch(key, known.files if known else None)
            self._given_up_until = 0.0
        except OtherContent as error:
            if hit is None:
                raise
            # what the name stands for goes on being answered; the user chooses
            warned = replace(standing, warnings=(*standing.warnings, error.detail))
            return self._from_cache(hit, known or hit.listing, warned, asking, stale=not hit.fresh)
        except EscherError as error:
            if self._is_out_of_reach(error) and hit is not None and may_be_stale:
                return self._from_cache(hit, known or hit.listing, standing, asking, stale=True)
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
        script = ResolvedScript(known or fetched.listing, fetched.folder, source, standing)
        return self._copied(script, (), asking) if asking.copy else script

    @property
    def _given_up(self) -> bool:
        return time.monotonic() < self._given_up_until

    def _is_out_of_reach(self, error: EscherError) -> bool:
        if not isinstance(error, _OUT_OF_REACH):
            return False
        self._given_up_until = time.monotonic() + GIVEN_UP_SECONDS
        return True

    def _from_cache(
        self,
        hit: CacheHit,
        listing: Listing,
        standing: Standing,
        asking: Asking,
        *,
        stale: bool = False,
    ) -> ResolvedScript:
        self._cache.hit()
        if stale:
            _log.warning("%s: a stale entry is served", listing.key)
        script = ResolvedScript(listing, hit.folder, Source.CACHE, standing, stale=stale)
        if hit.beside or asking.copy:
            return self._copied(script, hit.beside, asking)
        return script

    def _copied(
        self, script: ResolvedScript, beside: Sequence[str], asking: Asking
    ) -> ResolvedScript:
        """A copy of exactly the content; `StateBesideContent` for what a copy would run without."""
        state = next((path for path in beside if is_state(path)), None)
        if state is not None and not asking.ignore_state:
            raise StateBesideContent(
                f"{script.folder / state} lies beside the scripts of {script.ref}: what a run knows"
                " of the cloud, and no part of the playbook.",
                f"Run in a working folder of your own (`escher-playbooks export {script.ref} DIR`,"
                " and move the state there), or keep the state in Terraform's backend (a `backend`"
                " block, or `-backend-config`). --ignore-state resolves without it.",
            )
        folder = self._copies(script.listing, script.folder)
        return replace(script, folder=folder, is_copy=True)


def _listing(row: ScriptRow, format_: str) -> Listing:
    entry: str | None
    if len(row.files) == 1:  # whatever is named
        entry = row.files[0].path
    else:
        entry, _ = entry_script(format_, [file.path for file in row.files], row.entry_points)
    if entry is None:
        raise _no_script(row.ref, format_)
    return Listing(ScriptKey(row.ref, format_), row.files, entry)


def _no_script(what: object, format_: str) -> NotFound:
    return NotFound(f"{what} has no {format_} script.", "`escher-playbooks show` lists its files.")


def _source(area: Area) -> Source:
    return Source.SYNCED if area is Area.SYNCED else Source.LOCAL


def _not_here(what: object) -> str:
    return f"There is no {what} on this machine."


def _explained(error: _E, why: str) -> _E:
    """The same kind of error, saying first why disk has no answer."""
    return type(error)(f"{why} {error.detail}", error.remedy, error.retry_after)
