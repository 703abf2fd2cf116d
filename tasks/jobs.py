"""Submit, wait for, cancel and retry jobs, and what follows a change: the only door to the workers.

With `up`, a job goes through the workers. Without it, a job is journalled and the next `up` goes
on with it, or, with ``wait``, its workflow runs in this process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.exceptions import OperationalError

from core.errors import (
    BrokerUnreachable,
    IndexCorrupt,
    ModelUnavailable,
    TransientError,
    UsageError,
)
from core.journal import Job, JobState
from core.journal.leases import SYNC
from core.models import Playbook, Ref, Strategy, SyncState
from core.playbooks.decisions import Decision
from core.playbooks.secrets_gate import check_level
from core.publishing.conflicts import Resolution
from core.publishing.publisher import OnFindings
from core.reports import SearchAnswer
from core.scripts.models import ResolvedScript, Source
from core.service import PlaybookService
from core.service.executions import ExecutionReport
from core.settings import Settings
from tasks import broker, job_kinds, workflows
from tasks.app import app
from tasks.base import use_service

SEARCH_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.1
BROKER_CHECK_SECONDS = 5.0
STUCK_SECONDS = 60.0  # without progress, what waits to be published is left to the next sync

Progress = Callable[[Job], None]

_log = logging.getLogger(__name__)


def is_running(settings: Settings) -> bool:
    """Whether a broker answers: `up`'s on its socket, or the one of ``broker_url``."""
    return broker.broker_reachable(settings)


def submit(
    service: PlaybookService,
    kind: str,
    *,
    refs: Sequence[str] | None = None,
    all_: bool = False,
    as_: str | None = None,
    path: str | None = None,
    format_: str | None = None,
    from_: str | None = None,
    secrets_gate: str | None = None,
    accept_findings: Sequence[tuple[str, str]] = (),
    accepted_by: str = "api",
    accept_deletions: bool = False,
    idempotency_key: str | None = None,
    wait: bool = False,
    inline: bool = False,
    on_progress: Progress | None = None,
    on_findings: OnFindings | None = None,
) -> Job:
    """Make a job of one of the contract's kinds and start it; the job as it stands then.

    ``secrets_gate`` is the asker's setting: the stricter of it and the worker's counts.
    ``accept_findings``: each ``(key, reason)`` of a finding in these versions that is let pass,
    of which ``accepted_by`` is kept. ``on_findings`` is told what the scan found before anything
    is queued.
    ``inline`` runs it in this process whatever is running (a task that is itself run inline).
    """
    request: dict[str, Any] = {
        key: value
        for key, value in {
            "refs": list(refs) if refs is not None else None,
            "all": all_ or None,
            "as": as_,
            "path": path,
            "format": format_,
            "from": from_,
            "secrets_gate": check_level(secrets_gate),
            "accept_findings": [key for key, _ in accept_findings] or None,
            "accept_deletions": accept_deletions or None,
        }.items()
        if value is not None
    }
    if idempotency_key is not None:
        known = service.journal.jobs.known(idempotency_key, kind, request)
        if known is not None:  # before anything is asked for again, or found to be done
            return service.journal.jobs.summary(known)
    if accept_findings:
        if kind != "publish" or all_:
            raise UsageError(
                "accept_findings goes with publish and refs.", "Name the one version in refs."
            )
        service.accept_findings(list(refs or ()), accept_findings, accepted_by)
    if accept_deletions and kind != SYNC:
        raise UsageError(f"A {kind} job deletes nothing.", "Only sync takes accept_deletions.")
    offered = job_kinds.kind_of(kind)
    if offered.needs_refs and not (refs or all_):
        raise UsageError(f"A {kind} job needs refs or all.", "Name playbooks, or set all.")
    targets = offered.targets(
        service,
        job_kinds.JobRequest(
            refs or (),
            all_,
            as_,
            path,
            format_,
            from_,
            gate=secrets_gate,
            on_findings=on_findings,
        ),
    )
    job_id, is_new = service.journal.jobs.create(kind, request, targets, idempotency_key)
    job = service.journal.jobs.summary(job_id)
    if not is_new:
        return job
    if offered.needs_refs and not targets:
        service.journal.jobs.finish(job_id, JobState.SUCCEEDED)
        return service.journal.jobs.summary(job_id)
    return _start(service, job, targets, wait=wait, inline=inline, on_progress=on_progress)


def _start(
    service: PlaybookService,
    job: Job,
    targets: list[str],
    *,
    wait: bool = False,
    inline: bool = False,
    on_progress: Progress | None = None,
) -> Job:
    running = not inline and is_running(service.settings)
    if not running and not (wait or inline):
        return job  # journalled; `up` goes on with it
    if not running:
        use_service(service)
    try:
        dispatch(service, job, targets, inline=not running, on_progress=on_progress)
    except BrokerUnreachable:
        if wait:
            raise
        return job
    if wait and job.kind == SYNC:
        return _wait_for_sync(service, job.job_id, on_progress=on_progress)
    if wait and running:
        return wait_for(service, job.job_id, on_progress=on_progress)
    return service.journal.jobs.summary(job.job_id)


