"""PlaybookService: puts the parts together. It alone knows all folders of ``core``.

Works without Celery; the tasks call it. Opening it is cheap: the server's client, the model and
the collection are made when they are first needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from core.conflict_methods import ConflictMethods
from core.errors import (
    IndexCorrupt,
    LeaseHeld,
    ModelUnavailable,
    Refused,
    TransientError,
    UsageError,
)
from core.executions import ExecutionReport, ExecutionsSent
from core.importing import Progress, import_path
from core.journal.leases import SYNC
from core.models import (
    Area,
    Outcome,
    OutcomeState,
    Playbook,
    PlaybookDraft,
    PlaybookMetadata,
    PlaybookSearchResult,
    Ref,
    Status,
    Strategy,
)
from core.playbooks.decisions import Decision, decide
from core.playbooks.exporting import Exported, export
from core.playbooks.held import declassify
from core.playbooks.limits import Limits
from core.playbooks.store import StoreResult
from core.playbooks.verify import verify as verify_store
from core.publishing.policy import PublishPlan, check_trusted
from core.publishing.publisher import OnFindings
from core.reports import (
    DeleteReport,
    Finding,
    ImportReport,
    SearchAnswer,
    VerifyReport,
)
from core.script_methods import ScriptMethods
from core.secrets.gate import stricter
from core.settings import Settings, load_settings
from core.status import service_status
from core.sync_methods import BackgroundSync, SyncMethods

_log = logging.getLogger(__name__)


class PlaybookService(ConflictMethods, ScriptMethods, SyncMethods):
    """The mission's methods, each for one playbook, and batch forms beside them."""

    @classmethod
    def open(cls, settings: Settings | None = None) -> Self:
        """Open the home, finish what a crash left half-done, and return the service."""
        service = cls(settings or load_settings())
        service.store.recover()
        service.script_manager.recover()
        if not service.journal.versions.counts()["versions"]:
            service.adopt()
        return service

    def adopt(self) -> list[Ref]:
        """Take folders that the journal does not know into it: after the journal was lost."""
        adopted, failed = self.store.adopt()
        for path, error in failed.items():
            _log.warning("%s is not taken into the journal: %s", path, error)
        if adopted:
            _log.warning("the journal was rebuilt from %d folders", len(adopted))
        return adopted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the mission's methods --------------------------------------------------------------
    def create_playbook(self, playbook: PlaybookDraft, strategy: Strategy | None = None) -> str:
        """Store a new playbook or version; its id.

        It stays on this machine unless ``strategy`` says otherwise: what its metadata asks for is
        not followed.
        """
        return self.create(playbook, strategy=strategy).ref.playbook_id

    def get_playbook(self, playbook_id: str, version: str = "latest") -> Playbook:
        """A stored version with its files; `NotFound` when there is none."""
        return self.show(playbook_id if version == "latest" else f"{playbook_id}@{version}")

    def update_playbook(self, playbook_id: str, playbook: PlaybookDraft) -> Ref:
        """Replace the content of the latest version, or make the next one when it is published."""
        return self.update(playbook_id, playbook).ref

    def delete_playbook(self, playbook_id: str, version: str | None = None) -> DeleteReport:
        """Delete a version (or all); a published one waits until the server has confirmed."""
        return self.delete(playbook_id if version is None else f"{playbook_id}@{version}")

    def list_playbooks(self) -> list[PlaybookMetadata]:
        """The metadata of the latest version of every playbook, by id."""
        return [playbook.metadata for playbook in self.list_page(limit=None)[0]]

    def publish_metadata(self, playbook_id: str, as_: Strategy | None = None) -> dict[Ref, Outcome]:
        """Flow 2 for what is to be published of this playbook, in this process.

        ``as_`` is the choice for what was kept private; without it, that is left out.
        """
        plan = self.request_publish([playbook_id], as_)
        return self.publish_refs(plan.accepted)

    def sync_all_metadata(self, *, accept_deletions: bool = False) -> dict[str, Any]:
        """Sync both ways in this process, to its end; the SyncReport.

        ``accept_deletions``: the server's deletions that wait, as they are many, are carried out.
        `LeaseHeld` while another process syncs this home.
        """
        with self.journal.leases.holding(SYNC, [()]) as held:
            if not held:
                raise LeaseHeld("Another sync of this home runs.", "Its report tells what it did.")
            plan = self.look_at_both_sides(accept_deletions=accept_deletions)
            if (
                plan.embed
            ):  # opening the collection takes seconds, and may add to what is to be done
                self.index_pending()
            self.publish_refs(plan.publish)
            if plan.delete:
                self.publisher.delete(plan.delete)
            if plan.unindex or plan.delete:
                self.tidy_points()
            return self.finish_sync(plan)

    def start_background_sync(self) -> BackgroundSync:
        """Sync now and every ``sync_interval_minutes`` in a thread of this process, until `stop`.

        For users of the library; under `up` beat does it.
        """
        return BackgroundSync(self.sync_all_metadata, self.settings.sync_interval_minutes * 60)

    def search_local_playbooks(
        self, query: str, filters: Mapping[str, Any] | None = None, limit: int = 10
    ) -> list[PlaybookSearchResult]:
        """The best playbooks for ``query``, best first; indexes first what is not indexed yet."""
        try:
            self.index_pending()
        except (ModelUnavailable, IndexCorrupt, TransientError) as error:
            _log.warning("searching by words only: %s", error.detail)
            return self.search_by_keywords(query, filters or {}, limit).results
        return self.search(query, filters or {}, limit).results

    def add_to_rag(self, playbook: Playbook | Ref) -> Outcome:
        """Write (again) the point of a version."""
        ref = playbook.ref if isinstance(playbook, Playbook) else playbook
        return self.index_refs([ref])[ref]

    def remove_from_rag(self, playbook_id: str) -> None:
        """Remove the points of all versions of a playbook; `reindex` brings them back."""
        self.indexing.remove(
            [ref for ref in self.indexing.sources.refs() if ref.playbook_id == playbook_id]
        )

    # -- creating and changing --------------------------------------------------------------
    def create(
        self,
        draft: PlaybookDraft,
        *,
        playbook_id: str | None = None,
        version: str | None = None,
        strategy: Strategy | None = None,
        author: str | None = None,
    ) -> StoreResult:
        """Validate and store; what is written by an AI waits in ``ai-generated/``."""
        who = author or draft.metadata.get("author")
        area = Area.AI_GENERATED if who == "ai_generated" else Area.LOCAL
        return self.store.create(
            draft,
            area=area,
            playbook_id=playbook_id,
            version=version,
            strategy=strategy,
            author=author,
        )

    def import_path(
        self,
        path: Path,
        *,
        strategy: Strategy | None = None,
        gate: str | None = None,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Take in a folder or archive in batches; what is there already, unchanged, is no failure.

        `UsageError` for ``uploaded_trusted``: many at once can only go to review.
        """
        limits = Limits.of(self.settings)
        return import_path(
            self.store, path, limits=limits, strategy=strategy, gate=gate, on_progress=on_progress
        )

    def update(
        self,
        playbook_id: str,
        draft: PlaybookDraft,
        version: str | None = None,
        *,
        strategy: Strategy | None = None,
    ) -> StoreResult:
        """Replace the latest version's content; a published one gets a new version."""
        return self.store.update(playbook_id, draft, version, strategy=strategy)

    def set_status(self, ref: Ref, status: str, reason: str | None = None) -> Playbook:
        """Set the status of a version that is not published; the server owns the others'."""
        record = self.store.get(ref)
        if record.is_published:
            raise Refused(
                f"{ref} is published: its status is the server's.",
                "A reviewer changes it there; the next sync brings it here.",
            )
        if status not in set(Status):
            raise UsageError(f"Status {status!r} is unknown.", f"Use one of {', '.join(Status)}.")
        changes: dict[str, Any] = {"status": status, "updated_at": int(time.time())}
        if reason is not None:
            changes["deprecation_reason"] = reason
        self.store.set_metadata(ref, changes)
        return self.show(str(ref))

    def accept_held(self, target: str) -> StoreResult:
        """Let a held edit of sensitive content (``ID`` or ``ID@VERSION``) be the content, sealed."""
        return self.held.accept(self.held.of(target))

    def discard_held(self, target: str) -> Ref:
        """Drop a held edit of sensitive content; which version's it was."""
        edit = self.held.of(target)
        self.held.discard(edit)
        return edit.ref

    def declassify(self, ref: Ref) -> StoreResult:
        """Make a version not sensitive, the only way there is; it stays on this machine."""
        return declassify(self.store, ref)

    def decide(self, ref: Ref, decision: Decision) -> Playbook | None:
        """The user's choice on an AI-generated version; as it then stands, None when discarded.

        `Refused` where it is to be uploaded and the secrets gate stops it.
        """
        if decision.strategy is not None and decision.strategy.is_uploaded:
            self.refuse_secrets(ref)
        decide(self.store, ref, decision)
        return None if decision is Decision.DISCARD else self.show(str(ref))

    def claim(self, targets: Sequence[str] | None) -> list[Ref]:
        """Say of versions that they were made here; which were not known to be.

        None: all whose origin is not known, as of a home from before or of a lost journal. What
        was pulled is claimed by its name alone.
        """
        if targets is None:
            unknown = {None, "adopt"}
            records = [row for row in self.journal.versions.select() if row.intake in unknown]
        else:
            records = [self.store.get(ref) for ref in self.expand(targets)]
        claimed = [record.ref for record in records if not record.made_here]
        self.journal.versions.set_many([(ref, None, {"made_here": True}) for ref in claimed])
        # edits of what one has published oneself go to review, as 0.1.0 had it
        published = {record.ref for record in records if record.is_published}
        self.journal.choices.claimed(ref for ref in claimed if ref in published)
        return claimed

    # -- executing --------------------------------------------------------------------------
    def report_execution(self, ref: Ref, **run: Any) -> ExecutionReport:
        """Count a run that an execution engine reports, see `Executions.report`."""
        return self.executions.report(ref, **run)

    def send_executions(self) -> ExecutionsSent:
        """Tell the server of the runs that it has not been told of yet."""
        return self.executions.send(self.server)

    # -- deleting ---------------------------------------------------------------------------
    def delete(self, target: str) -> DeleteReport:
        """Delete what only stands here; mark what is published, for the job ``delete``."""
        refs = self.expand([target])
        told = [words for ref in refs if (words := self.handed_out.warning(ref))]
        waiting = self.request_delete(refs)
        return DeleteReport([ref for ref in refs if ref not in waiting], waiting, told)

    def request_delete(self, refs: Sequence[Ref]) -> list[Ref]:
        """Delete the unpublished ones of ``refs``; the published ones are marked and returned."""
        published = self.publisher.request_delete(refs)
        local = [ref for ref in refs if ref not in set(published)]
        self.store.delete(local, unless_busy=True)
        return published

    # -- looking ----------------------------------------------------------------------------
    def expand(self, targets: Sequence[str]) -> list[Ref]:
        """``id`` is all its versions, ``id@version`` that one; `NotFound` names what is not there."""
        return self.catalog.expand(targets)

    def show(self, target: str) -> Playbook:
        """A version (the latest of an id) with its files."""
        return self.catalog.show(target)

    def export(self, target: str, path: Path, *, reveal: bool = False) -> Exported:
        """Write a version out as a folder, or as a ``.tar.gz``; see `core.playbooks.exporting`."""
        return export(
            self.store,
            self.settings,
            self.store.resolve(target),
            path,
            lambda ref: self.contents.fetch(ref),  # noqa: PLW0108  the client is made when asked
            reveal=reveal,
        )

    def versions_of(self, playbook_id: str) -> list[Playbook]:
        """Every version of a playbook, lowest first."""
        return self.catalog.versions_of(playbook_id)

    def list_page(self, **asked: Any) -> tuple[list[Playbook], str | None]:
        """One page of the latest versions, see `Catalog.list_page`."""
        return self.catalog.list_page(**asked)

    # -- publishing -------------------------------------------------------------------------
    def request_publish(
        self,
        targets: Sequence[str] | None,
        as_: Strategy | None,
        *,
        gate: str | None = None,
        on_findings: OnFindings | None = None,
    ) -> PublishPlan:
        """Mark what is to be published (None: all that may be); what is left out, and why.

        ``gate`` is the asker's ``secrets_gate`` where that is another than this process' own: the
        stricter counts. ``on_findings``: see `Publisher.request`. `UsageError` where
        ``uploaded_trusted`` is asked for more than one version by one name.
        """
        if as_ is Strategy.TRUSTED:
            check_trusted(targets, self._unpublished)
        refs = None if targets is None else self.expand(targets)
        level = stricter(self.settings.secrets_gate, gate)
        return self.publisher.request(refs, as_, gate=level, on_findings=on_findings)

    def _unpublished(self, playbook_id: str) -> int:
        rows = self.journal.versions.of_playbook(playbook_id)
        if not rows:
            self.expand([playbook_id])  # says that there is none, and what there is
        return sum(not row.is_published for row in rows)

    def publish_refs(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """All steps of Flow 2 in this process, batch by batch; each version's last outcome."""
        outcomes: dict[Ref, Outcome] = {}
        size = self.settings.publish_batch_size
        for start in range(0, len(refs), size):
            batch = list(refs[start : start + size])
            for step in (
                self.index_refs,
                self.publisher.upload,
                self.publisher.publish,
                self.publisher.settle,
            ):
                outcomes.update(step(batch))
                batch = [ref for ref in batch if _ok(outcomes[ref])]
            self.index_refs(batch)
        return outcomes

    def withdraw_publish(self, refs: Sequence[Ref]) -> None:
        """Take back the wish to publish; what the server has committed stays."""
        self.journal.versions.withdraw(refs)

    # -- searching --------------------------------------------------------------------------
    def index_refs(self, refs: Sequence[Ref]) -> dict[Ref, Outcome]:
        """Bring points up to date; versions that are gone lose theirs.

        A version that can't be indexed can't be published either: its row keeps the reason.
        """
        outcomes = self.indexing.index(refs)
        failed = [(ref, o) for ref, o in outcomes.items() if o.state is OutcomeState.FAILED]
        if failed:
            self.journal.versions.fail_pending(failed)
        return outcomes

    def tidy_points(self) -> None:
        """Remove the points of versions that are gone."""
        self.indexing.tidy()

    def drop_collection(self) -> None:
        """Begin the collection anew; every version is then to be indexed again."""
        self.indexing.drop()

    def index_pending(self, on_progress: Progress | None = None) -> int:
        """Index whatever is not, in this process; how many that were."""
        self.index_refs([])  # opens the collection: a damaged one forgets what was indexed
        self.indexing.sources.library.reconcile()
        pending = self.indexing.sources.pending()
        size = self.settings.publish_batch_size
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            self.index_refs(batch)
            if on_progress is not None:
                on_progress(start + len(batch), str(batch[-1]))
        return len(pending)

    def search(self, query: str, filters: Mapping[str, Any], limit: int = 10) -> SearchAnswer:
        """By meaning, or by words when the model or the collection is out of reach."""
        return self.indexing.search(query, filters, limit)

    def search_by_keywords(
        self, query: str, filters: Mapping[str, Any], limit: int = 10
    ) -> SearchAnswer:
        """By words, from the journal alone."""
        return self.indexing.search_by_keywords(query, filters, limit)

    # -- the whole --------------------------------------------------------------------------
    def verify(self) -> VerifyReport:
        """Check every file, row and point against each other."""
        problems = [
            Finding(str(found.ref or ""), found.path, found.what, found.remedy)
            for found in verify_store(self.store)
        ]
        problems.extend(
            Finding(str(edit.ref), edit.folder, edit.as_text(), "Take it or drop it, as it says.")
            for edit in self.journal.held_edits.entries()
        )
        problems.extend(self.indexing.verify())
        problems.extend(self.script_manager.verify())
        return VerifyReport(self.journal.versions.counts()["versions"], problems)

    def status(self) -> dict[str, Any]:
        """The parts ``server``, ``journal`` and ``sync`` of the contract's status document."""
        return service_status(self.settings, self.journal, self.server)


def _ok(outcome: Outcome) -> bool:
    return outcome.state is OutcomeState.DONE
