"""Progress bars, on standard error, and only where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core.terminal import one_line
from escher_playbooks.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress

    from core.journal import Job


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.console(stderr=True),
    )


@contextmanager
def counting(what: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """A bar that is told ``(done, name)``; ``total`` None where nobody knows it yet."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _name: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int, name: str) -> None:
            bar.update(task, completed=done, description=one_line(f"{what} {name:.40}"))

        yield advance


@contextmanager
def following(what: str, *, quiet: bool) -> Iterator[Callable[[Job], None]]:
    """A bar over the states of a job's items."""
    if quiet or not sys.stderr.isatty():
        yield lambda _job: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=None)

        def advance(job: Job) -> None:
            done = job.succeeded + job.failed + job.deferred + job.cancelled
            description = f"{what} {job.state}"
            if job.failed or job.deferred:
                description += f" ({job.deferred} deferred, {job.failed} failed)"
            bar.update(
                task, total=job.total or None, completed=done, description=one_line(description)
            )

        yield advance
