"""The Celery app. Importing it loads no model library; workers load what they need, when needed."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader
from celery.signals import after_setup_logger
from redis.connection import UnixDomainSocketConnection
from redis.exceptions import AuthenticationError

import celeryconfig
from core.errors import Refused
from core.files import UMASK
from core.permissions import check_peer, check_socket
from core.terminal import guard_process

log = logging.getLogger(__name__)


class Loader(AppLoader):
    """Imports modules from where this process does.

    Celery's own puts the current folder first while it imports settings and tasks, and whoever
    wrote that folder would then run code in ours.
    """

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        return (imp or self.import_module)(module, package=package)


def _is_celery_program() -> bool:
    """Whether this process is `celery …`, and not a program that sends us messages."""
    path = Path(sys.argv[0] if sys.argv else "")
    return path.name == "celery" or path.parts[-2:] == ("celery", "__main__.py")


def _connect_to_ours(connection: UnixDomainSocketConnection) -> socket.socket:
    """Connect, and refuse a stranger at the embedded broker's socket.

    Here, as every door passes here at each connection: workers, beat, results, Flower, commands.
    """
    path = Path(connection.path)
    if not (celeryconfig.embedded and celeryconfig.broker_url == f"redis+socket://{path}"):
        return _plain_connect(connection)  # the setting's own choice
    try:
        check_socket(path)
        connected = _plain_connect(connection)
        try:
            check_peer(connected, path)
        except BaseException:
            connected.close()
            raise
    except Refused as error:
        log.error("%s", error)
        raise AuthenticationError(str(error)) from error  # what redis' users expect of a connection
    return connected


_plain_connect: Callable[[UnixDomainSocketConnection], socket.socket]
_plain_connect = UnixDomainSocketConnection._connect  # noqa: SLF001  the one place that all share
UnixDomainSocketConnection._connect = _connect_to_ours  # type: ignore[method-assign]  # noqa: SLF001

if _is_celery_program():
    os.umask(UMASK)  # schedules, pid files and logs are nobody else's
    guard_process()  # Flower sets up no logging of Celery's

app = Celery(
    "tasks",
    loader=Loader,
    include=[
        "tasks.embedding",
        "tasks.publishing",
        "tasks.scripts",
        "tasks.scripts",
        "tasks.syncing",
        "tasks.submitting",
        "tasks.worker_signals",
        "tasks.lanes",
    ],
)
app.config_from_object(celeryconfig)  # never by its name, which the current folder could answer


def _guard(**_: object) -> None:
    guard_process()


after_setup_logger.connect(_guard)  # worker and beat, however they were started
