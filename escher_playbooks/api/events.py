"""A job's course as Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from core.errors import NotFound
from core.journal import Job
from escher_playbooks.api.schemas import event_data

POLL_SECONDS = 0.25


async def job_events(
    look: Callable[[], Job], *, poll_seconds: float = POLL_SECONDS
) -> AsyncIterator[ServerSentEvent]:
    """``progress`` with the job (without items) whenever it changed, then ``done``.

    ``look`` reads the journal and runs in a thread. The stream lives as long as the job or the
    listener does, whichever ends first.
    """
    last: str | None = None
    while True:
        try:
            job = await run_in_threadpool(look)
        except NotFound:
            return  # removed meanwhile
        data = event_data(job.as_json(with_items=False))
        if job.is_finished:
            yield ServerSentEvent(data, event="done")
            return
        if data != last:
            yield ServerSentEvent(data, event="progress")
            last = data
        await anyio.sleep(poll_seconds)
