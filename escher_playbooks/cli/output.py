"""How the command line speaks: results on standard output, everything else on standard error.

With ``--json`` a command prints exactly one JSON document: the body of the matching HTTP answer,
or, on standard error, ``{"error": {type, title, detail, remedy}}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from core.errors import EscherError, storage_error
from core.terminal import block, encodable, json_text, one_line, traceback_text

if TYPE_CHECKING:
    from rich.console import Console

    from core.secrets import SecretFinding

PIPE_WIDTH = 400  # columns where no terminal says how many: ids and paths stay whole for grep
INTERRUPTED = 130


def print_json(body: Any) -> None:
    """One JSON document on standard output."""
    _write_json(json.dumps(body, indent=2, ensure_ascii=False), sys.stdout)


def _write_json(text: str, stream: TextIO) -> None:
    """To a terminal with escapes for what would drive it; to a pipe byte by byte as it is."""
    if stream.isatty():
        text = json_text(text)
    # surrogates can't be encoded; a name with one must not end the command
    stream.write(encodable(text, "utf-8") + "\n")


def say(text: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(encodable(one_line(text), sys.stdout.encoding) + "\n")


def say_block(text: str) -> None:
    """A part of the result that may have several lines; all but the first are indented."""
    sys.stdout.write(encodable(block(text), sys.stdout.encoding) + "\n")


def note(text: str) -> None:
    """A line about the result: warnings, what is queued, what went wrong."""
    sys.stderr.write(encodable(one_line(text), sys.stderr.encoding) + "\n")


def note_block(text: str) -> None:
    """`note` of what may have several lines; all but the first are indented."""
    sys.stderr.write(encodable(block(text), sys.stderr.encoding) + "\n")


def confirm(question: str) -> bool:
    """A yes or no; no where nobody answers. What stands in the question is cleaned."""
    import typer

    return bool(typer.confirm(one_line(question), default=False))


def prompt(question: str, default: str, read: Callable[[str], str]) -> str:
    """An answer that ``read`` takes; a `typer.BadParameter` of its asks again."""
    import typer

    answer: str = typer.prompt(one_line(question), default=default, value_proc=read)
    return answer


def console(*, stderr: bool = False) -> Console:
    """A rich console that takes text as text: no markup, no highlighting."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def note_findings(findings: Iterable[SecretFinding], of: object = "") -> None:
    """A line for each place that looks like a secret, never what stands there."""
    for finding in findings:
        note(f"may be a secret: {of}{' ' if of else ''}{finding.as_text()}")


def note_missing_linters() -> None:
    """A line for each linter that is not installed, and how to install it."""
    from core.playbooks.checks.linters import available

    for name, there in available().items():
        if not there:
            note(f"{name} is not installed: pip install 'escher-playbook-service[lint]'")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: int = 1) -> None:
    """A table on standard output; the first ``whole`` columns are never shortened."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        grid.add_column(name, overflow="fold" if number < whole else "ellipsis",
                        no_wrap=number >= whole)  # fmt: skip
    for row in rows:
        grid.add_row(*(one_line("" if cell is None else str(cell)) for cell in row))
    console().print(grid)


def moment(seconds: float | None) -> str:
    """Unix seconds as local time, empty for None."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def is_interactive() -> bool:
    """Whether a question can be asked and its answer read."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def problem(error: EscherError) -> dict[str, Any]:
    """The error as the contract's ``{type, title, detail}``, with its remedy."""
    body: dict[str, Any] = {"type": error.type, "title": error.title, "detail": error.detail}
    body |= error.members
    if error.remedy:
        body["remedy"] = error.remedy
    return body


def fail(error: BaseException, *, as_json: bool) -> int:
    """Say on standard error what failed and what to do; the exit code that goes with it.

    An error that nobody foresaw is one line and a hint; ``ESCHER_DEBUG=1`` adds the traceback.
    """
    if os.environ.get("ESCHER_DEBUG") == "1":
        sys.stderr.write(encodable(traceback_text(error), sys.stderr.encoding) + "\n")
    known = error if isinstance(error, EscherError) else _unforeseen(error)
    if as_json:
        _write_json(json.dumps({"error": problem(known)}, ensure_ascii=False), sys.stderr)
    else:
        note_block(f"{known.title}: {known.detail}")
        if known.remedy:
            note(f"  {known.remedy}")
    return known.exit_code


class Unforeseen(EscherError):
    """A bug: the exception's kind, never its text, which may hold anything."""

    title = "Unexpected error"


def _unforeseen(error: BaseException) -> EscherError:
    if isinstance(error, OSError):
        return storage_error(error, "The command")
    return Unforeseen(
        f"{type(error).__name__} in the program itself.",
        "Run it again with ESCHER_DEBUG=1 for the traceback, and see the logs in <home>/run; "
        "`escher-playbooks doctor` looks for what may be wrong.",
    )
