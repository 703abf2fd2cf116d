"""The kinds of jobs in one table: what each is about, and the workflow that does it.

::

    kind       about                              workflow, a batch            or whole
    publish    versions that may be published     embed►upload►publish►settle
    embed      versions                           embed
    delete     published versions, marked first   delete►unindex
    download   versions with scripts to fetch     download►verify►evict
    sync, evict, reindex, verify, import                                       one task
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from celery import Signature

from core.errors import NotFound, Refused, UsageError
from core.journal import Job
from core.models import Strategy
from core.playbooks.runbooks import TOOLS
from core.publishing.publisher import OnFindings
from core.service import PlaybookService
from tasks import workflows


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What somebody asks of a job; ``gate`` and ``on_findings`` as in `tasks.jobs.submit`."""

    refs: Sequence[str] = ()
    all_: bool = False
    as_: str | None = None
    path: str | None = None
    format_: str | None = None
    from_: str | None = None  # whose runbooks an import takes
    gate: str | None = None
    on_findings: OnFindings | None = None

    @property
    def strategy(self) -> Strategy | None:
        """``as`` read; `UsageError` when it is none."""
        return Strategy.parse(self.as_) if self.as_ else None

    @property
    def chosen(self) -> list[str] | None:
        """The names that were given, None for all."""
        return None if self.all_ else list(self.refs)


@dataclass(frozen=True, slots=True)
class JobKind:
    """``targets`` checks a request and names the versions that the job is about.

    ``batch`` is the workflow of some of them, ``whole`` that of a job which is about none by name.
    """

    targets: Callable[[PlaybookService, JobRequest], list[str]] = lambda _service, _asked: []
    batch: Callable[[list[str], Job], Signature] | None = None
    whole: Callable[[Job], Signature] | None = None

    @property
    def needs_refs(self) -> bool:
        """Whether somebody has to say for which versions, be it all of them."""
        return self.batch is not None


def _to_publish(service: PlaybookService, asked: JobRequest) -> list[str]:
    plan = service.request_publish(
        asked.chosen, asked.strategy, gate=asked.gate, on_findings=asked.on_findings
    )
    if plan.left_out and not plan.accepted and not asked.all_:
        raise Refused(
            "; ".join(f"{ref}: {why}" for ref, why in plan.left_out.items()),
            "Mend what each reason names, or leave it private.",
        )
    return [str(ref) for ref in plan.accepted]


def _to_embed(service: PlaybookService, asked: JobRequest) -> list[str]:
    if asked.all_:
        return [str(ref) for ref in service.indexing.sources.refs()]
    return [str(ref) for ref in service.catalog.expand(asked.refs)]


def _to_delete(service: PlaybookService, asked: JobRequest) -> list[str]:
    return [str(ref) for ref in service.request_delete(service.catalog.expand(asked.refs))]


def _to_download(service: PlaybookService, asked: JobRequest) -> list[str]:
    return [str(ref) for ref in service.scripts.wanted(asked.chosen, asked.format_)]


def _check_import(_service: PlaybookService, asked: JobRequest) -> list[str]:
    if not asked.path:
        raise UsageError("An import job needs path.", "Give a folder or an archive.")
    if asked.from_ is not None and asked.from_ not in TOOLS:
        raise UsageError(f"Runbooks of {asked.from_!r} are not known.", f"Use {', '.join(TOOLS)}.")
    if asked.strategy is Strategy.TRUSTED:
        raise UsageError("An import can only go to review.", "Use `as: review`.")
    if not Path(asked.path).exists():
        raise NotFound(f"{asked.path} is not there.", "Give a path on the service's machine.")
    return []


JOB_KINDS = {
    "publish": JobKind(_to_publish, lambda refs, job: workflows.publish(refs, job.job_id)),
    "embed": JobKind(_to_embed, lambda refs, job: workflows.embed(refs, job.job_id)),
    "delete": JobKind(_to_delete, lambda refs, job: workflows.delete(refs, job.job_id)),
    "download": JobKind(
        _to_download,
        lambda refs, job: workflows.download(refs, job.job_id, job.request.get("format")),
    ),
    "sync": JobKind(whole=lambda job: workflows.sync(job.job_id)),
    "evict": JobKind(whole=lambda job: workflows.evict(job.job_id)),
    "reindex": JobKind(whole=lambda job: workflows.reindex(job.job_id)),
    "verify": JobKind(whole=lambda job: workflows.audit(job.job_id)),
    "import": JobKind(
        _check_import,
        whole=lambda job: workflows.import_path(
            str(job.request["path"]),
            job.job_id,
            job.request.get("as"),
            job.request.get("from"),
        ),
    ),
}


def kind_of(name: str) -> JobKind:
    """The kind of that name; `UsageError` names those that there are."""
    try:
        return JOB_KINDS[name]
    except KeyError:
        raise UsageError(
            f"Job kind {name!r} is unknown.", f"Use one of {', '.join(JOB_KINDS)}."
        ) from None


def signatures(job: Job, targets: Sequence[str], batch_size: int) -> list[Signature]:
    """The workflows of a job: one for each ``batch_size`` targets, or the whole one."""
    kind = kind_of(job.kind)
    if kind.batch is not None:
        return [kind.batch(batch, job) for batch in workflows.batched(targets, batch_size)]
    assert kind.whole is not None
    return [kind.whole(job)]
