"""Looking playbooks up: names into versions, versions into the contract's ``Playbook``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from core.errors import EscherError, NotFound, UsageError, faults_of
from core.journal import Journal, VersionRecord
from core.models import (
    AUTHORS,
    CLOUDS,
    Playbook,
    Ref,
    Status,
    Strategy,
    SyncState,
    latest,
    sorted_versions,
)
from core.playbooks.checks import ScriptWarning, check_scripts
from core.playbooks.checks.linters import lint_scripts
from core.playbooks.store import PlaybookStore

log = logging.getLogger(__name__)


class Catalog:
    """Reads the journal; content stays where it is."""

    def __init__(self, journal: Journal, store: PlaybookStore) -> None:
        self._journal = journal
        self._store = store

    def expand(self, targets: Sequence[str]) -> list[Ref]:
        """``id`` is all its versions, ``id@version`` that one; `NotFound` names what is not there."""
        refs: list[Ref] = []
        for target in targets:
            if "@" in target:
                refs.append(self._store.resolve(target))
                continue
            found = [record.ref for record in self._journal.versions.of_playbook(target)]
            if not found:
                raise NotFound(
                    f"There is no playbook {target!r}.", "`escher-playbooks list` lists them."
                )
            refs.extend(Ref(target, v) for v in sorted_versions(ref.version for ref in found))
        return list(dict.fromkeys(refs))

    def count_unpublished(self, playbook_id: str) -> int:
        """How many versions of a playbook are not published; `NotFound` where there are none."""
        rows = self._journal.versions.of_playbook(playbook_id)
        if not rows:
            self.expand([playbook_id])  # says that there is none, and what there is
        return sum(not row.is_published for row in rows)

    def show(self, target: str) -> Playbook:
        """A version (the latest of an id) with its files."""
        ref = self._store.resolve(target)
        files = self._journal.versions.files(ref)
        record = self._store.get(ref)
        findings = self._store.secrets.findings_of(record, files, self._store.published_files)
        return replace(record.playbook(files), findings=findings)

    def script_warnings(self, target: str) -> list[ScriptWarning]:
        """What today's parsers and the installed linters say of a version's scripts.

        Takes seconds where cfn-lint has something to do. Nothing of it is stored. Raises what reading
        the version's content does.
        """
        files = self._store.read(self._store.resolve(target))
        found = [*check_scripts(files), *lint_scripts(files)]
        return sorted(found, key=lambda warning: (warning.path, warning.line or 0))

    def all_script_warnings(self) -> Iterator[tuple[Ref, list[ScriptWarning]]]:
        """`script_warnings` of every version whose content is here and can be read."""
        for ref in self._journal.versions.refs():
            try:
                found = self.script_warnings(str(ref))
            except EscherError as error:  # `verify` says what is wrong with it
                log.debug("%s is not checked: %s", ref, error.detail)
                continue
            if found:
                yield ref, found

    def versions_of(self, playbook_id: str) -> list[Playbook]:
        """Every version of a playbook, lowest first."""
        records = {record.ref: record for record in self._journal.versions.of_playbook(playbook_id)}
        return _readable([records[ref] for ref in self.expand([playbook_id])])

    def list_page(
        self,
        *,
        status: str | None = None,
        strategy: str | None = None,
        cloud: str | None = None,
        author: str | None = None,
        sync: str | None = None,
        limit: int | None = 100,
        cursor: str | None = None,
    ) -> tuple[list[Playbook], str | None]:
        """The latest matching version of each playbook by id, and the cursor of the next page."""
        for name, value, known in (
            ("status", status, Status),
            ("strategy", strategy, Strategy),
            ("sync", sync, SyncState),
            ("cloud", cloud, CLOUDS),
            ("author", author, AUTHORS),
        ):
            if value is not None and value not in set(known):
                raise UsageError(f"{name} {value!r} is unknown.", f"Use one of {', '.join(known)}.")
        records = self._journal.versions.select(
            status=status,
            strategy=strategy,
            cloud=cloud,
            author=author,
            sync=sync,
            after=cursor,
            playbooks=None if limit is None else limit + 1,
        )
        grouped: dict[str, list[VersionRecord]] = {}
        for record in records:
            grouped.setdefault(record.ref.playbook_id, []).append(record)
        page = list(grouped.values())
        more = limit is not None and len(page) > limit
        if more:
            page = page[:limit]
        tops = []
        for group in page:
            top = latest(record.ref.version for record in group)
            tops.append(next(r for r in group if r.ref.version == top))
        return _readable(tops), tops[-1].ref.playbook_id if more else None


def _readable(records: Sequence[VersionRecord]) -> list[Playbook]:
    """Those that can be shown; one that can't is named in the log and holds back no other."""
    shown = []
    for record in records:
        try:
            with faults_of(str(record.ref)):
                shown.append(record.playbook())
        except EscherError as error:
            log.warning("%s", error.detail)
    return shown
