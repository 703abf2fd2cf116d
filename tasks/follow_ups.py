"""What is queued after a report or a decision, and the answer that the command line and API give."""

from __future__ import annotations

import logging
from typing import Any

from core.errors import BrokerUnreachable
from core.executions import ExecutionReport
from core.models import Playbook, Ref
from core.playbooks.decisions import Decision
from core.publishing.conflicts import Resolution
from core.scripts.entries import ResolvedScript, Source
from core.service import PlaybookService
from tasks import jobs, workflows

_log = logging.getLogger(__name__)


def executed(service: PlaybookService, report: ExecutionReport) -> dict[str, Any]:
    """A version that broke, or was mended, gets its point written again at once.

    The answer is the ``Playbook`` (a version of the Escher Library has none) and the report.
    """
    record = service.journal.versions.get(report.ref)
    if report.health_changed:
        if record is not None:
            jobs.submit(service, "embed", refs=[str(report.ref)])
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
    pending = service.indexing.sources.library.pending()
    if not pending or not jobs.is_running(service.settings):
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
    job = jobs.changed(service, [ref])
    body = playbook.as_json()
    body["warnings"] = [*warnings, *body["warnings"]]
    return body | {"decision": decision.value, "job_id": job.job_id}


def hand_out_warnings(service: PlaybookService, ref: Ref) -> list[str]:
    """What a choice of the user, which waits for nobody, says of who may be running the version."""
    told = service.handed_out.warning(ref)
    return [told] if told else []


def restored(service: PlaybookService, ref: Ref) -> dict[str, Any]:
    """A version that came back from the trash is indexed; the answer names it."""
    job = jobs.changed(service, [ref])
    return {"playbook_id": ref.playbook_id, "version": ref.version, "job_id": job.job_id}


def resolved(service: PlaybookService, resolution: Resolution) -> dict[str, Any]:
    """What a settled conflict left is indexed, and published where that was wished."""
    job = jobs.changed(service, resolution.changed)
    warnings = hand_out_warnings(service, resolution.ref)
    return resolution.as_json() | {"job_id": job.job_id, "warnings": warnings}
