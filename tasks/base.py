"""What every task shares: the process' one service, retries of named errors, ids in the log."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Task
from celery.signals import worker_ready, worker_shutdown
from celery.utils.log import get_task_logger

from core.backoff import Backoff
from core.errors import EscherError, PermanentError, TransientError
from core.journal import JobState
from core.journal.leases import JOB, WORKER, Held
from core.models import Outcome, OutcomeState, Ref
from core.processes import this_process
from core.service import PlaybookService
from core.settings import load_settings

logger = get_task_logger("escher.tasks")

RETRY = Backoff(1.0, 60.0)
MAX_RETRIES = 5

_lock = threading.Lock()
_service: tuple[int, PlaybookService] | None = None
_life: Held[tuple[str]] | None = None


def service() -> PlaybookService:
    """The process' service, opened at its first task; a forked child opens its own."""
    global _service  # noqa: PLW0603  one service a process is the point
    with _lock:
        if _service is None or _service[0] != os.getpid():
            _service = (os.getpid(), PlaybookService.open(load_settings()))
        return _service[1]


@worker_ready.connect
def show_life(**_: Any) -> None:
    """Hold a lease while this worker lives: its death is seen, whatever it was just doing."""
    global _life  # noqa: PLW0603  one sign a process
    try:
        _life = service().journal.leases.take(WORKER, [(this_process().id,)])
    except EscherError as error:  # its work is then found later, as lost
        logger.warning("this worker shows no sign of life: %s", error)


def end_life() -> None:
    """Give the sign back: this worker ends in good order."""
    global _life  # noqa: PLW0603  as above
    if _life is not None:
        service().journal.leases.give_back(_life)
        _life = None


@worker_shutdown.connect
def close_service(**_: Any) -> None:
    """Let go of the collection in good order: the next start need not check every point."""
    global _service  # noqa: PLW0603  as above
    end_life()
    with _lock:
        if _service is not None and _service[0] == os.getpid():
            _service[1].close()
        _service = None


def use_service(opened: PlaybookService) -> None:
    """Let tasks that run inside this process (``--wait`` without `up`) share its service."""
    global _service  # noqa: PLW0603  as above
    with _lock:
        _service = (os.getpid(), opened)


class ServiceTask(Task):
    """A thin task: refs in, one call into core, outcomes out.

    A transient error of the whole task is tried again ``MAX_RETRIES`` times, put off by `RETRY`;
    after that the next sync finds the work.
    A failed item is no failed task: its outcome says so, and the journal keeps it.
    """

    abstract = True
    autoretry_for = (TransientError,)
    max_retries = MAX_RETRIES
    default_retry_delay = 5

    def retry(self, *args: Any, **options: Any) -> Any:
        """As Celery's; a failure of ours waits by the one rule and heeds ``Retry-After``."""
        error = options.get("exc")
        if isinstance(error, TransientError) and options.get("countdown") is None:
            options["countdown"] = RETRY.seconds(self.request.retries, error.retry_after)
        return super().retry(*args, **options)

    @property
    def service(self) -> PlaybookService:
        return service()


@contextmanager
def whole_job(opened: PlaybookService, job_id: str) -> Iterator[None]:
    """Around the task that is a whole job: what will not be tried again closes the job."""
    jobs = opened.journal.jobs
    jobs.start(job_id)
    try:
        with opened.journal.leases.holding(JOB, [(job_id,)]):  # should we be killed, a sync sees it
            yield
    except TransientError:
        raise  # tried again by the task, and after that by the sync
    except Exception as error:
        known = isinstance(error, EscherError)
        words = str(error) if known else f"Unexpected {type(error).__name__}; the log says more."
        jobs.finish(job_id, JobState.FAILED, error=words)
        raise


def still_waiting(outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refs that this step left, as another worker had them in hand or an earlier step had not."""
    return [ref for ref, outcome in outcomes.items() if outcome["state"] == OutcomeState.WAITING]


Step = Callable[[Sequence[Ref]], Mapping[Ref, Outcome]]


def run_step(
    opened: PlaybookService,
    step: str,
    refs: Sequence[str],
    job_id: str | None,
    work: Step,
    *,
    own_job_only: bool = False,
) -> dict[str, Any]:
    """Do one step of a job for a batch and note what came of it; ``{ref: outcome}``.

    ``own_job_only``: the step says nothing to other jobs on the same refs (they want another format).
    """
    only = job_id if own_job_only else None
    jobs = opened.journal.jobs
    if jobs.is_cancelled(job_id):
        logger.info("job %s is cancelled: %s of %d left undone", job_id, step, len(refs))
        return {ref: Outcome(OutcomeState.SKIPPED).as_json() for ref in refs}
    try:
        found = work([Ref.parse(ref) for ref in refs])
    except PermanentError as error:  # of them all: no model, no key, no disk
        failed = Outcome(OutcomeState.FAILED, error.type, str(error))
        jobs.note(step, dict.fromkeys(refs, failed), only)
        raise
    outcomes = {str(ref): outcome for ref, outcome in found.items()}
    jobs.note(step, outcomes, only)
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    logger.info(
        "job %s %s: %s", job_id, step, ", ".join(f"{n} {state}" for state, n in counts.items())
    )
    return {ref: outcome.as_json() for ref, outcome in outcomes.items()}
