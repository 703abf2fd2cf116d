"""Runs something and dies by SIGKILL before its n-th change to the disk or the journal.

Steps are counted by Python's audit events (files made, renamed, removed) and by commits, so the
list follows the code by itself. Everything happens in forked children of a process that has
imported the service and opened nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

CHANGES = frozenset({
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate", "os.link",
})  # fmt: skip
WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def die_before(step: int, home: Path) -> Callable[[], int]:
    """From here on die before the ``step``-th change below ``home``; how many there were so far."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(name: str, arguments: tuple[Any, ...]) -> None:
        if name in CHANGES or (name == "open" and int(arguments[2] or 0) & WRITE):
            path = arguments[0]
            # a path below an open folder comes as a bare name
            if isinstance(path, str | bytes | os.PathLike):
                text = os.fsdecode(path)
                if not text.startswith("/") or text.startswith(str(home)):
                    count()

    sys.addaudithook(heard)
    event.listen(Engine, "commit", lambda _connection: count())
    return lambda: seen


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; its exit code, negative when a signal ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # the child must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
