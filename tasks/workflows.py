"""Every chain in the project. A workflow is a function that returns a signature.

Chains pass refs only, and immutable signatures: each step reads from the journal what is still to
be done, so a step may run twice, late, or without the one before it having brought every ref on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from celery import Signature, chain
from celery.exceptions import Retry
from kombu.exceptions import OperationalError

from core.errors import BrokerUnreachable
from tasks.app import app


def _task(name: str, *arguments: Any) -> Signature:
    return app.signature(name, args=arguments, immutable=True)


def publish(refs: Sequence[str], job_id: str | None) -> Signature:
    """Flow 2, for a batch::

        embed ──► upload ──► publish ──► settle
        [embed]   [transfer] [transfer]  [transfer]

    embed extracts the metadata and makes the vector; upload brings the files that the server
    lacks; publish is the commit point; settle moves ``local/`` → ``synced/`` and queues `embed`
    once more, which now writes only the payload.
    """
    names = ("playbooks.embed", "playbooks.upload", "playbooks.publish", "playbooks.settle")
    return chain(*(_task(name, list(refs), job_id) for name in names))


def embed(refs: Sequence[str], job_id: str | None) -> Signature:
    """``embed`` alone, for a batch."""
    return _task("playbooks.embed", list(refs), job_id)


def unindex(refs: Sequence[str], job_id: str | None) -> Signature:
    """``unindex`` alone, for a batch."""
    return _task("playbooks.unindex", list(refs), job_id)


def delete(refs: Sequence[str], job_id: str | None) -> Signature:
    """``delete`` (which queues ``unindex`` behind it)."""
    return _task("playbooks.delete", list(refs), job_id)


def reindex(job_id: str) -> Signature:
    """``reindex`` ──► one ``embed`` a batch."""
    return _task("playbooks.reindex", job_id)


def audit(job_id: str) -> Signature:
    """``audit`` alone: the job kind ``verify``."""
    return _task("playbooks.audit", job_id)


def sync(job_id: str | None) -> Signature:
    """``sync`` ──► the workflows of whatever is still to be done."""
    return _task("playbooks.sync", job_id)


def import_path(path: str, job_id: str, strategy: str | None) -> Signature:
    """``import`` ──► `embed` or `publish` for what came in."""
    return _task("playbooks.import", path, job_id, strategy)


def dispatch(signature: Signature, *, inline: bool) -> None:
    """Send a workflow to the workers, or run it in this process (``--wait`` without `up`)."""
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
            ignore_result=True, retry=True, retry_policy={"max_retries": 2, "interval_start": 0.2}
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
