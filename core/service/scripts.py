"""The script manager of one home put together: cache, downloads, resolver and clear text.

What a task is given is refs, what the cache holds is formats: of many versions at once each gets the
worst outcome of its formats, so that a job's item is done when all of it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from core.entry_scripts import begins_as_script, stored_entry
from core.errors import (
    EscherError,
    IntegrityError,
    NotFound,
    PermanentError,
    Refused,
    UsageError,
)
from core.files import check_relative_path, sha256_bytes
from core.handed_out import HandedOut
from core.journal import Journal
from core.journal.conflicts import ConflictRecord
from core.journal.script_lookup import ScriptRow
from core.models import DONE, FORMATS, FileEntry, Outcome, OutcomeState, Ref, ScriptKey
from core.playbooks.store import PlaybookStore
from core.publishing.conflicts import Choice, Resolution
from core.reports import Finding
from core.scripts.cache import ScriptCache
from core.scripts.clear_text import ClearText
from core.scripts.downloads import ScriptDownloads
from core.scripts.eviction import EvictReport
from core.scripts.integrity import set_modes
from core.scripts.library import LibraryCache
from core.scripts.models import NO_OVERRIDES, PARTIAL, CacheHit, Listing, Overrides
from core.scripts.remote_resolver import RemoteResolver
from core.scripts.resolver import ScriptResolver
from core.scripts.transfer import insert, with_file
from core.server.client import EscherServer
from core.settings import Settings

_PLAYBOOKS = r"playbooks/(?P<id>[^/]+)/v(?P<version>[^/]+)/(?P<format>[^/]+)/(?P<path>.+)"
_TENANT_PATH = re.compile(rf"s3://escher-tenant-data/tenants/(?P<tenant>[^/]+)/{_PLAYBOOKS}")
_LIBRARY_PATH = re.compile(rf"s3://escher-library/{_PLAYBOOKS}")


class ScriptManager:
    """Flow 3 for one home; its parts are made when they are first needed."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        store: PlaybookStore,
        server: Callable[[], EscherServer],
        take_edit: Callable[[Ref], bool] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``take_edit``: see `ScriptResolver`; ``clock`` gives Unix seconds."""
        self._clock = clock
        self._settings = settings
        self._journal = journal
        self._store = store
        self._server = server
        self._take_edit = take_edit

    # -- the parts --------------------------------------------------------------------------
    @cached_property
    def cache(self) -> ScriptCache:
        return ScriptCache(self._settings, self._journal, clock=self._clock)

    @cached_property
    def downloads(self) -> ScriptDownloads:
        return ScriptDownloads(
            self._settings,
            self._journal,
            self._server(),
            self.cache,
            self.library,
            clock=self._clock,
        )

    @cached_property
    def library(self) -> LibraryCache:
        return LibraryCache(self._settings, self._journal, self._server, clock=self._clock)

    @cached_property
    def clear(self) -> ClearText:
        return ClearText(self._settings)

    @cached_property
    def remote(self) -> RemoteResolver:
        return RemoteResolver(
            self._settings,
            self._journal.script_rows,
            cache=self.cache,
            downloads=self.downloads,
            copies=self.cache.copies,
        )

    @cached_property
    def resolver(self) -> ScriptResolver:
        return ScriptResolver(
            self._settings,
            self._journal.script_rows,
            self.cache.proofs,
            remote=lambda: self.remote,
            stored=self._store,
            place=self._store.layout.place,
            clear=self.clear,
            copies=self.cache.copies,
            hand_out=HandedOut(self._settings).note,
            take_edit=self._take_edit,
        )

    # -- into the cache ---------------------------------------------------------------------
    def download(self, s3_path: str, overrides: Overrides = NO_OVERRIDES) -> Path:
        """The file that ``s3_path`` names, its whole format folder downloaded and verified.

        ``s3://escher-tenant-data/tenants/<tenant>/playbooks/<id>/v<version>/<format>/<path>`` or
        ``s3://escher-library/playbooks/…``. `UsageError` for another path, `Refused` for another
        tenant's, `NotRunnable` as for a resolve, `NotFound` when the version has no such file.
        """
        key, path = self._read_s3_path(s3_path)
        row = self.resolver.permit(key, overrides)
        if row is not None and not row.published:
            raise Refused(
                f"{key.ref} was not published from here: what the server has under that name is"
                " another's.",
                f"`escher-playbooks resolve {key.ref}` gives this machine's.",
            )
        hit = self.downloads.fetch(key, row.files if row is not None else None)
        if path not in {file.path for file in hit.listing.files}:
            raise NotFound(f"{key} has no file {path!r}.", "Check the s3_path.")
        set_modes(hit.folder, row.files if row is not None else hit.listing.files)
        return hit.folder / path

    def put(self, key: ScriptKey, path: str, content: bytes) -> Path:
        """Keep ``content`` as one file of a cached format folder, beside those that are there.

        Only bytes that the version is known to have are taken, from the journal or the server's
        listing: `IntegrityError` for others, `Refused` for a sensitive version. A folder that
        lacks files is not run before they are there.
        """
        Ref.parse(str(key.ref))
        if key.format not in FORMATS:
            raise UsageError(
                f"Format {key.format!r} is unknown.", f"Use one of {', '.join(FORMATS)}."
            )
        path = path if path.startswith(f"{key.format}/") else f"{key.format}/{path}"
        check_relative_path(path)
        entry = FileEntry(path, len(content), sha256_bytes(content))
        row = self._journal.script_rows.find(*key.ref, key.format)
        if row is not None and row.sensitive:
            raise Refused(
                f"{key.ref} is sensitive: its scripts are kept encrypted, and the cache is not.",
                "Resolve it: clear text stands in a private folder, for a while.",
            )
        if row is None:
            self.remote.check_shared(key.ref)
        known = row.files if row is not None else self._listed(key)
        if entry not in known:
            raise IntegrityError(
                f"{key} is not known to have these bytes as {path}.",
                "A version's content never changes: give the right bytes, or another version.",
            )
        held = with_file(self.cache, key, entry, content)
        files = {
            file.path: held[file.path]
            for file in known
            if file.path in held and sha256_bytes(held[file.path]) == file.checksum
        }
        return self._insert(key, files, row, known).folder / path

    def _insert(
        self,
        key: ScriptKey,
        files: dict[str, bytes],
        row: ScriptRow | None,
        known: Sequence[FileEntry],
    ) -> CacheHit:
        whole = len(files) == len(known)
        named = row.entry_points if row is not None else None
        found = stored_entry(
            key.format, files, named, lambda path: begins_as_script(files[path][:8])
        )
        entries = sorted((file for file in known if file.path in files), key=attrgetter("path"))
        listing = Listing(key, tuple(entries), found.path or "")
        return insert(self._journal, self.cache, listing, files, whole=whole)

    def _listed(self, key: ScriptKey) -> tuple[FileEntry, ...]:
        """The files of a version that only the server knows; a whole cached entry tells them too."""
        hit = self.cache.find(key)
        if hit is not None and hit.source != PARTIAL:
            return hit.listing.files
        return self.downloads.listing(key).files

    def _read_s3_path(self, s3_path: str) -> tuple[ScriptKey, str]:
        own = _TENANT_PATH.fullmatch(s3_path)
        found = own or _LIBRARY_PATH.fullmatch(s3_path)
        if found is None or found["format"] not in FORMATS:
            raise UsageError(
                f"{s3_path[:200]!r} is no file of a playbook's format.",
                "Write s3://escher-tenant-data/tenants/TENANT/playbooks/ID/vVERSION/FORMAT/PATH,"
                " or s3://escher-library/playbooks/….",
            )
        if own and own["tenant"] != self._settings.tenant_id:
            raise Refused(
                f"{s3_path[:200]!r} is another tenant's than {self._settings.tenant_id}.",
                "Set tenant_id, with a home of its own.",
            )
        key = ScriptKey(Ref.parse(f"{found['id']}@{found['version']}"), found["format"])
        if key.is_library == bool(own):
            raise UsageError(
                f"{s3_path[:200]!r}: ids that begin with escher- are the Escher Library's, others are not.",
                "Check the s3_path.",
            )
        return key, check_relative_path(f"{key.format}/{found['path']}")

    # -- keeping house ----------------------------------------------------------------------
    def settle_library(self, conflict: ConflictRecord, choice: Choice) -> Resolution:
        """Settle a conflict of the Escher Library's: only ``take theirs`` can be chosen.

        It is in no feed and no folder, so only the name can be pinned anew. `UsageError` for
        another choice, `Refused` when the server's side changed since the conflict was shown.
        """
        ref = conflict.ref
        if choice.take is None:
            raise UsageError(
                f"{ref} is the Escher Library's: its name can't be given to anything else.",
                "Take theirs, or leave it: the known content goes on being used.",
            )
        digest = self.downloads.digest_of(ref)
        if digest != conflict.server_digest:
            self._journal.conflicts.open(ref, conflict.kind, conflict.reason, server_digest=digest)
            raise Refused(
                f"The server changed its side of {ref} again: it is {digest} now, not"
                f" {conflict.server_digest}.",
                "Look at the conflict again before you take it.",
            )
        self._journal.pins.replace(ref, digest)
        for format_ in FORMATS:  # what the name stood for is not answered any more
            if self.cache.find(key := ScriptKey(ref, format_)) is not None:
                self.cache.quarantine(key, "theirs was taken")
        self.library.forget([ref])
        self._journal.conflicts.settle([ref], "take theirs")
        return Resolution(ref, "take theirs")

    def evict(self) -> EvictReport:
        """Let go of what is too old or too much, and of what dead downloads left."""
        self.library.note_use()
        report = self.cache.evict()  # puts the index right, so it comes first
        self.library.reconcile()
        self.library.expire()
        return report

    def clear_cache(self) -> EvictReport:
        """Let go of everything that is not in use, of the library's metadata too."""
        report = self.cache.clear()
        self.library.expire(clear=True)
        return report

    def usage(self, limit: int | None = None) -> dict[str, Any]:
        """The contract's ``GET /v1/cache``; ``entries`` the latest used first, ``limit`` at most."""
        entries = self.cache.entries()
        return {
            **self.cache.usage(),
            "entry_count": len(entries),
            "entries": [entry.as_json() for entry in entries[:limit]],
        }

    def recover(self) -> None:
        """Clear up what a crash left: clear text, half downloads, an index that was lost."""
        self.clear.recover()
        if self.cache.layout.root.is_dir():
            self.cache.recover()

    def verify(self) -> list[Finding]:
        """What is wrong with the cache; changes nothing."""
        return [
            Finding(str(key.ref) if key else "", path, what, remedy)
            for key, path, what, remedy in self.cache.verify()
        ] + [
            Finding(str(ref), path, what, "The next sync lets go of it, or fetches it again.")
            for ref, path, what in self.library.problems()
        ]

    def close(self) -> None:
        """Write down what is counted; clear text is its helper's."""
        if "cache" in vars(self):
            self.cache.close()


