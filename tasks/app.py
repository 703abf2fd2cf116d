"""The Celery app. Importing it loads no model library; workers load what they need, when needed."""

from __future__ import annotations

import sys
from pathlib import Path

from celery import Celery
from celery.signals import after_setup_logger

from core.terminal import guard_process

app = Celery(
    "tasks",
    include=[
        "tasks.embedding",
        "tasks.publishing",
        "tasks.downloading",
        "tasks.eviction",
        "tasks.syncing",
        "tasks.submitting",
        "tasks.watching",
        "tasks.lanes",
    ],
)
app.config_from_object("celeryconfig")


def _guard(**_: object) -> None:
    guard_process()


after_setup_logger.connect(_guard)  # worker and beat, however they were started
if Path(sys.argv[0]).parent.name == "celery" or Path(sys.argv[0]).name == "celery":
    guard_process()  # `celery -A tasks …`: Flower sets up no logging of Celery's
