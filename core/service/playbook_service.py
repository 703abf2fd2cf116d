"""PlaybookService: the mission's methods over the parts of one home.

Works without Celery; the tasks call it. Opening it is cheap: the server's client, the model and
the collection are made when they are first needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from core.errors import (
    IndexCorrupt,
    LeaseHeld,
    ModelUnavailable,
    Refused,
    StorageError,
    TransientError,
    UsageError,
)
from core.journal.leases import SYNC
from core.models import (
    RESERVED_PREFIX,
    Area,
    Outcome,
    OutcomeState,
    Playbook,
    PlaybookDraft,
    PlaybookMetadata,
    Ref,
    ScriptKey,
    Status,
    Strategy,
)
from core.playbooks.decisions import Decision, decide
from core.playbooks.export import Exported, export
from core.playbooks.held import declassify
from core.playbooks.restore import restore_from_trash
from core.playbooks.secrets_gate import stricter
from core.playbooks.store import StoreResult
from core.playbooks.validation import Limits
from core.playbooks.verify import adopt
from core.publishing.conflicts import Choice, Resolution
from core.publishing.publisher import OnFindings, PublishPlan, check_trusted
from core.reports import (
    DeleteReport,
    ImportReport,
    PlaybookSearchResult,
    VerifyReport,
)
from core.scripts.models import Overrides, ResolvedScript, ResolveOptions
from core.secrets import SecretFinding
from core.service.home import Home
from core.service.importing import Progress, import_path
from core.service.status import service_status, verify_home
from core.service.sync import BackgroundSync, SyncPlan, write_report
from core.settings import Settings, load_settings

_log = logging.getLogger(__name__)


class PlaybookService(Home):
    """An open home with the mission's methods, each for one playbook, and batch forms beside them.

    Whatever else a part can do is asked of the part itself: `catalog`, `store`, `sync`,
    `publisher`, `conflict_resolver`, `indexing`, `script_manager`, `executions`, `journal`.
    """

    @classmethod
    def open(cls, settings: Settings | None = None) -> Self:
        """Open the home, finish what a crash left half-done, and return the service."""
        service = cls(settings or load_settings())
        service.store.writer.recover()
        service.script_manager.recover()
        if not service.journal.versions.counts()["versions"]:
            service.adopt()
        return service

    def adopt(self) -> list[Ref]:
        """Take folders that the journal does not know into it: after the journal was lost."""
        adopted, failed = adopt(self.store)
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
        return self.catalog.show(playbook_id if version == "latest" else f"{playbook_id}@{version}")

    def update_playbook(self, playbook_id: str, playbook: PlaybookDraft) -> Ref:
        """Replace the content of the latest version, or make the next one when it is published."""
        return self.update(playbook_id, playbook).ref

    def delete_playbook(self, playbook_id: str, version: str | None = None) -> DeleteReport:
        """Delete a version (or all); a published one waits until the server has confirmed."""
        return self.delete(playbook_id if version is None else f"{playbook_id}@{version}")

    def list_playbooks(self) -> list[PlaybookMetadata]:
        """The metadata of the latest version of every playbook, by id."""
        return [playbook.metadata for playbook in self.catalog.list_page(limit=None)[0]]

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
            plan = self.sync.run(accept_deletions=accept_deletions)
            # only then: opening the collection takes seconds, and may add to what is to be done
            if plan.embed:
                self.index_pending()
            self.publish_refs(plan.publish)
            if plan.delete:
                self.publisher.delete(plan.delete)
            if plan.unindex or plan.delete:
                self.indexing.tidy()
            return self.finish_sync(plan)

    def finish_sync(self, plan: SyncPlan) -> dict[str, Any]:
        """Write and return the report of a sync (``cache/metadata/last_sync.json``)."""
        self.script_manager.cache.layout.check()  # the report goes there, too
        return write_report(self.settings, self.journal, plan)

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
            return self.indexing.search_by_keywords(query, filters or {}, limit).results
        return self.indexing.search(query, filters or {}, limit).results

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
        source: str | None = None,
        strategy: Strategy | None = None,
        gate: str | None = None,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Take in a folder or archive in batches; what is there already, unchanged, is no failure.

        ``source``: ``ssm``, ``rundeck``, ``stackstorm``, ``ansible`` or ``azure-runbook``, of whose
        runbooks playbooks are made.
        `UsageError` for ``uploaded_trusted``: many at once can only go to review.
        """
        limits = Limits.of(self.settings)
        return import_path(
            self.store,
            path,
            limits=limits,
            source=source,
            strategy=strategy,
            gate=gate,
            on_progress=on_progress,
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
        return self.catalog.show(str(ref))

    def declassify(self, ref: Ref) -> StoreResult:
        """Make a version not sensitive, the only way there is; it stays on this machine."""
        return declassify(self.store, ref)

    def decide(self, ref: Ref, decision: Decision) -> Playbook | None:
        """The user's choice on an AI-generated version; as it then stands, None when discarded.

        `Refused` where it is to be uploaded and the secrets gate stops it.
        """
        uploaded = decision.strategy is not None and decision.strategy.is_uploaded
        if uploaded and self.settings.secrets_gate == "block":
            refusal = self.store.secrets.refusal(ref, self.findings(ref))
            if refusal is not None:
                raise refusal
        decide(self.store, ref, decision)
        return None if decision is Decision.DISCARD else self.catalog.show(str(ref))

    # -- deleting ---------------------------------------------------------------------------
    def delete(self, target: str) -> DeleteReport:
        """Delete what only stands here; mark what is published, for the job ``delete``."""
        refs = self.catalog.expand([target])
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
    def export(self, target: str, path: Path, *, reveal: bool = False) -> Exported:
        """Write a version out as a folder, or as a ``.tar.gz``; see `core.playbooks.export`."""
        return export(
            self.store,
            self.settings,
            self.store.resolve(target),
            path,
            lambda ref: self.contents.fetch(ref),  # noqa: PLW0108  the client is made when asked
            reveal=reveal,
        )

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
            check_trusted(targets, self.catalog.count_unpublished)
        refs = None if targets is None else self.catalog.expand(targets)
        level = stricter(self.settings.secrets_gate, gate)
        return self.publisher.request(refs, as_, gate=level, on_findings=on_findings)

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

    def index_pending(self, on_progress: Progress | None = None) -> int:
        """Index whatever is not, in this process; how many that were."""
        self.index_refs([])  # opens the collection: a damaged one forgets what was indexed
        try:
            self.script_manager.library.reconcile()
        except StorageError as error:
            _log.warning("the library's versions stay as the journal knows them: %s", error)
        pending = self.indexing.sources.pending()
        size = self.settings.publish_batch_size
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            self.index_refs(batch)
            if on_progress is not None:
                on_progress(start + len(batch), str(batch[-1]))
        return len(pending)

    # -- scripts ----------------------------------------------------------------------------
    def resolve_script(
        self,
        playbook_id: str,
        format: str,  # noqa: A002  the contract's name
        version: str = "latest",
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
        copy: bool = False,
    ) -> Path:
        """The path of the entry script of a version that may be run, every byte just proven.

        `NotRunnable` where none may; see `core.scripts.run_policy` for who may be run.
        """
        return self.locate_script(
            f"{playbook_id}@{version}",
            format,
            allow_unreviewed=allow_unreviewed,
            allow_deprecated=allow_deprecated,
            copy=copy,
        ).path

    def download_script(
        self, s3_path: str, *, allow_unreviewed: bool = False, allow_deprecated: bool = False
    ) -> Path:
        """The file at ``s3_path``, in the cache with all of its format folder; as `resolve_script`."""
        return self.script_manager.download(s3_path, Overrides(allow_unreviewed, allow_deprecated))

    def cache_script(
        self,
        playbook_id: str,
        version: str,
        format: str,  # noqa: A002  the contract's name
        path: str,
        content: bytes,
    ) -> Path:
        """Keep ``content``, bytes that the version is known to have, in the cache; where it stands."""
        return self.script_manager.put(ScriptKey(Ref(playbook_id, version), format), path, content)

    def evict_old_cache(self) -> int:
        """Evict what is over the cache's age or size; the bytes freed."""
        return self.script_manager.evict().bytes_freed

    def locate_script(
        self,
        target: str,
        format: str,  # noqa: A002  the contract's name
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
        copy: bool = False,
        ignore_state: bool = False,
    ) -> ResolvedScript:
        """`resolve_script` with the whole answer: files, status, publisher, warnings.

        ``copy``: of a read-only copy that nothing changes while it is run.
        """
        options = ResolveOptions(Overrides(allow_unreviewed, allow_deprecated), copy, ignore_state)
        found = self.script_manager.resolver.resolve(target, format, options)
        more = self.journal.pull_state.warnings(found.ref)
        if not more:
            return found
        told = replace(found.info, warnings=(*found.info.warnings, *more))
        return replace(found, info=told)

    def lease_script(
        self,
        target: str,
        format: str,  # noqa: A002  the contract's name
        seconds: float | None = None,
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
    ) -> AbstractContextManager[ResolvedScript]:
        """`locate_script` for a ``with``: a sensitive playbook's clear text goes at its end."""
        options = ResolveOptions(Overrides(allow_unreviewed, allow_deprecated))
        return self.script_manager.resolver.lease(target, format, seconds, options)

    # -- conflicts and the trash ------------------------------------------------------------
    def resolve_conflict(
        self,
        ref: Ref,
        *,
        as_version: str | None = None,
        rename: str | None = None,
        take: str | None = None,
    ) -> Resolution:
        """Settle an open conflict by one of the three choices, see `core.publishing.conflicts`."""
        choice = Choice(as_version, rename, take)
        if ref.playbook_id.startswith(RESERVED_PREFIX):
            return self.script_manager.settle_library(self.conflict_resolver.find(ref), choice)
        return self.conflict_resolver.resolve(ref, choice)

    def restore_from_trash(self, ref: Ref) -> Ref:
        """Bring a version back as a private one, under the next free version; which."""
        return restore_from_trash(self.store, self.trash, ref)

    # -- what looks like a secret -----------------------------------------------------------
    def findings(self, ref: Ref) -> tuple[SecretFinding, ...]:
        """What looks like a secret in a version; what was not scanned yet is scanned now."""
        return self.publisher.findings([self.store.get(ref)]).get(ref, ())

    def accept_findings(
        self, targets: Sequence[str], wanted: Sequence[tuple[str, str]], accepted_by: str
    ) -> None:
        """Let findings of these versions (``id@version``) pass, each ``(key, reason)``, for good.

        A finding is a line of a file's very content: with the next edit of the file it is another.
        `NotFound` for a key that none of them has; then nothing is accepted.
        """
        if not targets or any("@" not in target for target in targets):
            raise UsageError(
                "A finding is accepted in one version.", "Name it: publish ID@VERSION."
            )
        refs = [self.store.resolve(target) for target in targets]
        self.publisher.accept_findings(refs, dict(wanted), accepted_by)

    # -- the whole --------------------------------------------------------------------------
    def verify(self) -> VerifyReport:
        """Check every file, row and point against each other."""
        return verify_home(self)

    def status(self) -> dict[str, Any]:
        """The parts ``server``, ``journal`` and ``sync`` of the contract's status document."""
        return service_status(self.settings, self.journal, self.server)


def _ok(outcome: Outcome) -> bool:
    return outcome.state is OutcomeState.DONE
