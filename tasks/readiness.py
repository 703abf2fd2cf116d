"""Tells the supervisor that a worker consumes: a file that is there from ready to shutdown.

Workers of `up` load this with ``-I tasks.readiness``; without ``ESCHER_READY_FILE`` it does nothing.
A file costs a ``stat`` to look at, where a remote-control ping costs a second and a broker.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

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
