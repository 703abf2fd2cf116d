"""Runs readers and checkers of foreign content in child processes with limits.

A parser can hang, eat all memory or end its process on content that somebody made for it. In a
child it loses that one content: the child is killed and replaced, and the caller is told
(`core.errors.Unreadable`). Children start with the first use, live on for the next ones, end when
idle for half a minute and with the process that started them; they inherit no environment, see no
folder of the user's on their import path, can't write files and can't pass their memory limit.

::

    call(function, items, …)  ──► a child of the pool:  module:name(argument, content) ─► JSON value
    stream(function, …)       ──► a child of its own:   for value, content in module:name(…): …

``function`` is ``"package.module:name"`` of this project. It takes a JSON value and bytes, and
should import little: what it imports is imported in each child. What comes back is JSON (and, of a
stream, bytes), never pickles, and as little trusted as the content was.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from core.bounded_json import BadJson, read_object
from core.errors import EscherError, StorageError, Unreadable
from core.sandbox import child as program
from core.sandbox.child import HEAD, IDLE_SECONDS, message

MAX_MESSAGE_BYTES: Final = 8 << 20
"""Of content in one message of `call`, and of a `stream`'s piece."""
MAX_ANSWER_BYTES: Final = 4 << 20
MEMORY_BYTES: Final = 1 << 30
MAX_CHILDREN: Final = 4
MAX_USES: Final = 20_000  # of one child: what a parser leaks ends with it; grammars are built anew
MAX_FAULTS: Final = 3  # in one call; the rest of it is not tried
TOTAL_SECONDS: Final = 60.0
_LIBRARIES: Final = ("core", "yaml", "pygohcl", "cffi", "tree_sitter", "tree_sitter_python")
_STOP_SECONDS: Final = 2.0
_REMEDY = "Look at the file: it may be damaged, or made to break its reader."


