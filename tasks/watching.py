"""A sync soon after an edit on disk, while `up` runs: a thread beside the worker of `control`."""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from core.errors import BrokerUnreachable
from core.settings import load_settings
from tasks import workflows
from tasks.base import logger

_stop = threading.Event()


@worker_ready.connect
def watch_folders(sender: Any = None, **_: Any) -> None:
    """Watch where the syncs are done: with several such workers each asks, and one sync answers."""
    settings = load_settings()
    if "control" not in sender.app.amqp.queues.consume_from or not settings.sync_enabled:
        return
    from core.playbooks.watching import watch

    thread = threading.Thread(
        target=watch, args=(settings, _sync, _stop), name="escher-watch", daemon=True
    )
    thread.start()


@worker_shutting_down.connect
def _end(**_: Any) -> None:
    _stop.set()


def _sync() -> None:
    try:
        workflows.dispatch(workflows.sync(None), inline=False)
    except BrokerUnreachable as error:
        logger.warning("an edit waits for the next sync: %s", error)
    except Exception:  # noqa: BLE001 — a mistake of ours must not end the watch for good
        logger.exception("an edit waits for the next sync")
