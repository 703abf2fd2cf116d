from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tasks.lanes import BATCH_QUEUE, MAX_BATCHES, BatchLane


class Consumer:
    """The parts of Celery's consumer that the lane speaks to; calls run when the loop does."""

    def __init__(self) -> None:
        self.queues = {BATCH_QUEUE, "search"}
        self.consumed = 0
        self.calls: list[Callable[[], None]] = []
        self.task_consumer = self
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues={BATCH_QUEUE: BATCH_QUEUE}))

    # as the task consumer
    def cancel_by_queue(self, queue: str) -> None:
        self.queues.remove(queue)

    def consuming_from(self, queue: str) -> bool:
        return queue in self.queues

    def add_queue(self, queue: str) -> None:
        self.queues.add(queue)

    def consume(self) -> None:
        self.consumed += 1

    # as the consumer
    def call_soon(self, call: Callable[..., None], *arguments: object) -> None:
        self.calls.append(lambda: call(*arguments))

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def lane() -> BatchLane:
    return BatchLane()


@pytest.fixture
def full(lane: BatchLane) -> Consumer:
    """A consumer with as many batches in hand as it takes: task-0, task-1, …"""
    consumer = Consumer()
    for number in range(MAX_BATCHES):
        assert BATCH_QUEUE in consumer.queues
        lane.received(consumer, f"task-{number}")
    return consumer


def test_at_the_limit_only_searches_are_taken(full: Consumer) -> None:
    assert full.queues == {"search"}


def test_when_a_batch_ends_the_next_is_fetched_from_the_consumers_own_thread(
    lane: BatchLane, full: Consumer
) -> None:
    lane.ended("task-0")
    assert full.queues == {"search"}, "another thread may not touch the connection"
    full.turn()
    assert full.queues == {BATCH_QUEUE, "search"}
    assert full.consumed == 1


def test_what_was_fetched_before_the_pause_took_hold_does_no_harm(
    lane: BatchLane, full: Consumer
) -> None:
    lane.received(full, "one too many")
    lane.ended("task-0")
    full.turn()
    assert full.queues == {"search"}, "still at the limit"
    lane.ended("task-1")
    full.turn()
    assert full.queues == {BATCH_QUEUE, "search"}


def test_a_message_delivered_twice_counts_once(lane: BatchLane) -> None:
    consumer = Consumer()
    for _ in range(MAX_BATCHES):
        lane.received(consumer, "the same")
    assert BATCH_QUEUE in consumer.queues


def test_the_end_of_other_tasks_resumes_nothing(lane: BatchLane, full: Consumer) -> None:
    for task_id in ("a search", None, ""):
        lane.ended(task_id)
    full.turn()
    assert full.queues == {"search"}


def test_it_pauses_again_and_again(lane: BatchLane, full: Consumer) -> None:
    for number in range(3):
        lane.ended(f"task-{number}")
        full.turn()
        assert BATCH_QUEUE in full.queues
        lane.received(full, f"task-{number + MAX_BATCHES}")
        assert BATCH_QUEUE not in full.queues


@pytest.mark.parametrize("connection", ["none", "new"])
def test_a_connection_that_was_lost_meanwhile(
    lane: BatchLane, full: Consumer, connection: str
) -> None:
    lane.ended("task-0")
    if connection == "none":
        full.task_consumer = None  # type: ignore[assignment]
    else:
        full.queues.add(BATCH_QUEUE)  # made anew, with every queue
    full.turn()
    assert full.consumed == 0


def test_a_worker_that_shuts_down_takes_nothing_new(lane: BatchLane, full: Consumer) -> None:
    lane.stop()
    for number in range(MAX_BATCHES):
        lane.ended(f"task-{number}")
    full.turn()
    assert full.queues == {"search"}


def test_the_end_of_what_never_began(lane: BatchLane) -> None:
    lane.ended("never received")