class _Lost(Exception):
    """A child gave no answer; ``why`` is what it did instead."""

    def __init__(self, why: str, *, at_once: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.at_once = at_once


def call(
    function: str,
    items: Sequence[tuple[Any, bytes]],
    *,
    seconds: float,
    total_seconds: float = TOTAL_SECONDS,
) -> list[Any]:
    """Call ``function(argument, content)`` for each item; answers its JSON value or `Unreadable`.

    An item may take ``seconds``, all of them together some ``total_seconds``. After `MAX_FAULTS`
    the rest counts as unreadable, too. Raises `StorageError` where no child can be started.
    """
    answers: list[Any] = []
    deadline = time.monotonic() + total_seconds
    faults = 0
    while len(answers) < len(items):
        if faults >= MAX_FAULTS or time.monotonic() > deadline:
            rest = len(items) - len(answers)
            answers += [Unreadable("It was left out: others before it took all the time.")] * rest
            break
        batch = _first_batch(items[len(answers) :])
        got = _ask(function, batch, seconds, deadline)
        faults += sum(isinstance(answer, EscherError) for answer in got)
        answers += got
    return answers


def stream(
    function: str, argument: Any, content: bytes = b"", *, seconds: float, total_seconds: float
) -> Iterator[tuple[Any, bytes]]:
    """Yield what the generator ``function(argument, content)`` does: a JSON value and bytes each.

    ``seconds`` is the longest that it may take from one to the next, ``total_seconds`` all of them,
    the time that the caller takes not counted. Raises `Unreadable`. No stream waits for a place in
    the pool: the caller may well use that for what it gets here.
    """
    child = _pool.take(for_stream=True)
    whole = False
    left = total_seconds
    try:
        child.send(function, [(argument, content)], seconds, is_stream=True)
        while True:
            began = time.monotonic()
            body, piece = child.receive(min(seconds, max(left, 0.1)))
            left -= time.monotonic() - began
            if "end" in body:
                whole = True
                return
            yield _value(body), piece
    except _Lost as lost:
        raise _unreadable(lost.why) from None
    finally:
        if whole:
            _pool.give_back(child, of_stream=True)
        else:  # broken, or the caller has had enough
            child.kill()


def _ask(
    function: str, batch: Sequence[tuple[Any, bytes]], seconds: float, deadline: float
) -> list[Any]:
    """Answers of a batch up to the first fault; at least one."""
    for attempt in range(2):
        child = _pool.take()
        answers: list[Any] = []
        try:
            child.send(function, batch, seconds)
            for _ in batch:
                left = max(0.1, min(seconds, deadline - time.monotonic()))
                body, _none = child.receive(left)
                answers.append(_answer(body))
        except _Lost as lost:
            idle_end = lost.at_once and child.was_idle and not answers
            child.kill()
            _pool.lose()
            if idle_end and attempt == 0:  # it ended by itself just as it was to be used
                continue
            return [*answers, _unreadable(lost.why)]
        except BaseException:
            child.kill()
            _pool.lose()
            raise
        _pool.give_back(child)
        return answers
    raise AssertionError  # the second attempt returns


def _answer(body: dict[str, Any]) -> Any:
    try:
        return _value(body)
    except Unreadable as error:
        return error


def _value(body: dict[str, Any]) -> Any:
    if "value" in body:
        return body["value"]
    reasons = {"memory": "needs too much memory", "depth": "is nested too deeply"}
    fault = str(body.get("fault", "no answer"))[:60]
    raise _unreadable(reasons.get(fault, f"broke its reader ({fault})"))


def _unreadable(why: str) -> Unreadable:
    return Unreadable(f"It {why}.", _REMEDY)


def _first_batch(items: Sequence[tuple[Any, bytes]]) -> Sequence[tuple[Any, bytes]]:
    size = 0
    for count, (_, content) in enumerate(items):
        size += len(content)
        if size > MAX_MESSAGE_BYTES and count:
            return items[:count]
    return items


class _Child:
    """One process and its two pipes."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            "-I",
            "-S",
            "-B",
            program.__file__,
            str(MEMORY_BYTES),
            *_import_path(),
        ]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},  # no secret
            )
        except OSError as error:
            raise StorageError(
                f"No process can be started to read files in ({error.strerror}).",
                "Free memory or processes (ulimit -u) and try again.",
            ) from error
        self.uses = 0
        self.was_idle = False
        self._free_since = time.monotonic()

    def send(
        self,
        function: str,
        items: Sequence[tuple[Any, bytes]],
        seconds: float,
        *,
        is_stream: bool = False,
    ) -> None:
        self.uses += len(items)
        self.was_idle = time.monotonic() - self._free_since > IDLE_SECONDS / 2
        request = {
            "function": function,
            "seconds": seconds,
            "stream": is_stream,
            "items": [[argument, len(content)] for argument, content in items],
        }
        try:
            view = memoryview(message(request, b"".join(content for _, content in items)))
            pipe = cast("BinaryIO", self.process.stdin)
            while view:
                view = view[pipe.write(view) :]
        except OSError as error:
            raise _Lost("broke its reader", at_once=True) from error

    def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """The next answer; `_Lost` when there is none in time."""
        deadline = time.monotonic() + seconds
        try:
            text_size, content_size = HEAD.unpack(self._read(HEAD.size, deadline, seconds))
            if text_size > MAX_ANSWER_BYTES or content_size > MAX_MESSAGE_BYTES:
                raise _Lost("broke its reader (too long an answer)")
            text = self._read(text_size, deadline, seconds)
            content = self._read(content_size, deadline, seconds)
            self._free_since = time.monotonic()
            return read_object(text), content
        except BadJson as error:
            raise _Lost("broke its reader (no answer)") from error

    def _read(self, size: int, deadline: float, seconds: float) -> bytes:
        fd = cast("BinaryIO", self.process.stdout).fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        parts: list[bytes] = []
        while size:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Lost(f"took longer than {seconds:.0f} s to be read")
            part = os.read(fd, min(size, 1 << 20))
            if not part:
                ended = "ended its reader (out of memory, or nested too deeply)"
                raise _Lost(ended, at_once=True)
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def kill(self) -> None:
        """End it now; also a reader in the middle of its work."""
        self.process.kill()
        self.close()
        self.process.wait()

    def stop(self) -> None:
        """Let it end; it does at the end of its input."""
        self.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                cast("BinaryIO", pipe).close()


class _Pool:
    """At most as many children as there are processors; who finds none free waits.

    A child that is lent for a stream is not counted until it comes back, so a stream neither waits
    nor takes a place from the calls that its reader makes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: list[_Child] = []
        self._count = 0  # free, or at work for a call
        self._limit = min(MAX_CHILDREN, os.cpu_count() or 1)

    def take(self, *, for_stream: bool = False) -> _Child:
        with self._changed:
            while True:
                if child := self._free_one():
                    self._count -= for_stream
                    return child
                if for_stream:
                    break
                if self._count < self._limit:
                    self._count += 1
                    break
                self._changed.wait()
        try:
            return _Child()
        except BaseException:
            if not for_stream:
                self.lose()
            raise

    def give_back(self, child: _Child, *, of_stream: bool = False) -> None:
        with self._changed:
            full = of_stream and self._count >= self._limit
            keeps = child.uses < MAX_USES and not full
            if keeps:
                self._count += of_stream
                self._free.append(child)
            elif not of_stream:
                self._count -= 1
            self._changed.notify()
        if not keeps:
            child.stop()

    def lose(self) -> None:
        """One that was taken for a call is gone."""
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def _free_one(self) -> _Child | None:
        while self._free:
            child = self._free.pop()
            if child.process.poll() is None:
                return child
            child.close()  # it ended while it was idle
            self._count -= 1
        return None

    def stop(self) -> None:
        with self._changed:
            free, self._free = self._free, []
            self._count -= len(free)
        for child in free:
            child.close()
        for child in free:
            child.stop()

    def forget(self) -> None:
        """After a fork: the children are the other process'; only its copies of the pipes go."""
        for child in self._free:
            child.close()
            child.process.returncode = 0  # not ours to wait for
        self.__init__()  # type: ignore[misc]  # new locks, too: another thread may have held one


@lru_cache(maxsize=1)
def _import_path() -> tuple[str, ...]:
    """Where this project and the parsers' libraries lie; nothing else is on a child's path."""
    found: dict[str, None] = {}
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            found[str(Path(spec.origin).resolve().parents[1])] = None
    return tuple(found)


_pool = _Pool()
atexit.register(_pool.stop)
os.register_at_fork(after_in_child=_pool.forget)
