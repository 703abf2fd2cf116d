"""What foreign content may do to its reader, as functions that a sandbox child runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def job(argument: Any, content: bytes) -> Any:
    """Do what ``argument`` says; else give back what came."""
    match argument:
        case "hang":
            while True:
                time.sleep(1)
        case "spin":
            return 7 ** (1 << 40)  # one instruction that holds the interpreter
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(bytes(1 << 33))
        case "depth":
            return job_depth(0)
        case "print":
            print("x" * 100_000)
            sys.stdout.flush()
            return "said"
        case "garbage":
            os.write(3, b"\xff" * 100)
        case "long answer":
            return "x" * (5 << 20)
        case "raise":
            raise ValueError("\x1b[2J the content's words")
        case "pid":
            return os.getpid()
        case "environment":
            return [dict(os.environ), sys.path, str(Path.cwd())]
        case ["write", path]:
            Path(path).write_bytes(b"x" * 10)
            return "written"
        case ["sleep", seconds]:
            time.sleep(seconds)
            return "slept"
    return [argument, len(content)]


def job_depth(level: int) -> int:
    return job_depth(level + 1) + 1


def yields(argument: Any, content: bytes) -> Iterator[tuple[Any, bytes]]:
    """Each item of a list, done, with the content."""
    for item in argument:
        yield job(item, content), content
