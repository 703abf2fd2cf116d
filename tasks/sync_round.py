"""Syncs with the workers: one at a time for a home, and what is to be done goes as messages.

Whoever asks makes a job, then tries for the claim. The one that has it answers everybody: it goes
round again while jobs were asked for during its round, and gives the claim back in the transaction
that finds none.

It also closes items of jobs whose work was done, or became impossible, without their own messages. A
command without `up` indexes in its own process, a version is deleted, a wish is withdrawn, a broker
forgets a message: the journal knows what became of the version, the job's item does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from core.errors import EscherError
from core.journal import Job, JobState, VersionRecord, leases
from core.journal.leases import SYNC
from core.models import DONE, Outcome, OutcomeState, Ref, SyncState
from core.playbooks.secrets_gate import stricter
from core.rag.indexing import PointRecord
from core.secrets import findings_json
from core.service import PlaybookService
from core.service.sync import MAX_FINDINGS, SyncPlan
from tasks import broker, jobs, workflows
from tasks.base import logger
from tasks.job_kinds import JOB_KINDS

GONE = Outcome(OutcomeState.SKIPPED, error="deleted")
INDEXING = frozenset({"embed", "reindex"})
WITHDRAWN = Outcome(OutcomeState.SKIPPED, error="withdrawn")


def close_settled(service: PlaybookService) -> None:
    """Note what the journal says of every open item; what is still to be done stays open."""
    for kind, names in service.journal.jobs.open_items().items():
        refs = [Ref.parse(name) for name in names]
        records = service.journal.versions.get_many(refs)
        points = service.indexing.sources.records(refs) if kind in INDEXING else {}
        outcomes: dict[str, Outcome] = {}
        for ref in refs:
            if kind in INDEXING:
                found = _indexed(service, points.get(ref))
            else:
                found = _outcome(kind, records.get(ref))
            if found is not None:
                outcomes[str(ref)] = found
        step = {"publish": "settle", "reindex": "embed"}.get(kind, kind)
        service.journal.jobs.note(step, outcomes)


def _indexed(service: PlaybookService, record: PointRecord | None) -> Outcome | None:
    if record is None:
        return GONE
    is_done = record.is_current or not service.indexing.sources.wants(record)
    return DONE if is_done else None


def _outcome(kind: str, record: VersionRecord | None) -> Outcome | None:
    match kind:
        case "publish":
            return _published(record)
        case "delete":
            if record is None:
                return DONE
            if record.deleting:
                return None
            return Outcome(OutcomeState.FAILED, record.error_type, record.error or "not deleted")
        case _:
            return None


def _published(record: VersionRecord | None) -> Outcome | None:
    if record is None or record.deleting:
        return GONE
    match record.sync_state:
        case SyncState.PUBLISHED:
            return DONE
        case SyncState.LOCAL:
            return WITHDRAWN
        case SyncState.FAILED | SyncState.CONFLICT:
            return Outcome(OutcomeState.FAILED, record.error_type, record.error)
        case _:
            return None


MAX_ROUNDS = 10  # of one task: those who go on asking are answered by another one
# What a dead worker had is queued again at once. A worker that has held a message for longer than
# this may be dead without a sign (or the broker was): its work is queued again, too, and whichever
# comes second finds it done or leased.
LOST_BATCH_SECONDS = 120.0
LOST_JOB_SECONDS = 3600.0
WHOLE_JOBS = frozenset(name for name, kind in JOB_KINDS.items() if kind.whole) - {SYNC}
AGAIN_AT = "sync_again_at"  # in the journal's facts: when a sync that was sent for later begins
BUSY_SECONDS = 2.0  # until what is just being worked on is looked at again

LookForMessages = Callable[[], broker.UnderWay | None]


def run(
    service: PlaybookService, job_id: str | None, look: LookForMessages
) -> dict[str, Any] | None:
    """Sync until nobody asks for another; the last report, None when another process is at it.

    ``look`` tells what is under way in the broker; None from it: there is no broker, so everything
    is done in this process.
    """
    with service.journal.leases.holding(SYNC, [()]) as held:
        if not held:
            logger.info("sync: another one runs, and answers")
            return None
        for _ in range(MAX_ROUNDS):
            messages = look()
            report = _round(service, job_id, messages)
            if service.journal.leases.give_back_unless_asked(held, SYNC):
                break
        else:
            if messages is not None:
                look_again(service, BUSY_SECONDS)
    return report


def look_again(service: PlaybookService, seconds: float) -> None:
    """Have a sync begin in ``seconds``, unless one that was sent before begins until then.

    So many who ask, each time they find the same thing unfinished, get one sync and no stampede.
    """
    facts, now = service.journal.facts, time.time()
    at = now + seconds
    if now < float(facts.get(AGAIN_AT) or 0) <= at:
        return
    workflows.dispatch(workflows.sync(None), inline=False, countdown=seconds)
    facts.set(AGAIN_AT, str(at))


def _round(
    service: PlaybookService, job_id: str | None, messages: broker.UnderWay | None
) -> dict[str, Any]:
    journal_jobs = service.journal.jobs
    asked = [job for job in journal_jobs.unfinished() if job.kind == SYNC]
    for job in asked:
        journal_jobs.start(job.job_id)
    try:
        report = _do(service, job_id, messages, asked)
    except Exception as error:
        known = isinstance(error, EscherError)
        words = str(error) if known else f"Unexpected {type(error).__name__}; the log says more."
        for job in asked:
            journal_jobs.finish(job.job_id, JobState.FAILED, error=words)
        raise
    state = JobState.PARTIAL if report["partial"] else JobState.SUCCEEDED
    for job in asked:  # this round began after they were asked for, so it is theirs too
        journal_jobs.finish(job.job_id, state, result=report)
    return report


def _do(
    service: PlaybookService,
    job_id: str | None,
    messages: broker.UnderWay | None,
    asked: Sequence[Job],
) -> dict[str, Any]:
    inline = messages is None
    dead = _held_by_the_dead(service)
    in_hand = set(_names(service.journal.leases.held_by_the_living())) if dead else None
    names = _under_way(messages, LOST_BATCH_SECONDS, in_hand)
    accepts = any(job.request.get("accept_deletions") for job in asked)
    plan = service.sync.run(set(_refs(names)), accept_deletions=accepts)
    gate = stricter(*(job.request.get("secrets_gate") for job in asked))
    service.publisher.tighten(plan.publish, gate)
    if plan.edits.findings:  # to be read by those who wait, before anything is uploaded
        early = {"findings": findings_json(plan.edits.findings)[:MAX_FINDINGS]}
        service.journal.jobs.note_result([job.job_id for job in asked], early)
    _queue(service, plan, job_id, inline=inline)
    if messages is not None:
        known = _under_way(messages, LOST_JOB_SECONDS, in_hand)
        for job in service.journal.jobs.unfinished():
            if job.kind in WHOLE_JOBS and not job.total and job.job_id not in known:
                jobs.dispatch(service, job, [], inline=False)
    if not inline:
        if plan.scan.quiet_in is not None:  # an edit was too young to be taken
            look_again(service, plan.scan.quiet_in + 0.2)
        elif plan.pull.deferred:
            look_again(service, BUSY_SECONDS)
    _resume_downloads(service, names, inline=inline)
    if not plan.is_shut:  # and not before: what is not queued yet, the next sync is to find
        service.journal.leases.end_those_of(dead)
    close_settled(service)
    return service.finish_sync(plan)


def _held_by_the_dead(service: PlaybookService) -> list[str]:
    """The dead owners of leases; what they held goes to the log."""
    dead = service.journal.leases.held_by_the_dead()
    for owner, items in dead.items():
        names = ", ".join(_names(items)) or "nothing"
        logger.warning("process %s died with this in hand: %s", owner, names)
    return list(dead)


def _names(held: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The refs and job ids among what is held, as messages name them."""
    for kind, *item in held:
        match kind:
            case leases.VERSION | leases.DOWNLOAD:
                yield str(Ref(item[0], item[1]))
            case leases.JOB:
                yield item[0]


