"""`up` in the foreground: one line a component, redrawn on a terminal, appended elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from core.terminal import one_line
from escher_playbooks.cli import output
from escher_playbooks.cli.upstate import ComponentStatus, State

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_STYLES = {
    State.STARTING: "yellow",
    State.RUNNING: "green",
    State.RESTARTING: "red",
    State.STOPPING: "yellow",
    State.STOPPED: "dim",
}


class UpDisplay:
    """Shows components as they change. A terminal that went away ends no service."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=output.console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()

    def change(
        self, part: ComponentStatus, note: str, everything: Sequence[ComponentStatus]
    ) -> None:
        """``part`` has a new state, for the reason ``note``."""
        self._notes[part.name] = note
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.update(self._table(everything), refresh=True)
            else:
                output.say(
                    f"{part.name:<16} {part.state.value:<11} {_pid(part):<12} {note}".rstrip()
                )
                sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line below the components."""
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.console.print(one_line(text))
            else:
                output.say(text)
                sys.stdout.flush()

    def _table(self, everything: Sequence[ComponentStatus]) -> Table:
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, pad_edge=False, show_header=False)
        for part in everything:
            state = Text(part.state.value, style=_STYLES[part.state])
            grid.add_row(part.name, state, _pid(part), one_line(self._notes.get(part.name, "")))
        return grid


def _pid(part: ComponentStatus) -> str:
    return f"pid {part.process.pid}" if part.process else ""
