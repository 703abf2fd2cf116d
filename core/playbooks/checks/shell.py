"""Shell scripts, by `bash -n`: it reads the script and runs none of it."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import PurePosixPath

from core.files import find_program
from core.playbooks.checks.complaints import Complaint, without_script_text

TIMEOUT_SECONDS = 8  # before the sandbox would end the reader itself
NO_BASH = "shell scripts were not checked: bash is not on PATH"

_SHELLS = frozenset({"sh", "bash", "dash", "ksh"})
_SAID = re.compile(r"^/dev/stdin: line (?P<line>\d+): (?P<said>.*)$")
# What comes of no script text: anything else bash says is reported by its place alone.
_KNOWN = re.compile(
    r"syntax error near unexpected token `(?P<token>[^']*)'"
    r"|syntax error: unexpected end of file"
    r"|unexpected EOF while looking for matching `.'"
    r"|unexpected token `[^']*', conditional binary operator expected"
    r"|unexpected argument `[^']*' to conditional (?:unary|binary) operator"
    r"|conditional binary operator expected"
    r"|unexpected token `[^']*' in conditional command"
    r"|maximum here-document count exceeded"
    r"|warning: here-document at line \d+ delimited by end-of-file(?= )"
)


@lru_cache(maxsize=1)
def bash_path() -> str | None:
    """Where bash is, or None."""
    return find_program("bash")


def is_for_bash(path: str, text: str) -> bool:
    """`*.sh`, `*.bash` or no suffix at all, unless a `#!` line names another interpreter."""
    if PurePosixPath(path).suffix not in {"", ".sh", ".bash"}:
        return False
    first = text.split("\n", 1)[0]
    if not first.startswith("#!"):
        return True
    words = [PurePosixPath(word).name for word in first[2:].split()]
    return any(word in _SHELLS for word in words)


def check(text: str, bash: str | None) -> list[Complaint]:
    """What the ``bash`` at that path says of a script's syntax, without one `NO_BASH`.

    Takes about 3 ms, most of it the new process.
    """
    if bash is None:
        return [Complaint(None, NO_BASH)]
    try:
        done = subprocess.run(
            # as a file, not as standard input: only so are lines numbered and reads buffered
            [bash, "--noprofile", "--norc", "-n", "/dev/stdin"],
            input=text.encode(),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            # BASH_ENV or exported functions of ours would be run before -n counts
            env={"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return [Complaint(None, f"not checked: bash took longer than {TIMEOUT_SECONDS} s")]
    except OSError as error:
        return [Complaint(None, f"not checked: bash did not start ({error.strerror})")]
    if done.returncode < 0:
        return [
            Complaint(None, f"bash gave up on it (signal {-done.returncode}): nested too deep?")
        ]
    return _complaints(done.stderr.decode("utf-8", "replace"), failed=done.returncode != 0)


def _complaints(said: str, *, failed: bool) -> list[Complaint]:
    found: list[Complaint] = []
    for line in said.splitlines():
        match = _SAID.match(line)
        if match is None:
            continue
        known = _KNOWN.match(match["said"])
        if known:
            found.append(Complaint(int(match["line"]), without_script_text(known[0])))
        elif not found:
            found.append(Complaint(int(match["line"]), "bash refuses this line"))
    if failed and not found:
        found.append(Complaint(None, "bash refuses it"))
    return found