def _under_way(
    messages: broker.UnderWay | None, lost_seconds: float, in_hand: set[str] | None
) -> set[str]:
    """What a message stands for that waits, or that somebody alive has taken.

    A message does not say who took it. ``in_hand``: somebody died, and this is what the living are
    at; the rest may have been the dead one's, and whichever comes second finds it done or leased.
    """
    if messages is None:
        return set()
    names = messages.since(time.time() - lost_seconds)
    return names if in_hand is None else names & (messages.waiting | in_hand)


def _queue(service: PlaybookService, plan: SyncPlan, job_id: str | None, *, inline: bool) -> None:
    for make, refs in (
        (workflows.publish, plan.publish),
        (workflows.embed, plan.embed),
        (workflows.delete, plan.delete),
        (workflows.unindex, plan.unindex),
    ):
        for batch in workflows.batched(map(str, refs), service.settings.publish_batch_size):
            workflows.dispatch(make(batch, job_id), inline=inline)


def _resume_downloads(service: PlaybookService, names: set[str], *, inline: bool) -> None:
    """Downloads that a job wants and no message stands for: lost, or deferred and due."""
    for job in _downloads(service):
        due = service.journal.jobs.due_items(job.job_id, time.time())
        lost = [ref for ref in due if ref not in names]
        if lost:
            jobs.dispatch(service, job, lost, inline=inline)


def _downloads(service: PlaybookService) -> list[Job]:
    return [job for job in service.journal.jobs.unfinished() if job.kind == "download"]


def _refs(names: Iterable[str]) -> Iterator[Ref]:
    for name in names:
        try:
            yield Ref.parse(name)
        except EscherError:
            continue  # a job id or a path, not a ref
