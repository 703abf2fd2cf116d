"""What `up` and the submitters ask the broker itself, below Celery's tasks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from core.errors import BrokerUnreachable
from core.settings import Settings
from tasks.app import app

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5


def broker_reachable(settings: Settings) -> bool:
    """Whether the broker answers a PING; False within a few seconds when it does not."""
    if settings.embeds_broker and not settings.broker_socket.is_socket():
        return False  # the common case without `up`
    try:
        with _channel(settings) as channel:
            return bool(channel.client.ping())
    except BrokerUnreachable:
        return False


def restore_unacked(settings: Settings) -> int:
    """Put back at once what dead workers had taken and not acknowledged; how many messages.

    For when no worker is alive: otherwise the messages of a living one are delivered twice
    (harmless, and wasteful). Raises `BrokerUnreachable`.
    """
    with _channel(settings, visibility_timeout=0) as channel:
        before = int(channel.client.hlen(channel.unacked_key))
        # A worker killed while it restored leaves its mutex behind for minutes.
        channel.client.delete(channel.unacked_mutex_key)
        channel.qos.restore_visible(num=-1)  # -1: all of them, not a page
        return before - int(channel.client.hlen(channel.unacked_key))


def outstanding(settings: Settings, queues: Sequence[str]) -> int:
    """Messages that wait in ``queues`` (all priorities), and those of them taken but not yet done.

    Raises `BrokerUnreachable`.
    """
    with _channel(settings) as channel:
        taken = [json.loads(entry) for entry in channel.client.hvals(channel.unacked_key)]
        # kombu keeps [message, exchange, routing key]; the routing key is the queue's name here
        return sum(entry[2] in queues for entry in taken) + sum(
            _waiting(channel, queue) for queue in queues
        )


def _waiting(channel: Any, queue: str) -> int:
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except channel.connection.client.channel_errors:
        return 0  # nothing was ever sent to it


@contextlib.contextmanager
def _channel(settings: Settings, **options: Any) -> Iterator[Any]:
    connection = app.connection_for_write(
        settings.effective_broker_url,
        transport_options={
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            **options,
        },
    )
    try:
        with connection, connection.channel() as channel:
            yield channel
    except (OSError, *connection.connection_errors) as error:
        raise BrokerUnreachable(
            f"The broker at {connection.as_uri()} does not answer ({type(error).__name__}).",
            "Start it (`escher-playbooks up`), or check ESCHER_BROKER_URL.",
        ) from error
