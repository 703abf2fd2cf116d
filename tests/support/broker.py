"""The embedded broker as a process of the test's own, and workers that die."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import kombu

from core.settings import Settings
from escher_playbooks.cli.broker import broker_argv, find_binary, prepare_broker
from support.service import eventually
from tasks.broker import broker_reachable


@contextmanager
def running_broker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A broker that answers; it is killed at the end."""
    binary = find_binary()
    prepare_broker(settings, binary)
    process = subprocess.Popen(broker_argv(settings, binary), stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: broker_reachable(settings), 20, "the broker answers")
        yield process
    finally:
        process.kill()
        process.wait()


def send(settings: Settings, *bodies: str) -> None:
    """Messages for the queue ``embed``, each with one string as its argument."""
    with kombu.Connection(settings.effective_broker_url) as connection:
        queue = connection.SimpleQueue("embed")
        for body in bodies:
            queue.put([[[body]], {}, {}])  # as Celery: arguments, keywords, embed
        queue.close()


def take_and_die(settings: Settings, count: int) -> None:
    """Take messages as a worker does that is killed before it acknowledges them."""
    connection = kombu.Connection(settings.effective_broker_url)
    channel = connection.channel()
    queue = kombu.Queue("embed")(channel)
    for _ in range(count):
        assert queue.get(no_ack=False) is not None
    channel.qos._delivered.clear()  # else closing would give them back, which a killed one can't
    connection.close()