def dispatch(
    service: PlaybookService,
    job: Job,
    targets: list[str],
    *,
    inline: bool,
    on_progress: Progress | None = None,
) -> None:
    """Send (or run) the workflows of a job, telling ``on_progress`` after each batch."""
    for signature in job_kinds.signatures(job, targets, service.settings.publish_batch_size):
        workflows.dispatch(signature, inline=inline)
        if on_progress is not None and job_kinds.kind_of(job.kind).needs_refs:
            on_progress(service.journal.jobs.summary(job.job_id))


def changed(
    service: PlaybookService,
    refs: Sequence[Ref],
    *,
    wait: bool = False,
    inline: bool = False,
    on_progress: Progress | None = None,
) -> Job:
    """After create, update or import: embed these, and publish those that are to be published."""
    records = service.journal.versions.get_many(list(refs))
    publish = [str(ref) for ref, r in records.items() if r.sync_state is SyncState.PENDING]
    embed = [str(ref) for ref, r in records.items() if r.sync_state is not SyncState.PENDING]
    job: Job | None = None
    for kind, targets in (("embed", embed), ("publish", publish)):
        if not targets:
            continue
        job_id, _ = service.journal.jobs.create(kind, {"changed": len(targets)}, targets)
        job = _start(
            service,
            service.journal.jobs.summary(job_id),
            targets,
            wait=wait,
            inline=inline,
            on_progress=on_progress,
        )
    if job is None:
        job_id, _ = service.journal.jobs.create("embed", {"changed": 0})
        service.journal.jobs.finish(job_id, JobState.SUCCEEDED)
        job = service.journal.jobs.summary(job_id)
    return job


def search(
    service: PlaybookService,
    query: str,
    filters: Mapping[str, Any] | None = None,
    limit: int = 10,
    on_indexing: Callable[[int, str], None] | None = None,
) -> SearchAnswer:
    """Ask the process that owns the collection; without one, search in this process.

    This process first brings the collection up to date, telling ``on_indexing`` how far it is.
    """
    if not is_running(service.settings):
        try:
            service.index_pending(on_indexing)
        except (ModelUnavailable, IndexCorrupt, TransientError):
            return service.indexing.search_by_keywords(query, dict(filters or {}), limit)
        return service.indexing.search(query, dict(filters or {}), limit)
    try:
        result = app.send_task(
            "playbooks.search",
            args=[query, dict(filters or {}), limit],
            expires=SEARCH_TIMEOUT_SECONDS,
        )
        body = result.get(timeout=SEARCH_TIMEOUT_SECONDS, interval=0.01)
        result.forget()
    except (CeleryTimeoutError, OperationalError, RuntimeError):
        # RuntimeError is Celery's word for a result store that went away and did not come back
        return service.indexing.search_by_keywords(query, dict(filters or {}), limit)
    return SearchAnswer.from_json(body)


