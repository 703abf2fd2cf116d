"""Turns into a program that the kernel ends when its parent dies, however the parent dies.

    python -I -S child.py PARENT_PID SIGNAL PROGRAM [ARGUMENT…]

A process of its own for this, rather than ``preexec_fn``, because Python code between fork and
exec can deadlock in a process that has threads; the pid stays, as this one *becomes* the program.
Only Linux has such a signal; elsewhere the next `up` or `down` ends what a killed one left.
It imports nothing of ours, so it starts in some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, signal_number, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
            print(f"prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    if os.getppid() != parent:
        sys.exit("The supervisor ended before this component could start.")
    try:
        os.execvp(program[0], program)  # noqa: S606  a fixed argument list; no shell is wanted
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
