"""Resolve a playbook to the script that answers, every byte proven at that moment: Flow 3's front.

::

    in the journal ──► playbooks/local ──► playbooks/synced ──► cache, fresh ──► the server
      sensitive: decrypted into a private folder (`core.scripts.clear_text`)
      changed on disk: published, the cache or the server answers; else it is an edit
    not in the journal ───────────────────────────────────────► cache, fresh ──► the server
                                                                  (`core.scripts.remote_resolver`)

Which version that is, and whether it may be run at all, is decided before a byte is looked at
(`core.scripts.run_policy`). What the journal lists is what must be there: a file too many, too few
or with another byte is no answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from core.entry_scripts import begins_as_script, stored_entry
from core.errors import (
    IntegrityError,
    LeaseHeld,
    NotFound,
    Refused,
    StorageError,
    UsageError,
    WrongKey,
)
from core.files import sha256_bytes
from core.journal.script_lookup import KEPT_ANSWERS, ScriptRow, ScriptRows, VersionFacts
from core.models import FORMATS, Area, Ref, ScriptKey, executables
from core.scripts.clear_text import ClearText
from core.scripts.copies import Copies
from core.scripts.integrity import Proofs, files_beside, prove, set_modes
from core.scripts.models import (
    DEFAULT_OPTIONS,
    NO_OVERRIDES,
    Listing,
    Overrides,
    ResolvedScript,
    ResolveOptions,
    ScriptRequest,
    Source,
    VersionInfo,
    read_target,
)
from core.scripts.remote_resolver import RemoteResolver
from core.scripts.run_policy import Choice, check_named, choose_latest, facts_here
from core.settings import Settings

ATTEMPTS = 5  # a version may be replaced or moved while it is looked at, and then again
_EDITED = (
    "An edit is taken in by the next sync, once it is quiet and can be read;"
    " `escher-playbooks verify` lists what differs."
)
_log = logging.getLogger(__name__)


class StoredVersions(Protocol):
    """The local store: its room stands beside this one, so neither imports the other."""

    def read(self, ref: Ref) -> Mapping[str, bytes]:
        """Clear bytes by path, checked against the journal; `IntegrityError` when they differ."""

    def locked(self) -> AbstractContextManager[object]:
        """While this is held nobody changes the folders; `StorageError` in a read-only home."""


_Seen = ScriptRow | tuple[VersionFacts, ...] | None


class _Answer(NamedTuple):
    """What ``seen`` in the journal came to; ``folder`` as text: a look-up has no time for paths."""

    seen: _Seen
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
        remote: Callable[[], RemoteResolver],
        stored: StoredVersions,
        place: Callable[[Area, Ref], Path],
        clear: ClearText,
        copies: Copies,
        hand_out: Callable[[Ref], object] = lambda _ref: None,
        take_edit: Callable[[Ref], bool] | None = None,
    ) -> None:
        """``remote()`` makes who resolves what is not here, when that is first wanted.

        ``place(area, ref)`` is where a version's folder stands in that area, or would.
        ``hand_out(ref)`` notes that a path into the version's own folder is given away.
        ``take_edit(ref)`` takes what was changed on disk into the journal; False: not yet.
        """
        self._settings = settings
        self._rows = rows
        self._proofs = proofs
        self._make_remote = remote
        self._stored = stored
        self._place = place
        self._clear = clear
        self._copies = copies
        self._hand_out = hand_out
        self._take_edit = take_edit
        self._answers: dict[ScriptRequest, _Answer] = {}

    @cached_property
    def _remote(self) -> RemoteResolver:
        return self._make_remote()

    def resolve(
        self, target: str, format_: str, options: ResolveOptions = DEFAULT_OPTIONS
    ) -> ResolvedScript:
        """Resolve ``id``, ``id@version`` or ``id@latest`` in one format; every byte was just proven.

        Raises `UsageError`, `NotFound`, `NotRunnable`, `IntegrityError` (changed on disk, and not
        yet taken as an edit), or why the server could not give it.
        """
        return self._handed_out(ScriptRequest(*read_target(target), format_, options))

    @contextmanager
    def lease(
        self,
        target: str,
        format_: str,
        seconds: float | None = None,
        options: ResolveOptions = DEFAULT_OPTIONS,
    ) -> Iterator[ResolvedScript]:
        """`resolve` for the length of a ``with``: clear text goes at its end.

        ``seconds`` bounds how long clear text may stand (default ``clear_text_seconds``).
        """
        request = ScriptRequest(*read_target(target), format_, options, held=True, seconds=seconds)
        script = self._handed_out(request)
        try:
            yield script
        finally:
            if script.expires_at is not None:
                self._clear.release(script.folder)

    def permit(self, key: ScriptKey, overrides: Overrides = NO_OVERRIDES) -> ScriptRow | None:
        """Raise `NotRunnable` when a version may not be run here; its row where this home has it."""
        row = self._rows.find(*key.ref, key.format)
        if row is not None:
            facts = facts_here(key.ref.playbook_id, row.facts)
            check_named(facts, self._settings.run_policy, overrides)
            return row
        self._remote.check(key, overrides)
        return None

    def _handed_out(self, request: ScriptRequest) -> ResolvedScript:
        """The answer, its executable files being so: a backup or a share may have lost the mode."""
        script = self._resolve(request)
        if not script.is_copy and script.expires_at is None:
            set_modes(script.folder, script.listing.files)
        return script

    # -- known here ---------------------------------------------------------------------------
    def _resolve(self, request: ScriptRequest) -> ResolvedScript:
        playbook_id, version, format_, options, *_ = request
        if format_ not in FORMATS:
            raise UsageError(f"Format {format_!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
        wrong: IntegrityError | None = None
        for _ in range(ATTEMPTS):
            seen: _Seen
            if version is None:
                seen = self._rows.versions_of(playbook_id, format_)
            else:
                seen = self._rows.find(playbook_id, version, format_)
            known = self._answers.get(request)
            # the journal says what it said: only the bytes are left to be proven
            if (
                known is not None
                and known.seen is seen
                and prove(known.folder, format_, known.row.files, self._proofs) is None
            ):
                self._hand_out(known.row.ref)
                return known.script
            if not seen:
                return self._remote.resolve(request)
            choice = self._choose(request, seen)
            row = (
                seen if isinstance(seen, ScriptRow) else self._rows.find(*choice.facts.ref, format_)
            )
            if row is None:
                continue  # it was deleted meanwhile
            listing, odd = self._listing(row, format_)
            if odd is not None:
                choice = replace(choice, warnings=(*choice.warnings, odd))
            if row.sensitive and options.copy:
                raise Refused(
                    f"{row.ref} is sensitive: no copy of it is kept in clear.",
                    "Resolve it without --copy: clear text stands in a private folder for a while.",
                )
            try:
                if row.sensitive:
                    listing.check_entry()
                    return self._in_clear(row, listing, choice.info, request)
                script, beside = self._on_disk(row, listing, choice.info)
                listing.check_entry()
                if beside or options.copy:
                    return self._copies.answer(script, beside, options)
                self._hand_out(row.ref)
                if len(self._answers) >= KEPT_ANSWERS:
                    self._answers.clear()
                self._answers[request] = _Answer(seen, row, script, str(script.folder))
                return script
            except WrongKey:
                raise
            except IntegrityError as error:
                wrong = error
            if self._rows.find(*row.ref, format_) != row:
                continue  # it was replaced or moved meanwhile
            if row.published:
                return self._remote.cached_or_fetched(
                    listing.key, choice.info, options, listing, wrong.detail
                )
            if not self._has_changed(row, listing):
                break
        if wrong is None:
            raise LeaseHeld(f"{playbook_id} is just being changed.", "Try again.")
        raise wrong

    def _choose(self, request: ScriptRequest, seen: ScriptRow | tuple[VersionFacts, ...]) -> Choice:
        """The version to run; `NotRunnable` when there is none, `NotFound` without the format."""
        id_, overrides = request.playbook_id, request.options.overrides
        policy = self._settings.run_policy
        if isinstance(seen, ScriptRow):
            if not seen.facts.has_format:
                raise _no_script(seen.ref, request.format)
            return check_named(facts_here(id_, seen.facts), policy, overrides)
        choice = choose_latest([facts_here(id_, facts) for facts in seen], policy, overrides)
        if choice is None:
            raise _no_script(id_, request.format)
        return choice

    def _listing(self, row: ScriptRow, format_: str) -> tuple[Listing, str | None]:
        """The row's files with their entry script, and what is odd about that one."""
        if not row.files:
            raise _no_script(row.ref, format_)
        paths = {file.path for file in row.files}
        found = stored_entry(
            format_, paths, row.entry_points, lambda path: begins_as_script(self._head(row, path))
        )
        listing = Listing(ScriptKey(row.ref, format_), row.files, found.path or "")
        return listing, found.warning

    def _head(self, row: ScriptRow, path: str) -> bytes:
        """The first bytes of a file of a version from before its entry script was stored."""
        if row.sensitive:
            return self._stored.read(row.ref).get(path, b"")[:8]
        for area in (row.area, *(other for other in Area if other is not row.area)):
            with suppress(OSError):
                fd = os.open(self._place(area, row.ref) / path, os.O_RDONLY | os.O_NOFOLLOW)
                with os.fdopen(fd, "rb") as file:
                    return file.read(8)
        return b""

    def _on_disk(
        self, row: ScriptRow, listing: Listing, info: VersionInfo
    ) -> tuple[ResolvedScript, Sequence[str]]:
        """The folder in ``playbooks/`` that holds the journal's files, and what was left there."""
        first = ""
        format_, files = listing.key.format, row.files
        # its own area first; a version on its way into another one stands there already
        for area in (row.area, *(other for other in Area if other is not row.area)):
            folder = self._place(area, row.ref)
            wrong = prove(folder, format_, files, self._proofs)
            beside: Sequence[str] = ()
            if wrong is not None and (beside := files_beside(folder, format_, files)):
                wrong = prove(folder, format_, files, self._proofs, beside)
            if wrong is None:
                return ResolvedScript(listing, folder, _source(area), info), beside
            first = first or f"{row.ref} was changed on disk: {wrong} in {folder}."
        raise IntegrityError(first, _EDITED)

    def _in_clear(
        self, row: ScriptRow, listing: Listing, info: VersionInfo, request: ScriptRequest
    ) -> ResolvedScript:
        clear = self._stored.read(row.ref)
        files = {file.path: clear.get(file.path, b"") for file in row.files}
        for file in row.files:
            if sha256_bytes(files[file.path]) != file.checksum:
                raise IntegrityError(f"{row.ref} {file.path} was changed on disk.", _EDITED)
        lease = self._clear.write(
            files, executables(row.files), held=request.held, seconds=request.seconds
        )
        source = _source(row.area)
        return ResolvedScript(listing, lease.folder, source, info, expires_at=lease.ends_at)

    def _has_changed(self, row: ScriptRow, listing: Listing) -> bool:
        """Whether to look again: a writer was just at work, or the edit was taken in."""
        if not row.sensitive:  # reading those has waited already
            try:
                with self._stored.locked():
                    self._on_disk(row, listing, VersionInfo(None))
            except StorageError as error:  # a home that can't be written has no writer
                _log.debug("not waited for a writer: %s", error.detail)
            except IntegrityError:
                pass  # as before
            else:
                return True
        if self._rows.find(*row.ref, listing.key.format) != row:
            return True
        return self._take_edit is not None and self._take_edit(row.ref)


def _no_script(what: object, format_: str) -> NotFound:
    return NotFound(f"{what} has no {format_} script.", "`escher-playbooks show` lists its files.")


def _source(area: Area) -> Source:
    return Source.SYNCED if area is Area.SYNCED else Source.LOCAL
