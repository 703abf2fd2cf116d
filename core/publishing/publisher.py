"""Publishes versions in steps, each over a batch and each safe to run again (Flow 2).

::

    request ──► upload ──► publish ──► settle
    policy,     files to   metadata    local/ → synced/,
    pending     storage    + vector    published

What may be published, as `request` decides (`forbidden` is asked again before anything is sent)::

    never       sensitive, Escher Library (using_default): whoever asks, however they ask
    not yet     ai-generated without a decision, an open conflict, a deletion under way
    a choice    local_only: only with a strategy given for this very publication
    nothing     the server holds this content already

::

    row          after request   after upload       after publish             after settle
    sync_state   pending         pending            pending                   published
    digests      —               uploaded_digest    published_digest,         —
                                                    revision, status

Each step (`core.publishing.steps`) leases its refs, reads their rows again, does only what is still to be done, writes with
the fencing token, and gives the lease back. Its order is in the rows, not in who calls it: a step
whose turn has not come says `WAITING`. What fails for now is `deferred` with its next attempt in
the journal; what fails for good keeps its reason (`failed`, `conflict`) until asked for again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.backoff import is_due
from core.errors import EscherError, UsageError
from core.handed_out import HandedOut
from core.journal import Journal
from core.journal.versions import VersionRecord
from core.models import DONE, Area, Move, Outcome, OutcomeState, Ref, Strategy, SyncState
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.secrets_gate import Item, SecretsGate, stricter
from core.playbooks.store import PlaybookStore
from core.publishing.batch import (
    NO_ERROR,
    SKIPPED,
    WAITING,
    Batch,
    FailurePolicy,
    StepResult,
    at_once_or_each,
    open_batch,
    set_rows,
)
from core.publishing.conflict_rules import Rule
from core.publishing.steps import (
    Commit,
    Context,
    Removal,
    Upload,
    forbidden,
    is_published,
)
from core.rag.indexing import Indexing
from core.secrets import SecretFinding
from core.server.client import EscherServer
from core.settings import Settings

ALREADY_PUBLISHED = "already published"
_ONE_BY_ONE = "Name each version that you trust: ID@VERSION; or publish as review."
REQUESTED = frozenset({SyncState.PENDING, SyncState.DEFERRED})
OnFindings = Callable[[Mapping[Ref, Sequence[SecretFinding]]], object]
"""Told what the scan found in versions before they are marked to be published."""

_NOT_REQUESTED = NO_ERROR | {"publish_as": None, "publish_gate": None}
SETTLED = _NOT_REQUESTED | {"sync_state": SyncState.PUBLISHED}


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The answer to a request to publish; ``left_out`` is ``{"id@version": reason}``."""

    accepted: list[Ref] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class Publisher:
    """Brings versions to the server, and deletes them there; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        journal: Journal,
        server: EscherServer,
        store: PlaybookStore,
        vectors: Indexing,
        settings: Settings,
        *,
        folders: RemoteVersions,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._server = server
        self._store = store
        self._vectors = vectors
        self._settings = settings
        self._handed_out = HandedOut(settings)
        self._secrets = SecretsGate(settings, journal)
        self._clock = clock
        self._failures = FailurePolicy(clock, random)
        self._context = Context(journal, server, store, folders, self._secrets, self._failures)
        self._threads = 2 * settings.transfer_concurrency

    # -- asking -----------------------------------------------------------------------------
    def request(
        self,
        refs: Sequence[Ref] | None,
        as_: Strategy | None = None,
        *,
        gate: str | None = None,
        on_findings: OnFindings | None = None,
    ) -> PublishPlan:
        """Mark versions to be published, in one transaction; None means all not yet published.

        ``gate`` is the asker's ``secrets_gate``, kept in the row; None leaves that of an earlier
        request. ``on_findings`` is told what the scan found in them before any is marked.
        `UsageError` when ``as_`` is no strategy that uploads; all else is in the plan.
        """
        check_choice(as_)
        plan = PublishPlan()
        if refs is None:
            records = {record.ref: record for record in self._journal.versions.select()}
        else:
            records = self._journal.versions.get_many(list(dict.fromkeys(refs)))
            plan.left_out.update({str(ref): "not found" for ref in refs if ref not in records})
        requested: dict[Ref, dict[str, Any]] = {}
        for ref, record in records.items():
            strategy, reason = decide(record, as_)
            if strategy is not None:
                requested[ref] = NO_ERROR | {
                    "sync_state": SyncState.PENDING,
                    "publish_as": strategy,
                    "publish_gate": self._gate_of(record, gate),
                }
            elif refs is not None or reason != ALREADY_PUBLISHED:
                plan.left_out[str(ref)] = reason
        self._look_at_secrets(plan, [records[ref] for ref in requested], requested, on_findings)
        plan.accepted.extend(set_rows(self._journal, requested))
        gone = requested.keys() - set(plan.accepted)
        plan.left_out.update({str(ref): "not found" for ref in gone})
        if as_ is Strategy.REVIEW:
            self._journal.choices.choose_review(ref.playbook_id for ref in plan.accepted)
        return plan

    def _gate_of(self, record: VersionRecord, gate: str | None) -> str:
        """The setting to be kept: an open request of somebody stricter stays; a new one replaces."""
        is_open = record.sync_state in REQUESTED
        before = record.publish_gate if gate is None or is_open else None
        return stricter(self._secrets.level, gate, before)

    def _look_at_secrets(
        self,
        plan: PublishPlan,
        records: Sequence[VersionRecord],
        requested: dict[Ref, dict[str, Any]],
        on_findings: OnFindings | None,
    ) -> None:
        """Tell what the scan found, and leave out what `block` stops."""
        blocked = [r for r in records if requested[r.ref]["publish_gate"] == "block"]
        looked_at = records if on_findings is not None else blocked
        if not looked_at:
            return
        level = stricter(*(requested[record.ref]["publish_gate"] for record in looked_at))
        found = self.findings(looked_at, level=level)
        if found and on_findings is not None:
            on_findings(found)
        stopped: dict[Ref, dict[str, Any]] = {}
        for record in blocked:
            refusal = self._secrets.refusal(record.ref, found.get(record.ref, ()))
            if refusal is None:
                continue
            plan.left_out[str(record.ref)] = str(refusal)
            del requested[record.ref]
            if record.sync_state in REQUESTED:  # somebody laxer asked before: this stops that too
                why = {"error_type": refusal.type, "error": str(refusal)}
                stopped[record.ref] = {"sync_state": SyncState.FAILED, **why}
        set_rows(self._journal, stopped)

    def findings(
        self, records: Sequence[VersionRecord], *, level: str | None = None
    ) -> dict[Ref, tuple[SecretFinding, ...]]:
        """Return what the secrets scan found, by version; what was not scanned yet is scanned now."""
        items = self._with_files(records)
        return self._secrets.findings(items, self._store.published_files, level=level)

    def _with_files(self, records: Sequence[VersionRecord]) -> list[Item]:
        files = self._journal.versions.files_many([record.ref for record in records])
        return [(r, files.get(r.ref, ())) for r in records]

    def tighten(self, refs: Sequence[Ref], gate: str | None) -> None:
        """Raise the secrets gate of what is about to be published to at least ``gate``."""
        if stricter(gate) == "off":
            return
        changes: dict[Ref, dict[str, Any]] = {}
        for ref, record in self._journal.versions.get_many(list(refs)).items():
            wanted = stricter(self._secrets.level, record.publish_gate, gate)
            if record.publish_as is not None and wanted != record.publish_gate:
                changes[ref] = {"publish_gate": wanted}
        set_rows(self._journal, changes)

    def accept_findings(
        self, refs: Sequence[Ref], wanted: Mapping[str, str], accepted_by: str
    ) -> None:
        """Let findings (``{key: reason}``) of these versions pass; each is one of theirs.

        `NotFound` for a key that none of them has; then nothing is accepted.
        """
        records = list(self._journal.versions.get_many(list(refs)).values())
        found = self.findings(records, level="block")
        keys = {key: ref for ref, every in found.items() for key in (f.key for f in every)}
        named = ", ".join(str(ref) for ref in refs)
        self._secrets.check_acceptance(named, keys, wanted)
        for record in records:
            mine = [(f, wanted[f.key]) for f in found.get(record.ref, ()) if f.key in wanted]
            self._secrets.accept(record.ref, mine, accepted_by)

    def request_delete(self, refs: Sequence[Ref]) -> list[Ref]:
        """Mark those that the server has, or may have, to be deleted there by `delete`.

        Returns the marked ones. The others never left this machine: the store deletes them alone.
        """
        records = self._journal.versions.get_many(list(dict.fromkeys(refs)))
        marked = _NOT_REQUESTED | {"sync_state": SyncState.PENDING, "deleting": True}
        there = {
            ref: marked
            for ref, record in records.items()
            if record.is_published or record.uploaded_digest is not None
        }
        return set_rows(self._journal, there)

    # -- the steps --------------------------------------------------------------------------
    def upload(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Bring the files into the tenant space; files only, nothing is visible there yet."""
        with open_batch(self._journal, refs, self._failures) as batch:
            todo = self._still_to_do(batch, _before_upload)
            known = self._secrets.known(self._with_files(todo))
            batch.work(todo, Upload(self._context, known), self._threads)
            self._count("bytes_sent", self._server.take_sent())
            return batch.outcomes

    def publish(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Commit what is uploaded, with its vector; one call for all vectors of the batch."""
        with open_batch(self._journal, refs, self._failures) as batch:
            todo = self._still_to_do(batch, _before_publish)
            if not todo:
                return batch.outcomes
            try:
                vectors = self._vectors.vectors_for(
                    {record.ref: record.metadata for record in todo}
                )
            except EscherError as error:
                batch.write([(record, self._failures.result(record, error)) for record in todo])
                return batch.outcomes
            step = Commit(
                self._context,
                vectors,
                self._settings.embedding_model,
                self._journal.pins.get_many([record.ref for record in todo]),
                self._ids_in_conflict(),
            )
            batch.work(todo, step, self._threads)
            return batch.outcomes

    def settle(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Move what the server committed to ``synced/`` with the server's status and strategy."""
        with open_batch(self._journal, refs, self._failures) as batch:
            self._settle(batch, self._still_to_do(batch, _before_settle))
            return batch.outcomes

    def delete(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Delete what `request_delete` marked: at the server, confirmed, then here.

        One that is gone is `DONE`; one that is not marked (any more) is `SKIPPED`.
        """
        with open_batch(self._journal, refs, self._failures) as batch:
            for ref, outcome in batch.outcomes.items():
                if outcome is SKIPPED:
                    batch.outcomes[ref] = DONE
            todo = self._still_to_do(batch, _before_delete)
            removal = Removal(self._context)
            batch.work(todo, removal, self._threads)
            confirmed = [record for record in todo if batch.outcomes.get(record.ref) == DONE]
            removal.forget(batch, confirmed)
            self._count("deleted", len(confirmed))
            return batch.outcomes

    # -- inside -----------------------------------------------------------------------------
    def _still_to_do(
        self, batch: Batch, outcome_before: Callable[[VersionRecord], Outcome | None]
    ) -> list[VersionRecord]:
        """The records for which this step has work now; the others get their outcome before it."""
        todo = []
        now = self._clock()
        for ref, record in batch.records.items():
            waits = record.sync_state is SyncState.DEFERRED and not is_due(
                record.next_attempt_at, now
            )
            outcome = WAITING if waits else outcome_before(record)
            if outcome is None:
                todo.append(record)
            else:
                batch.outcomes[ref] = outcome
        return todo

    def settle_waiting(self) -> list[Ref]:
        """Move what was published while somebody ran it, where that is over; returns which."""
        waiting = self._journal.versions.select(sync=SyncState.PUBLISHED.value, area=Area.LOCAL)
        free = [record for record in waiting if not self._handed_out.must_wait(record.ref)]
        with open_batch(self._journal, [r.ref for r in free], self._failures) as batch:
            mine = [record for record in batch.records.values() if record.area is Area.LOCAL]
            self._move(mine)
        return [record.ref for record in mine]

    def _settle(self, batch: Batch, records: list[VersionRecord]) -> None:
        # a version whose path was just handed out counts as published, and moves later
        waiting = [record for record in records if self._handed_out.must_wait(record.ref)]
        moved = at_once_or_each(
            [record for record in records if record not in waiting],
            self._move,
            lambda record, error: batch.write([(record, self._failures.result(record, error))]),
        )
        settled = [*waiting, *moved]
        batch.write([(record, StepResult(state=SETTLED)) for record in settled])
        self._count("published", len(settled))

    def _move(self, records: Sequence[VersionRecord]) -> None:
        """To ``synced/``, with what the server said of them."""
        owned = ("status", "storage_strategy", "updated_at")
        self._store.move(
            [
                Move(record.ref, Area.SYNCED, {name: record.metadata[name] for name in owned})
                for record in records
            ]
        )

    def _ids_in_conflict(self) -> set[str]:
        """The ids that are private here, and that somebody else uses, too."""
        waiting = self._journal.conflicts.open_ones()
        return {found.ref.playbook_id for found in waiting if found.kind == Rule.PRIVATE_ID}

    def _count(self, name: str, amount: int) -> None:
        """For the reports of syncs."""
        if amount:
            self._journal.counters.add_all({name: amount})


def _without_work(record: VersionRecord) -> Outcome | None:
    """The outcome of a version with which no step of publishing has anything to do."""
    if record.deleting:
        return SKIPPED
    match record.sync_state:
        case SyncState.PUBLISHED:
            return DONE
        case SyncState.LOCAL:
            return SKIPPED
        case SyncState.FAILED | SyncState.CONFLICT:
            return Outcome(OutcomeState.FAILED, record.error_type, record.error)
        case SyncState.PENDING | SyncState.DEFERRED:
            strategy = record.publish_as or record.strategy
            return None if strategy.is_uploaded else SKIPPED


def _before_upload(record: VersionRecord) -> Outcome | None:
    outcome = _without_work(record)
    sent = record.content_digest == record.uploaded_digest
    return DONE if outcome is None and (sent or _is_there(record)) else outcome


def _before_publish(record: VersionRecord) -> Outcome | None:
    outcome = _without_work(record)
    if outcome is not None:
        return outcome
    if _is_there(record):
        return DONE
    return None if record.uploaded_digest == record.content_digest else WAITING


def _before_settle(record: VersionRecord) -> Outcome | None:
    outcome = _without_work(record)
    return WAITING if outcome is None and not _is_there(record) else outcome


def _is_there(record: VersionRecord) -> bool:
    """Whether the server has committed this content, and did not lose it."""
    return record.published_digest == record.content_digest and record.absent_since is None


def _before_delete(record: VersionRecord) -> Outcome | None:
    return None if record.deleting else SKIPPED


# -- what may be published ---------------------------------------------------------------------
def check_choice(as_: Strategy | None) -> None:
    """Refuse a strategy under which nothing is uploaded."""
    if as_ is not None and not as_.is_uploaded:
        raise UsageError(f"{as_.value} uploads nothing.", "Publish --as review or --as trusted.")


def check_trusted(names: Sequence[str] | None, unpublished: Callable[[str], int]) -> None:
    """Refuse to publish as trusted what is not named one by one.

    ``names``: ids and refs as they were asked for, None for all; ``unpublished`` counts an id's
    versions that the server does not have. Raises `UsageError`.
    """
    if names is None:
        raise UsageError("All at once can only go to review.", _ONE_BY_ONE)
    for name in names:
        if "@" not in name and (count := unpublished(name)) != 1:
            raise UsageError(
                f"{name} has {count} unpublished versions: `trusted` is for one.", _ONE_BY_ONE
            )


def decide(record: VersionRecord, as_: Strategy | None) -> tuple[Strategy | None, str]:
    """Return ``(strategy, "")`` when the version may be published, else ``(None, reason)``.

    ``as_`` is the caller's choice; without it an earlier choice counts, never a file's request.
    """
    reason = forbidden(record)
    if reason is not None:
        return None, reason
    if record.deleting:
        return None, "it is being deleted"
    if is_published(record) and record.sync_state is SyncState.PUBLISHED:
        return None, ALREADY_PUBLISHED
    if record.sync_state is SyncState.CONFLICT:
        return None, "open conflict: choose with escher-playbooks conflicts resolve"
    strategy = as_ or record.chosen_strategy
    if not strategy.is_uploaded:
        return None, "local_only: choose with --as review or --as trusted"
    return strategy, ""
