"""What `up` and the submitters ask the broker itself, below Celery's tasks."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import BrokerUnreachable
from core.permissions import check_broker
from core.settings import Settings
from tasks.app import app

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5


def broker_reachable(settings: Settings) -> bool:
    """Whether the broker answers a PING; False within a few seconds when it does not.

    `Refused` when somebody else stands where the embedded broker would.
    """
    if settings.embeds_broker and not check_broker(settings):
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


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The strings in the arguments of messages that wait or are worked on: refs and job ids."""

    waiting: frozenset[str]
    taken: Mapping[str, float]  # and when a worker took it last, Unix seconds

    def since(self, earliest: float) -> set[str]:
        """What waits, or was taken after ``earliest``; what was taken before is given up as lost."""
        return {*self.waiting, *(text for text, at in self.taken.items() if at >= earliest)}


def under_way(settings: Settings, queues: Sequence[str]) -> UnderWay:
    """Look into the messages of ``queues``. Raises `BrokerUnreachable`."""
    waiting: set[str] = set()
    taken: dict[str, float] = {}
    with _channel(settings) as channel:
        client = channel.client
        for queue in queues:
            for priority in channel.priority_steps:
                for entry in client.lrange(channel._q_for_pri(queue, priority), 0, -1):  # noqa: SLF001  kombu has no public name for it
                    waiting.update(_arguments(json.loads(entry)))
        times = dict(client.zrange(channel.unacked_index_key, 0, -1, withscores=True))
        for tag, entry in client.hgetall(channel.unacked_key).items():
            message, _exchange, routing_key = json.loads(entry)
            if routing_key in queues:  # the queue's name, as our routes have it
                at = float(times.get(tag, 0.0))
                taken |= {text: max(at, taken.get(text, 0.0)) for text in _arguments(message)}
    return UnderWay(frozenset(waiting), taken)


def _arguments(message: Mapping[str, Any]) -> Iterator[str]:
    """Every string among a task's positional arguments, lists opened."""
    try:
        arguments, _keywords, _embed = json.loads(base64.b64decode(message["body"]))
    except (ValueError, KeyError, TypeError):
        return  # a message of somebody else's
    for argument in arguments:
        for text in argument if isinstance(argument, list) else [argument]:
            if isinstance(text, str):
                yield text


@contextlib.contextmanager
def _channel(settings: Settings, **options: Any) -> Iterator[Any]:
    if settings.embeds_broker:
        check_broker(settings)
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
