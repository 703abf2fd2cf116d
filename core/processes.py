"""Who a process is, and who is dead: what a lease's owner is judged by.

::

    owner   <random id>.<boot id>.<PID namespace>.<pid>.<start>

    same boot, same namespace     its pid is gone, or is another's by now   dead, seen at once
    another boot of this machine  (where all that ask share one kernel)     dead, seen at once
    anywhere else                 its heartbeat's counter has not moved for
                                  `SILENT_SECONDS` of the observer's own
                                  monotonic clock                           dead

Host names and process numbers of two containers may be the same, so neither counts. No wall clock
is read: setting one kills nobody. Death is for ever: an id is of one process, a forked child has
its own.

`OpenedHere` is how every process comes to open its own journal and connections after a fork.
"""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from core.errors import UsageError

SILENT_SECONDS = 20.0
_PROC = Path("/proc")
_UNKNOWN = ""  # of a boot or namespace that can't be told: then only the heartbeat counts
_DEAD_STATES = frozenset("ZXx")  # what is left of it waits for its parent to look


class Owner(NamedTuple):
    """A process of any machine; as text it goes into the journal."""

    id: str
    boot: str
    namespace: str
    pid: int
    start: int

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Raises `ValueError` for what `__str__` does not write."""
        id_, boot, namespace, pid, start = text.split(".")
        return cls(id_, boot, namespace, int(pid), int(start))

    @property
    def is_near(self) -> bool:
        """Whether its process number means the same process here as there."""
        me = this_process()
        known = _UNKNOWN not in {me.boot, me.namespace}
        return known and (self.boot, self.namespace) == (me.boot, me.namespace)


def this_process() -> Owner:
    """The owner that this process is; another one in a forked child."""
    return _owner_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _owner_of(pid: int) -> Owner:
    start = _start_of(None)
    namespace = _UNKNOWN if start is None else _namespace()
    return Owner(secrets.token_hex(8), _boot_id(), namespace, pid, start or 0)


def is_gone(owner: Owner, *, one_kernel: bool = False) -> bool | None:
    """Whether a process is dead, where that can be seen from here at once; None: it can't.

    ``one_kernel``: all who ask run on one machine (the journal is a file), so that another boot's
    processes are gone.
    """
    if owner.is_near:
        return _is_gone_here(owner)
    mine = this_process().boot
    if one_kernel and _UNKNOWN not in {mine, owner.boot} and owner.boot != mine:
        return True
    return None


def _is_gone_here(owner: Owner) -> bool | None:
    try:
        os.kill(owner.pid, 0)  # asks in our own namespace, whatever /proc is mounted
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's: it lives, and its start may still be read
    start = _start_of(owner.pid)
    return None if start is None else start != owner.start


class Deaths:
    """What this process has seen of the heartbeats of others, to say who is dead.

    ``monotonic`` is this process' own clock. Safe for threads.
    """

    def __init__(
        self,
        *,
        one_kernel: bool = False,
        silent_seconds: float = SILENT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._one_kernel = one_kernel
        self._silent_seconds = silent_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: dict[Owner, tuple[int | None, float]] = {}
        self._looked_at = 0.0

    def among(
        self, owners: Iterable[Owner], counters: Callable[[], Mapping[str, int]]
    ) -> set[Owner]:
        """The dead of ``owners``; ``counters`` reads the heartbeats by owner id, where they matter.

        Who can't be seen from here is dead when all looks over `SILENT_SECONDS` have shown the same
        counter. A pause of half that time between two looks begins anew: where the observer could
        not look, as the journal was away, the others could not beat. All that matter must be among
        ``owners`` each time: who is not is forgotten.
        """
        known = {owner: is_gone(owner, one_kernel=self._one_kernel) for owner in owners}
        dead = {owner for owner, gone in known.items() if gone}
        far = {owner for owner, gone in known.items() if gone is None}
        beats = counters() if far else {}
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at > self._silent_seconds / 2:
                self._seen.clear()
            self._looked_at = now
            self._seen = {owner: seen for owner, seen in self._seen.items() if owner in far}
            for owner in far:
                counter = beats.get(owner.id)
                last, since = self._seen.setdefault(owner, (counter, now))
                if counter != last:
                    self._seen[owner] = counter, now
                elif now - since >= self._silent_seconds:
                    dead.add(owner)
        return dead


class OpenedHere:
    """Remembers which process opened something that a forked child must not use.

    Connections and sessions are one process': used by two, their answers get mixed up, and locks
    that a thread of the parent held would be held in the child for ever.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def is_so(self) -> bool:
        """Whether this is that process."""
        return self._pid == os.getpid()

    def check(self) -> None:
        """Raises `UsageError` in any other process."""
        if self._pid != os.getpid():  # `is_so`, without a call: each look-up asks
            raise UsageError(
                f"{self._what} was opened by process {self._pid}, before this one was forked.",
                "Open PlaybookService in each process, after the fork.",
            )


@functools.lru_cache(maxsize=1)
def _boot_id() -> str:
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            done = subprocess.run(command, capture_output=True, check=True, timeout=5)
            return done.stdout.decode().strip().replace("-", "").lower()
        return _UNKNOWN
    with suppress(OSError):
        text = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        return text.strip().replace("-", "")
    return _UNKNOWN


def _namespace() -> str:
    if sys.platform == "darwin":
        return "0"  # there is one
    with suppress(OSError):
        return str((_PROC / "self/ns/pid").stat().st_ino)
    return _UNKNOWN


def _start_of(pid: int | None) -> int | None:
    """When a process started (None: this one), in a unit that tells a reused number apart.

    0 when what is left of it is a zombie; None when it can't be told.
    """
    if sys.platform == "darwin":
        return _start_elsewhere(os.getpid() if pid is None else pid)
    try:
        if pid is None:
            stat = (_PROC / "self/stat").read_text(encoding="utf-8", errors="replace")
        elif (_PROC / "self").readlink() == Path(str(os.getpid())):
            stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        else:  # that /proc shows another namespace's numbers
            return None
        state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return 0 if state in _DEAD_STATES else int(fields[18])  # ticks since the boot
    except (OSError, ValueError, IndexError):
        return None


def _start_elsewhere(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return 0 if is_zombie else int(process.create_time() * 1000)
    except psutil.Error:
        return None
