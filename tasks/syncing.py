"""The sync that beat issues: compares what is with what should be, and queues the difference."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready

from core.settings import load_settings
from tasks import broker, workflows
from tasks.app import app
from tasks.base import ServiceTask, logger

QUEUES = ("transfer", "embed", "control")
LOGGED = ("scanned", "unchanged", "pulled", "updated", "failed", "offline", "queued", "duration_ms")


@app.task(bind=True, base=ServiceTask, name="playbooks.sync")
def sync(self: ServiceTask, job_id: str | None = None) -> dict[str, Any]:
    """Find what crashed, was lost with the broker, was deferred or never queued, and queue it."""
    from tasks import sync_round

    service = self.service
    inline = bool(self.request.is_eager)

    def look() -> broker.UnderWay | None:
        return None if inline else broker.under_way(service.settings, QUEUES)

    report = sync_round.run(service, job_id, look)
    if report is None and not inline:
        # what is asked for here may have come too late for the one that runs, and be no job: an
        # edit on disk; or that one may be a program's, which answers nobody
        sync_round.look_again(service, sync_round.BUSY_SECONDS)
    elif report is not None:
        logger.info("sync: %s", {name: report[name] for name in LOGGED})
    return {"ran": report is not None}


@worker_ready.connect
def sync_at_start(sender: Any = None, **_: Any) -> None:
    """A worker that starts may follow one that died: look at once, not at the next tick."""
    queues = sender.app.amqp.queues.consume_from
    if "control" in queues and load_settings().sync_enabled:
        workflows.dispatch(sync.si(), inline=False)
