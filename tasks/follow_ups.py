"""What is queued after a report or a decision, and the answer that the command line and API give."""

from __future__ import annotations

from typing import Any

from core.executions import ExecutionReport
from core.models import Playbook, Ref
from core.playbooks.decisions import Decision
from core.publishing.conflicts import Resolution
from core.service import PlaybookService
from tasks import jobs


def executed(service: PlaybookService, report: ExecutionReport) -> dict[str, Any]:
    """A version that broke, or was mended, gets its point written again at once.

    The answer is the ``Playbook`` (a version of the Escher Library has none) and the report.
    """
    record = service.journal.versions.get(report.ref)
    if record is not None and report.health_changed:
        jobs.submit(service, "embed", refs=[str(report.ref)])
    playbook = {} if record is None else record.playbook().as_json(with_files=False)
    return playbook | report.as_json()


def decided(
    service: PlaybookService, ref: Ref, decision: Decision, playbook: Playbook | None
) -> dict[str, Any]:
    """A kept version is indexed where it now stands, one to be published is published.

    The answer is the ``Playbook`` (a discarded one is none), the decision and the job.
    """
    if playbook is None:
        body: dict[str, Any] = {"playbook_id": ref.playbook_id, "version": ref.version}
        return body | {"decision": decision.value, "job_id": None}
    job = jobs.changed(service, [ref])
    return playbook.as_json() | {"decision": decision.value, "job_id": job.job_id}


def resolved(service: PlaybookService, resolution: Resolution) -> dict[str, Any]:
    """What a settled conflict left is indexed, and published where that was wished."""
    job = jobs.changed(service, resolution.changed)
    return resolution.as_json() | {"job_id": job.job_id}