RETRY_SECONDS = 60  # of a version whose formats could not even be asked for
_WORST_FIRST = (
    OutcomeState.FAILED,
    OutcomeState.DEFERRED,
    OutcomeState.WAITING,
    OutcomeState.SKIPPED,
    OutcomeState.DONE,
)


class ScriptBatches:
    """Flow 3 for many versions at once."""

    def __init__(self, journal: Journal, store: PlaybookStore, downloads: ScriptDownloads) -> None:
        self._journal = journal
        self._store = store
        self._downloads = downloads

    def wanted(self, targets: Iterable[str] | None, format_: str | None) -> list[Ref]:
        """The versions that targets name (``id``: its latest); None: all that are published.

        A playbook that this home does not know is the server's to name.
        """
        if format_ is not None:
            check_format(format_)
        if targets is None:
            rows = self._journal.versions.select()
            return [row.ref for row in rows if row.is_published]
        return [self._ref(target, format_) for target in targets]

    def download(self, refs: Sequence[Ref], format_: str | None = None) -> dict[Ref, Outcome]:
        """Into staging; a sensitive or unpublished version is not the server's: skipped."""
        keys, outcomes = self._keys(refs, format_)
        return outcomes | _by_ref(refs, keys, self._downloads.download(list(keys), keys))

    def verify(self, refs: Sequence[Ref], format_: str | None = None) -> dict[Ref, Outcome]:
        """Hash what was staged again and promote it."""
        keys, outcomes = self._keys(refs, format_)
        return outcomes | _by_ref(refs, keys, self._downloads.verify(list(keys)))

    def _ref(self, target: str, format_: str | None) -> Ref:
        try:
            return self._store.resolve(target)
        except NotFound:
            if "@" in target:
                return Ref.parse(target)
            return self._downloads.latest(target, format_)[0]

    def _keys(
        self, refs: Sequence[Ref], format_: str | None
    ) -> tuple[dict[ScriptKey, tuple[FileEntry, ...] | None], dict[Ref, Outcome]]:
        """``{key: its files as published, None where only the server knows them}``, and the rest."""
        keys: dict[ScriptKey, tuple[FileEntry, ...] | None] = {}
        outcomes: dict[Ref, Outcome] = {}
        rows = self._journal.versions.get_many(refs)
        files = self._journal.versions.files_many(list(rows))
        for ref in refs:
            row = rows.get(ref)
            try:
                if row is None:
                    formats = [format_] if format_ else self._downloads.formats_of(ref)
                    keys.update((ScriptKey(ref, name), None) for name in formats)
                    if not formats:
                        outcomes[ref] = _nothing(ref, None)
                elif not row.is_published:
                    error = f"{ref} is not published: it stands on this machine alone."
                    outcomes[ref] = Outcome(OutcomeState.SKIPPED, error=error)
                else:
                    entries = files.get(ref, ())
                    found = _of_formats(ref, entries, format_)
                    keys.update(found)
                    if not found:
                        outcomes[ref] = _nothing(ref, format_)
            except PermanentError as error:
                outcomes[ref] = Outcome(OutcomeState.FAILED, error.type, str(error))
            except EscherError as error:
                later = int(time.time()) + RETRY_SECONDS
                outcomes[ref] = Outcome(OutcomeState.DEFERRED, error.type, str(error), later)
        return keys, outcomes


