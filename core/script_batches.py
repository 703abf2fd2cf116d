"""The script manager by version: what a task is given is refs, what the cache holds is formats.

A version's outcome is the worst of its formats', so that a job's item is done when all of it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from core.errors import EscherError, NotFound, PermanentError, UsageError
from core.journal import Journal
from core.models import DONE, FORMATS, FileEntry, Outcome, OutcomeState, Ref
from core.playbooks.store import PlaybookStore
from core.scripts.download import ScriptDownloads
from core.scripts.entries import ScriptKey

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
                    entries = [file.entry for file in files.get(ref, ())]
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
