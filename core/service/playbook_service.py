"""The methods of `PlaybookService` about what the scan for secrets found."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from core.errors import (
    EscherError,
    IndexCorrupt,
    LeaseHeld,
    ModelUnavailable,
    Refused,
    StorageError,
    TransientError,
    UsageError,
)
from core.journal.conflicts import ConflictRecord
from core.journal.leases import SYNC
from core.models import (
    FORMATS,
    RESERVED_PREFIX,
    Area,
    Outcome,
    OutcomeState,
    Playbook,
    PlaybookDraft,
    PlaybookMetadata,
    Ref,
    Status,
    Strategy,
    SyncState,
)
from core.playbooks.decisions import Decision, decide
from core.playbooks.exporting import Exported, export
from core.playbooks.held import declassify
from core.playbooks.secrets_gate import check_level, stricter
from core.playbooks.store import StoreResult
from core.playbooks.trash import Trash, TrashEntry, restore
from core.playbooks.validation import Limits
from core.playbooks.verify import verify as verify_store
from core.publishing.conflicts import Choice, Resolution
from core.publishing.policy import PublishPlan, check_trusted
from core.publishing.publisher import OnFindings
from core.publishing.pull import PullReport
from core.reports import (
    DeleteReport,
    Finding,
    ImportReport,
    PlaybookSearchResult,
    SearchAnswer,
    VerifyReport,
)
from core.scripts.eviction import EvictReport
from core.scripts.models import Overrides, ResolvedScript, ResolveOptions, ScriptKey
from core.secrets.findings import SecretFinding
from core.service.executions import ExecutionReport, ExecutionsSent
from core.service.home import ServiceParts
from core.service.importing import Progress, import_path
from core.service.status import pull_warnings, service_status
from core.service.sync import SyncPlan, read_report, write_report
from core.settings import Settings, load_settings

FindingsByRef = Mapping[Ref, Sequence[SecretFinding]]


class SecretMethods(ServiceParts):
    """What `PlaybookService` hands on to the secrets gate."""

    on_edit_findings: Callable[[FindingsByRef], object] | None = None
    """Told what the scan found in the edits that a sync took in, before anything is uploaded."""

    def findings(self, ref: Ref) -> tuple[SecretFinding, ...]:
        """What looks like a secret in a version; what was not scanned yet is scanned now."""
        return self.publisher.findings([self.store.get(ref)]).get(ref, ())

    def refuse_secrets(self, ref: Ref) -> None:
        """`Refused` where ``secrets_gate = block`` stops the version."""
        if self.settings.secrets_gate == "block":
            refusal = self.store.secrets.refusal(ref, self.findings(ref))
            if refusal is not None:
                raise refusal

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

    def tell_edit_findings(self, found: FindingsByRef) -> None:
        """Hand on what was found in edits to whoever waits for it in this process."""
        if found and self.on_edit_findings is not None:
            self.on_edit_findings(found)

    @staticmethod
    def check_gate(level: str | None) -> str | None:
        """A ``secrets_gate`` that somebody gave; `UsageError` when it is none."""
        return check_level(level)


# The methods of `PlaybookService` about what the server says: pulling, and settling conflicts.


class ConflictMethods(ServiceParts):
    """What `PlaybookService` hands on to the puller and the conflict resolver."""

    def pull(self, *, accept_deletions: bool = False) -> PullReport:
        """Take in what changed on the server; raises when it can't be read."""
        return self.puller.pull(accept_deletions=accept_deletions)

    def conflicts(self, *, everything: bool = False) -> list[ConflictRecord]:
        """Open decisions and kept copies, the oldest first; ``everything``: settled ones too."""
        return self.journal.conflicts.entries(everything=everything)

    def open_conflict(self, ref: Ref) -> ConflictRecord:
        """The open conflict that ``ref`` names, its own or its id's; `NotFound` without one."""
        return self.conflict_resolver.find(ref)

    def trash(self) -> list[TrashEntry]:
        """What deletions of the other side took, the newest first."""
        return Trash(self.settings.trash_path).entries()

    def restore_from_trash(self, ref: Ref) -> Ref:
        """Bring a version back as a private one, under the next free version; which."""
        return restore(self.store, self.envelope, Trash(self.settings.trash_path), ref)

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
            return self._settle_library(self.open_conflict(ref), choice)
        return self.conflict_resolver.resolve(ref, choice)

    def _settle_library(self, conflict: ConflictRecord, choice: Choice) -> Resolution:
        """The Escher Library is in no feed and no folder: only the name can be pinned anew."""
        ref = conflict.ref
        if choice.take is None:
            raise UsageError(
                f"{ref} is the Escher Library's: its name can't be given to anything else.",
                "Take theirs, or leave it: the known content goes on being used.",
            )
        digest = self.downloads.digest_of(ref)
        if digest != conflict.server_digest:
            self.journal.conflicts.open(ref, conflict.kind, conflict.reason, server_digest=digest)
            raise Refused(
                f"The server changed its side of {ref} again: it is {digest} now, not"
                f" {conflict.server_digest}.",
                "Look at the conflict again before you take it.",
            )
        self.journal.pins.replace(ref, digest)
        for format_ in FORMATS:  # what the name stood for is not answered any more
            if self.cache.find(key := ScriptKey(ref, format_)) is not None:
                self.cache.quarantine(key, "theirs was taken")
        self.script_manager.library.forget([ref])
        self.journal.conflicts.settle([ref], "take theirs")
        return Resolution(ref, "take theirs")


