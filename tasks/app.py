"""The Celery app. Importing it loads no model library; workers load what they need, when needed."""

from __future__ import annotations

from celery import Celery

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