def check_format(format_: str) -> str:
    """``format_`` when it is one; `UsageError` names them all."""
    if format_ not in FORMATS:
        raise UsageError(f"Format {format_!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
    return format_


def _nothing(ref: Ref, format_: str | None) -> Outcome:
    error = f"{ref} has no {f'{format_} script' if format_ else 'script'} to download."
    return Outcome(OutcomeState.FAILED, NotFound.__name__, error)


def _of_formats(
    ref: Ref, files: Sequence[FileEntry], format_: str | None
) -> dict[ScriptKey, tuple[FileEntry, ...] | None]:
    by_format: dict[ScriptKey, tuple[FileEntry, ...] | None] = {}
    for name in [format_] if format_ else FORMATS:
        inside = tuple(file for file in files if file.path.startswith(f"{name}/"))
        if inside:
            by_format[ScriptKey(ref, name)] = inside
    return by_format


def _by_ref(
    refs: Sequence[Ref],
    keys: Mapping[ScriptKey, object],
    outcomes: Mapping[ScriptKey, Outcome],
) -> dict[Ref, Outcome]:
    found: dict[Ref, Outcome] = {}
    for ref in refs:
        mine = [outcomes.get(key, DONE) for key in keys if key.ref == ref]
        if mine:
            found[ref] = min(mine, key=lambda outcome: _WORST_FIRST.index(outcome.state))
    return found
