"""The program of a sandbox child; run by path with ``python -I -S``, standard library only.

    python -I -S child.py MEMORY_BYTES IMPORT_PATH…

A message is two lengths (4 bytes each, big-endian), JSON, and content::

    in    {"function": "module:name", "seconds": S, "stream": bool, "items": [[argument, size], …]}
          with the items' contents one after the other
    out   one {"value": …} or {"fault": reason} an item, in order;
          of a stream {"value": …} with content as often as the function yields, then {"end": true}

It ends at the end of its input, when nothing comes for `IDLE_SECONDS`, or by the kernel's alarm
where one item takes longer than it may (so that it ends when its parent is gone, too).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import struct
import sys
from typing import Any, BinaryIO

IDLE_SECONDS = 30.0
GRACE_SECONDS = 5  # the parent's own clock runs out first
RESERVED_BYTES = 2 << 30
"""Address space that a runtime such as Go's reserves and hardly fills; it may raise its limit by so much."""
HEAD = struct.Struct("!II")


def message(value: Any, content: bytes = b"") -> bytes:
    """The bytes of one message."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return HEAD.pack(len(text), len(content)) + text + content


def main(arguments: list[str]) -> None:
    # unbuffered, so that `select` sees what waits
    source = os.fdopen(0, "rb", buffering=0)
    target = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a stray print is no message
    _limit(int(arguments[0]))
    sys.path.extend(arguments[1:])
    while select.select([source], [], [], IDLE_SECONDS)[0]:
        try:
            text_size, content_size = HEAD.unpack(_read(source, HEAD.size))
            request = json.loads(_read(source, text_size))
            content = _read(source, content_size)
            _answer(request, content, target)
        except (EOFError, BrokenPipeError):
            return


def _answer(request: dict[str, Any], content: bytes, target: BinaryIO) -> None:
    seconds = int(request["seconds"]) + GRACE_SECONDS
    module, _, name = request["function"].partition(":")
    function, start = None, 0
    answer: dict[str, Any]
    for argument, size in request["items"]:
        signal.alarm(seconds)
        part, start = content[start : start + size], start + size
        try:
            if function is None:
                function = getattr(importlib.import_module(module), name)
            if request["stream"]:
                for value, piece in function(argument, part):
                    _send(target, {"value": value}, piece)
                    signal.alarm(seconds)
                answer = {"end": True}
            else:
                answer = {"value": function(argument, part)}
        except BrokenPipeError:
            raise
        except MemoryError:
            answer = {"fault": "memory"}
        except RecursionError:
            answer = {"fault": "depth"}
        except Exception as error:  # noqa: BLE001 - whatever content can cause; its kind is told
            answer = {"fault": type(error).__name__}
        _send(target, answer)


def _send(target: BinaryIO, value: Any, content: bytes = b"") -> None:
    signal.alarm(0)  # how long the parent takes to read is its own affair
    view = memoryview(message(value, content))
    while view:
        view = view[target.write(view) :]


def _read(source: BinaryIO, size: int) -> bytes:
    parts = []
    while size:
        part = source.read(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _limit(memory_bytes: int) -> None:
    """Limits that the kernel keeps; where it knows one not, the others stand."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then lets us end
    for kind, now, most in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes + RESERVED_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (now, most))


if __name__ == "__main__":
    main(sys.argv[1:])