# The methods of `PlaybookService` about scripts: Flow 3, and the cache.


class ScriptMethods(ServiceParts):
    """What `PlaybookService` hands on to its script manager."""

    # -- the mission's methods --------------------------------------------------------------
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
        return self.evict_cache().bytes_freed

    # -- with more of an answer ---------------------------------------------------------------
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
        more = pull_warnings(self.journal, found.ref)
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

    def evict_cache(self) -> EvictReport:
        """`evict_old_cache`, and all that it did."""
        return self.script_manager.evict()

    def clear_cache(self) -> EvictReport:
        """Evict everything that is not in use."""
        return self.script_manager.clear_cache()

    def cache_usage(self, limit: int | None = None) -> dict[str, Any]:
        """Use of the cache, its counters and entries, see `ScriptManager.usage`."""
        return self.script_manager.usage(limit)


# The methods of `PlaybookService` about syncing, and the interval for users of the library.


_log = logging.getLogger(__name__)


class BackgroundSync:
    """A thread that syncs at an interval until `stop`."""

    def __init__(self, sync: Callable[[], object], interval_seconds: float) -> None:
        self._sync = sync
        self._interval = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="escher-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._sync()
            except EscherError as error:  # the next one finds what this one left
                _log.warning("the background sync failed: %s", error)
            except Exception:  # noqa: BLE001 — a mistake of ours must not end syncing for good
                _log.exception("the background sync failed unexpectedly")
            self._stopping.wait(self._interval)

    def stop(self, timeout: float | None = None) -> None:
        """End it after the sync that may be running; waits for that, ``timeout`` seconds at most."""
        self._stopping.set()
        self._thread.join(timeout)


class SyncMethods(SecretMethods):
    """What `PlaybookService` hands on to the sync."""

    # -- its parts --------------------------------------------------------------------------
    def look_at_both_sides(
        self, under_way: Collection[Ref] = (), *, accept_deletions: bool = False
    ) -> SyncPlan:
        """What changed here and there, taken in, and what is to be done now, see `core.service.sync`."""
        return self.sync.run(
            under_way, on_findings=self.tell_edit_findings, accept_deletions=accept_deletions
        )

    def plan_sync(self, under_way: Collection[Ref] = ()) -> SyncPlan:
        """What is to be done by what the journal knows, without looking at disk or server."""
        return self.sync.difference(under_way=under_way)

    def retry_set_aside(self) -> None:
        """Make due, now, what failed or was put off: versions, the server's changes, reported runs."""
        versions = self.journal.versions
        rows = [
            *versions.select(sync=SyncState.FAILED.value),
            *versions.select(sync=SyncState.DEFERRED.value),
        ]
        self.publisher.request([row.ref for row in rows if row.publish_as is not None])
        versions.set_many(
            [(row.ref, None, {"next_attempt_at": None}) for row in rows if row.deleting]
        )
        self.journal.pull_state.want_full_pass("what was set aside is to be tried again")
        self.executions.retry()

    def finish_sync(self, plan: SyncPlan) -> dict[str, Any]:
        """Write and return the report of a sync (``cache/metadata/last_sync.json``)."""
        self.script_manager.cache.layout.check()  # the report goes there, too
        return write_report(self.settings, self.journal, plan)

    def last_sync(self) -> dict[str, Any] | None:
        """The last report, None before the first sync."""
        return read_report(self.settings)


# PlaybookService: puts the parts together. It alone knows all folders of ``core``.
#
# Works without Celery; the tasks call it. Opening it is cheap: the server's client, the model and
# the collection are made when they are first needed.


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
