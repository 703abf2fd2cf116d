"""What a worker of `up` does beside its tasks; loaded with ``-I tasks.worker_signals``.

It tells the supervisor that it consumes: ``ESCHER_READY_FILE``, where it is set, is there from ready to
shutdown. A file costs a ``stat`` to look at, where a remote-control ping costs a second and a broker.

A worker of `control` has two threads that ask for a sync: soon after an edit on disk, and soon after
a process died with work in its hands.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from core.errors import BrokerUnreachable, EscherError
from core.journal.leases import BEAT_SECONDS
from core.service import PlaybookService
from core.settings import load_settings
from tasks import workflows
from tasks.base import logger, service

READY_FILE_VARIABLE = "ESCHER_READY_FILE"


@worker_ready.connect
def _announce(**_signal: Any) -> None:
    path = _ready_file()
    if path is not None:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")


@worker_shutting_down.connect
def _withdraw(**_signal: Any) -> None:
    path = _ready_file()
    if path is not None:
        path.unlink(missing_ok=True)


def _ready_file() -> Path | None:
    name = os.environ.get(READY_FILE_VARIABLE)
    return Path(name) if name else None


ASK_AGAIN_LOOKS = 10  # the sync that was asked for may have failed, or died as well

_stop = threading.Event()


@worker_ready.connect
def watch_folders(sender: Any = None, **_: Any) -> None:
    """Watch where the syncs are done: with several such workers each asks, and one sync answers."""
    settings = load_settings()
    if "control" not in sender.app.amqp.queues.consume_from or not settings.sync_enabled:
        return
    from core.playbooks.watch import watch

    thread = threading.Thread(
        target=watch, args=(settings, _sync, _stop), name="escher-watch", daemon=True
    )
    thread.start()
    threading.Thread(
        target=look_after_the_dead,
        args=(service, _sync, _stop),
        name="escher-survivor",
        daemon=True,
    ).start()


def look_after_the_dead(
    opened: Callable[[], PlaybookService],
    sync: Callable[[], object],
    stop: threading.Event,
    seconds: float = BEAT_SECONDS,
) -> None:
    """Ask for a sync when a dead process holds something, and again while it does; until ``stop``.

    The broker brings a killed worker's message back after an hour; the sync queues what it held.
    """
    looks = 0  # in a row that found something
    while not stop.wait(seconds):
        try:
            looks = looks + 1 if opened().journal.leases.has_dead_owners() else 0
            if looks % ASK_AGAIN_LOOKS == 1:
                logger.warning("a process died with work in its hands")
                sync()
        except EscherError as error:  # the journal may be away for a while
            logger.warning("nobody looks after the dead just now: %s", error)
        except Exception:  # noqa: BLE001 — a mistake of ours must not end the look-out for good
            logger.exception("nobody looks after the dead just now")


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
