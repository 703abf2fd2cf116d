"""Keeps a free thread for searches in the worker that also embeds.

A worker's threads are shared by its queues, so a backlog of batches would take all of them and a
search would wait behind. While `MAX_BATCHES` batches are in hand, the worker stops consuming their
queue; the next batch is fetched when one ends. `-c` above `MAX_BATCHES` leaves the rest to search.
"""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import task_postrun, task_received, task_revoked, worker_shutting_down

from tasks.base import logger

BATCH_QUEUE = "embed"
BATCH_TASKS = frozenset({
    "playbooks.embed", "playbooks.unindex", "playbooks.reindex", "playbooks.audit",
})  # fmt: skip
# One works while the next is at hand: a worker looks at its queues again within a second.
MAX_BATCHES = 2


class BatchLane:
    """Counts the batches in hand of this process' worker and pauses their queue at the limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_hand: set[str] = set()
        self._consumer: Any = None
        self._paused = False
        self._stopping = False

    def received(self, consumer: Any, task_id: str) -> None:
        """In the consumer's own thread, before it looks at its queues again."""
        with self._lock:
            self._in_hand.add(task_id)
            self._consumer = consumer
            pause = len(self._in_hand) >= MAX_BATCHES and not self._paused
            self._paused = self._paused or pause
        if pause:
            consumer.task_consumer.cancel_by_queue(BATCH_QUEUE)

    def ended(self, task_id: str | None) -> None:
        """In any thread."""
        with self._lock:
            self._in_hand.discard(task_id or "")
            resume = self._paused and not self._stopping and len(self._in_hand) < MAX_BATCHES
            if resume:
                self._paused = False
            consumer = self._consumer
        if resume and consumer is not None:
            consumer.call_soon(self._consume, consumer)

    def stop(self) -> None:
        """A worker that shuts down takes nothing new."""
        with self._lock:
            self._stopping = True

    @staticmethod
    def _consume(consumer: Any) -> None:
        task_consumer = consumer.task_consumer
        if task_consumer is None or task_consumer.consuming_from(BATCH_QUEUE):
            return  # the connection was lost and made anew, with every queue
        task_consumer.add_queue(consumer.app.amqp.queues[BATCH_QUEUE])
        task_consumer.consume()
        logger.debug("consuming %s again", BATCH_QUEUE)


lane = BatchLane()


@task_received.connect
def _received(sender: Any = None, request: Any = None, **_: Any) -> None:
    if request is not None and request.name in BATCH_TASKS:
        lane.received(sender, request.id)


@task_postrun.connect
def _ended(task_id: str | None = None, **_: Any) -> None:
    lane.ended(task_id)


@task_revoked.connect
def _revoked(request: Any = None, **_: Any) -> None:
    lane.ended(getattr(request, "id", None))


@worker_shutting_down.connect
def _stopping(**_: Any) -> None:
    lane.stop()
