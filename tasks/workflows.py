"""Every chain in the project. A workflow is a function that returns a signature.

Chains pass refs only, and immutable signatures: each step reads from the journal what is still to
be done, so a step may run twice, late, or without the one before it having brought every ref on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from celery import Signature, chain
from celery.exceptions import Retry
from kombu.exceptions import OperationalError

from core.backoff import Backoff
from core.errors import BrokerUnreachable
from tasks.app import app

MAX_AGAIN = 5
AGAIN = Backoff(1.0, 20.0)


def _task(name: str, *arguments: Any) -> Signature:
    return app.signature(name, args=arguments, immutable=True)


def publish(refs: Sequence[str], job_id: str | None, again: int = 0) -> Signature:
    """Flow 2, for a batch::

        embed ──► upload ──► publish ──► settle
        [embed]   [transfer] [transfer]  [transfer]

    embed extracts the metadata and makes the vector; upload brings the files that the server
    lacks; publish is the commit point; settle moves ``local/`` → ``synced/`` and queues `embed`
    once more, which now writes only the payload.
    """
    names = ("playbooks.embed", "playbooks.upload", "playbooks.publish")
    steps = [_task(name, list(refs), job_id) for name in names]
    return chain(*steps, _task("playbooks.settle", list(refs), job_id, again))


def embed(refs: Sequence[str], job_id: str | None) -> Signature:
    """``embed`` alone, for a batch."""
    return _task("playbooks.embed", list(refs), job_id)


def unindex(refs: Sequence[str], job_id: str | None) -> Signature:
    """``unindex`` alone, for a batch."""
    return _task("playbooks.unindex", list(refs), job_id)


def delete(refs: Sequence[str], job_id: str | None) -> Signature:
    """``delete`` (which queues ``unindex`` behind it)."""
    return _task("playbooks.delete", list(refs), job_id)


def download(
    refs: Sequence[str], job_id: str | None, format_: str | None, again: int = 0
) -> Signature:
    """Flow 3, for a batch::

        download ──► verify ──► evict
        [transfer]   [transfer] [control]

    download brings the bytes into staging, room for them made before; verify hashes them again and
    alone promotes them into the cache; evict lets go of what is too old by now.
    """
    return chain(
        _task("playbooks.download", list(refs), job_id, format_),
        _task("playbooks.verify", list(refs), job_id, format_, again),
        _task("playbooks.evict", list(refs)),
    )


def evict(job_id: str) -> Signature:
    """``evict`` alone: the job kind ``evict``."""
    return _task("playbooks.evict", None, job_id)


def reindex(job_id: str) -> Signature:
    """``reindex`` ──► one ``embed`` a batch."""
    return _task("playbooks.reindex", job_id)


def audit(job_id: str) -> Signature:
    """``audit`` alone: the job kind ``verify``."""
    return _task("playbooks.audit", job_id)


def sync(job_id: str | None) -> Signature:
    """``sync`` ──► the workflows of whatever is still to be done."""
    return _task("playbooks.sync", job_id)


def import_path(
    path: str, job_id: str, strategy: str | None, source: str | None = None
) -> Signature:
    """``import`` ──► `embed` or `publish` for what came in."""
    more = [] if source is None else [source]  # which workers of before do not know
    return _task("playbooks.import", path, job_id, strategy, *more)


def go_again(
    make: Callable[[Sequence[str], str | None, int], Signature],
    refs: Sequence[str],
    job_id: str | None,
    *,
    again: int,
) -> None:
    """Send the workflow once more for what another worker had in hand; later each time.

    After `MAX_AGAIN` times it is left to the next sync.
    """
    if not refs or again >= MAX_AGAIN:
        return
    dispatch(make(refs, job_id, again + 1), inline=False, countdown=0.5 + AGAIN.seconds(again))


def dispatch(signature: Signature, *, inline: bool, countdown: float | None = None) -> None:
    """Send a workflow to the workers, or run it in this process (``--wait`` without `up`).

    ``countdown``: seconds until a worker may begin.
    """
    if inline:
        app.loader.import_default_modules()  # a worker has done so; this process may not have
        try:
            signature.apply(throw=True)
        except Retry as retry:  # eager tasks try again at once; this is the last one's reason
            raise retry.exc or retry from retry
        return
    try:
        # without ignore_result, a broker that is gone is first looked for as the result store,
        # for some 20 s; what came of the work stands in the journal
        signature.apply_async(
            ignore_result=True,
            countdown=countdown,
            retry=True,
            retry_policy={"max_retries": 2, "interval_start": 0.2},
        )
    except OperationalError as error:
        raise BrokerUnreachable(
            f"The broker does not answer ({type(error).__name__}).",
            "The work is journalled; the next sync queues it. `escher-playbooks status` says more.",
        ) from error


def batched(refs: Iterable[str], size: int) -> Iterator[list[str]]:
    """Refs in lists of at most ``size``."""
    batch: list[str] = []
    for ref in refs:
        batch.append(ref)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