def wait_for(
    service: PlaybookService,
    job_id: str,
    *,
    timeout: float | None = None,
    on_progress: Progress | None = None,
) -> Job:
    """Follow a job in the journal until no worker has anything left to do for it now.

    Ends early, with the job as it stands, after ``timeout`` seconds or when the broker is gone.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    next_check = time.monotonic() + BROKER_CHECK_SECONDS
    while True:
        job = service.journal.jobs.summary(job_id)
        if on_progress is not None:
            on_progress(job)
        if job.is_finished:
            return service.journal.jobs.get(job_id)
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            return service.journal.jobs.get(job_id)
        if now >= next_check:
            if not is_running(service.settings):
                return service.journal.jobs.get(job_id)
            next_check = now + BROKER_CHECK_SECONDS
        time.sleep(POLL_SECONDS)


def _wait_for_sync(service: PlaybookService, job_id: str, *, on_progress: Progress | None) -> Job:
    """Until the sync, and what it queued, is done; another process may be the one that does it."""
    while not (job := service.journal.jobs.summary(job_id)).is_finished:
        if on_progress is not None:
            on_progress(job)
        if is_running(service.settings):
            job = wait_for(service, job_id, on_progress=on_progress)
            break
        if service.journal.leases.holder(SYNC) is None:  # it ended, or died, without an answer
            dispatch(service, job, [], inline=True)
        time.sleep(POLL_SECONDS)
    if not (job.result or {}).get("offline"):
        _wait_for_pending(service)
    return job


def _wait_for_pending(service: PlaybookService) -> None:
    """While the workers bring on what waits to be published; what is stuck is not waited for."""
    left, since = -1, time.monotonic()
    while pending := service.journal.versions.counts()["pending"]:
        now = time.monotonic()
        if pending != left:
            left, since = pending, now
        if now - since >= STUCK_SECONDS or not is_running(service.settings):
            return
        time.sleep(POLL_SECONDS)


def cancel(service: PlaybookService, job_id: str) -> Job:
    """Stop what has not been done; what is published stays published."""
    job = service.journal.jobs.get(job_id)
    if job.kind == "publish":
        service.journal.versions.withdraw(
            [Ref.parse(item.ref) for item in job.items if item.state is not JobState.SUCCEEDED]
        )
    return service.journal.jobs.cancel(job_id)


def retry(
    service: PlaybookService,
    job_id: str,
    *,
    wait: bool = False,
    on_progress: Progress | None = None,
) -> Job:
    """The failed, deferred and cancelled items again, now; a job that succeeded has none.

    A sync has no items: it brings back all that syncs have set aside or put off.
    """
    job = service.journal.jobs.get(job_id)
    if job.kind == SYNC:
        service.sync.retry_set_aside()
    elif job.state is JobState.SUCCEEDED:
        return job
    if job.kind == "publish":  # before its items are open: they follow what the versions want
        again = [Ref.parse(item.ref) for item in job.items if item.state is not JobState.SUCCEEDED]
        choice = job.request.get("as")
        service.publisher.request(again, Strategy.parse(choice) if choice else None)
    refs = service.journal.jobs.reopen(job_id)
    if job.total and not refs:
        return service.journal.jobs.summary(job_id)
    return _start(
        service,
        service.journal.jobs.summary(job_id),
        refs,
        wait=wait,
        on_progress=on_progress,
    )


# -- what is queued after a report or a decision, with the answer that the faces give -----------


def executed(service: PlaybookService, report: ExecutionReport) -> dict[str, Any]:
    """A version that broke, or was mended, gets its point written again at once.

    The answer is the ``Playbook`` (a version of the Escher Library has none) and the report.
    """
    record = service.journal.versions.get(report.ref)
    if report.health_changed:
        if record is not None:
            submit(service, "embed", refs=[str(report.ref)])
        else:
            library_changed(service)
    playbook = {} if record is None else record.playbook().as_json(with_files=False)
    return playbook | report.as_json()


def script_resolved(service: PlaybookService, script: ResolvedScript) -> dict[str, Any]:
    """A version of the Escher Library that came just now is indexed; the answer is the script."""
    if script.listing.key.is_library and script.source is Source.DOWNLOAD:
        library_changed(service)
    return script.as_json()


def library_changed(service: PlaybookService) -> None:
    """Have the points of library versions written that are not as they should be.

    Without `up` the next search does it, and what a dead broker does not take, the next sync.
    """
    pending = service.indexing.sources.pending_of_library()
    if not pending or not is_running(service.settings):
        return
    try:
        for batch in workflows.batched(map(str, pending), service.settings.publish_batch_size):
            workflows.dispatch(workflows.embed(batch, None), inline=False)
    except BrokerUnreachable as error:
        _log.info("library versions are indexed by the next sync: %s", error.detail)


def decided(
    service: PlaybookService, ref: Ref, decision: Decision, playbook: Playbook | None
) -> dict[str, Any]:
    """A kept version is indexed where it now stands, one to be published is published.

    The answer is the ``Playbook`` (a discarded one is none), the decision and the job.
    """
    warnings = hand_out_warnings(service, ref)
    if playbook is None:
        body: dict[str, Any] = {"playbook_id": ref.playbook_id, "version": ref.version}
        return body | {"decision": decision.value, "job_id": None, "warnings": warnings}
    job = changed(service, [ref])
    body = playbook.as_json()
    body["warnings"] = [*warnings, *body["warnings"]]
    return body | {"decision": decision.value, "job_id": job.job_id}


def hand_out_warnings(service: PlaybookService, ref: Ref) -> list[str]:
    """What a choice of the user, which waits for nobody, says of who may be running the version."""
    told = service.handed_out.warning(ref)
    return [told] if told else []


def restored(service: PlaybookService, ref: Ref) -> dict[str, Any]:
    """A version that came back from the trash is indexed; the answer names it."""
    job = changed(service, [ref])
    return {"playbook_id": ref.playbook_id, "version": ref.version, "job_id": job.job_id}


def resolved(service: PlaybookService, resolution: Resolution) -> dict[str, Any]:
    """What a settled conflict left is indexed, and published where that was wished."""
    job = changed(service, resolution.changed)
    warnings = hand_out_warnings(service, resolution.ref)
    return resolution.as_json() | {"job_id": job.job_id, "warnings": warnings}
