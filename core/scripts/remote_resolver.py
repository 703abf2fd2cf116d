"""Resolve from the cache or the server what this home does not know, or has no right bytes of.

::

    cache, fresh ──► the server ──► cache, stale (``serve_stale``, while the server can't be asked)

A version that only the server knows is run by what it last said of it: that counts while the bytes of it
are fresh; after that the server is asked again, before anything is downloaded.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TypeGuard, TypeVar

from core.errors import (
    EscherError,
    IntegrityError,
    NotFound,
    OtherContent,
    ServerBusy,
    ServerUnreachable,
    TransferInterrupted,
)
from core.journal.script_lookup import KEPT_ANSWERS, ScriptRows, ToldStatus
from core.models import Ref, ScriptKey
from core.scripts.cache import ScriptCache
from core.scripts.copies import Copies
from core.scripts.downloads import ScriptDownloads
from core.scripts.models import (
    PARTIAL,
    CacheHit,
    Listing,
    Overrides,
    ResolvedScript,
    ResolveOptions,
    ScriptRequest,
    Source,
    VersionInfo,
)
from core.scripts.run_policy import (
    Choice,
    RunFacts,
    check_named,
    choose_latest,
    decide,
    facts_there,
)
from core.settings import Settings

# Having failed to reach the server, what may be answered without it is, for so long, at once.
GIVEN_UP_SECONDS = 30.0
_OUT_OF_REACH = (ServerUnreachable, ServerBusy, TransferInterrupted)
_log = logging.getLogger(__name__)
_E = TypeVar("_E", bound=EscherError)


class RemoteResolver:
    """Resolves scripts from the cache and the server; one a process, for all its threads."""

    def __init__(
        self,
        settings: Settings,
        rows: ScriptRows,
        *,
        cache: ScriptCache,
        downloads: ScriptDownloads,
        copies: Copies,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._cache = cache
        self._downloads = downloads
        self._copies = copies
        self._given_up_until = 0.0  # monotonic
        # each is good while the entry and what the server told of it are the same
        self._answers: dict[ScriptRequest, tuple[ToldStatus | None, ResolvedScript]] = {}

    def resolve(self, request: ScriptRequest) -> ResolvedScript:
        """Resolve a version, or the latest of a playbook, that the journal does not know.

        Raises `NotFound`, `NotRunnable`, or why the server could not give it.
        """
        if request.version is None:
            return self._latest(request)
        key = ScriptKey(Ref(request.playbook_id, request.version), request.format)
        self.check_shared(key.ref)
        told = self._rows.told(key.ref)
        hit = self._find(key)
        if hit is not None and hit.fresh and not hit.beside and request in self._answers:
            told_then, script = self._answers[request]
            if told_then is told and script.listing is hit.listing:
                self._cache.hit()
                return script
        choice = self._check(key, request.options.overrides, hit)
        script = self.cached_or_fetched(key, choice.info, request.options)
        if script.source is Source.CACHE and not script.stale and not script.is_copy:
            if len(self._answers) >= KEPT_ANSWERS:
                self._answers.clear()
            self._answers[request] = self._rows.told(key.ref), script
        return script

    def check(self, key: ScriptKey, overrides: Overrides) -> None:
        """Raise `NotRunnable` when a version that only the server knows may not be run here."""
        self.check_shared(key.ref)
        self._check(key, overrides, self._find(key))

    def check_shared(self, ref: Ref) -> None:
        """Raise `NotFound` for the server's versions of an id that is this home's own."""
        if self._rows.is_private(ref.playbook_id):
            raise NotFound(
                f"There is no {ref} on this machine, and {ref.playbook_id} is private here: no"
                " version of it was published from here or pulled.",
                "What the server has under that id is never run; `escher-playbooks conflicts`"
                " shows it.",
            )

    def _latest(self, request: ScriptRequest) -> ResolvedScript:
        """The latest version that the server has, or the cache while it can't be asked."""
        if self._given_up and (cached := self._latest_cached(request)):
            return cached
        try:
            ref, told = self._downloads.latest(request.playbook_id, request.format)
        except EscherError as error:
            if self._is_out_of_reach(error) and (cached := self._latest_cached(request)):
                return cached
            raise _explained(error, _not_here(request.playbook_id)) from error
        facts, options = self._facts_there(ref, told), request.options
        choice = choose_latest([facts], self._settings.run_policy, options.overrides)
        assert choice is not None  # it has the format: it was asked for it
        return self.cached_or_fetched(ScriptKey(ref, request.format), choice.info, options)

    def _latest_cached(self, request: ScriptRequest) -> ResolvedScript | None:
        """The latest of what is cached and may be run, while the server can't be asked.

        None where nothing that may be answered is cached; `NotRunnable` where none of it may run.
        """
        hits: dict[Ref, CacheHit] = {}
        for version in self._cache.cached_versions(request.playbook_id, request.format):
            ref = Ref(request.playbook_id, version)
            hit = self._find(ScriptKey(ref, request.format))
            if self._may_answer(hit):
                hits[ref] = hit
        if not hits:
            return None
        versions = [self._facts_there(ref, self._rows.told(ref)) for ref in hits]
        overrides = request.options.overrides
        choice = choose_latest(versions, self._settings.run_policy, overrides)
        assert choice is not None
        return self._from_cache(hits[choice.facts.ref], choice.info, request.options)

    def _check(self, key: ScriptKey, overrides: Overrides, hit: CacheHit | None) -> Choice:
        """Whether a version that only the server knows may be run; it is asked where it matters.

        What it said last counts while the bytes of that are fresh, and while it is out of reach.
        """
        policy, told = self._settings.run_policy, self._rows.told(key.ref)
        facts = self._facts_there(key.ref, told)
        known = told is not None and hit is not None and hit.fresh
        may_answer = self._may_answer(hit)
        if (may_answer and self._given_up) or (known and decide(facts, policy).runs(overrides)):
            return check_named(facts, policy, overrides)
        try:
            told = self._downloads.tell(key.ref, key.format)
            self._given_up_until = 0.0
        except EscherError as error:
            if not (self._is_out_of_reach(error) and may_answer):
                why = _not_here(key.ref) if hit is None else _too_old(key)
                raise _explained(error, why) from error
        return check_named(self._facts_there(key.ref, told), policy, overrides)

    def _facts_there(self, ref: Ref, told: ToldStatus | None) -> RunFacts:
        return facts_there(ref, told, in_conflict=self._rows.in_conflict(ref))

    def _find(self, key: ScriptKey) -> CacheHit | None:
        hit = self._cache.find(key)
        return None if hit is None or hit.source == PARTIAL else hit

    def _may_answer(self, hit: CacheHit | None) -> TypeGuard[CacheHit]:
        """Whether an entry may answer while the server can't be asked."""
        return hit is not None and (hit.fresh or self._settings.serve_stale)

    def cached_or_fetched(
        self,
        key: ScriptKey,
        info: VersionInfo,
        options: ResolveOptions,
        known: Listing | None = None,
        why: str | None = None,
    ) -> ResolvedScript:
        """Answer by a fresh entry, else by the server; ``why`` disk has none goes into the error.

        ``known``: what the journal lists. Another content under that name is no answer.
        """
        hit = self._find(key)
        if hit is not None and known is not None and hit.listing.digest != known.digest:
            hit = None
        if self._may_answer(hit) and (hit.fresh or self._given_up):
            return self._from_cache(hit, info, options, known)
        self._cache.miss()
        try:
            fetched = self._downloads.fetch(key, known.files if known else None)
            self._given_up_until = 0.0
        except OtherContent as error:
            if hit is None:
                raise
            # what the name stands for goes on being answered; the user chooses
            warned = replace(info, warnings=(*info.warnings, error.detail))
            return self._from_cache(hit, warned, options, known)
        except EscherError as error:
            if self._is_out_of_reach(error) and self._may_answer(hit):
                return self._from_cache(hit, info, options, known)
            why = why or (_not_here(key.ref) if hit is None else _too_old(key))
            raise _explained(error, why) from error
        if known is not None and fetched.listing.digest != known.digest:
            raise IntegrityError(
                f"{key} came with other files than the journal lists.",
                "`escher-playbooks sync` brings the journal up to date.",
            )
        source = Source.DOWNLOAD
        if hit is not None and hit.listing.digest == fetched.listing.digest:
            source = Source.CACHE  # the server still lists the same bytes: none were sent
        listing = known if known is not None and known.entry_point else fetched.listing
        listing.check_entry()
        script = ResolvedScript(listing, fetched.folder, source, info)
        return self._copies.answer(script, (), options) if options.copy else script

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
        info: VersionInfo,
        options: ResolveOptions,
        known: Listing | None = None,
    ) -> ResolvedScript:
        self._cache.hit()
        listing = known if known is not None and known.entry_point else hit.listing
        listing.check_entry()
        stale = not hit.fresh
        if stale:
            _log.warning("%s: a stale entry is served", listing.key)
        script = ResolvedScript(listing, hit.folder, Source.CACHE, info, stale=stale)
        if hit.beside or options.copy:
            return self._copies.answer(script, hit.beside, options)
        return script


def _not_here(what: object) -> str:
    return f"There is no {what} on this machine."


def _too_old(key: ScriptKey) -> str:
    return f"The cached {key} is older than cache_ttl_days, and serve_stale is off."


def _explained(error: _E, why: str) -> _E:
    """The same kind of error, saying first why disk has no answer."""
    return type(error)(f"{why} {error.detail}", error.remedy, error.retry_after)
