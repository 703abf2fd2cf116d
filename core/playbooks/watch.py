"""Watch the playbook folders: one call when edits have been quiet again.

A watch only makes the sync come sooner. What it misses (the kernel's queue ran over, too many
folders for inotify, a network share) the next interval's scan finds. A file of its own, as only the
worker that watches loads ``watchfiles``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from watchfiles import watch as watch_files

from core.content import is_leftover
from core.files import make_private_dir
from core.settings import Settings

STEP_MS = 250  # how long changes are gathered, and how soon a stop is noticed
LONGEST_WAIT = 20  # quiet times after which somebody who never stops typing is heard anyway

log = logging.getLogger(__name__)


def watch(settings: Settings, on_quiet: Callable[[], None], stop: threading.Event) -> None:
    """Call ``on_quiet`` when nothing has changed for ``edit_quiet_seconds``; until ``stop`` is set.

    It is called in this thread, once for all changes of a while. Where the system can't watch so
    many folders, that is logged and the call returns.
    """
    root = make_private_dir(settings.playbooks_path)
    quiet = settings.edit_quiet_seconds
    longest = max(quiet, 1) * LONGEST_WAIT
    first: float | None = None
    last = 0.0
    for paths in _changed(root, stop):
        now = time.monotonic()
        if any(_may_be_an_edit(path, settings.staging_path) for path in paths):
            first, last = first or now, now
        if first is not None and (now - last >= quiet or now - first >= longest):
            first = None
            on_quiet()


def _changed(root: Path, stop: threading.Event) -> Iterator[list[str]]:
    """What changed in the last quarter of a second, again and again; ends where watching fails."""
    try:
        for found in watch_files(
            root,
            watch_filter=None,
            stop_event=stop,
            debounce=STEP_MS,
            rust_timeout=STEP_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            yield [path for _, path in found]
    except (OSError, RuntimeError) as error:  # RuntimeError: watchfiles' own, of its Rust part
        log.warning(
            "Edits in %s are found by the interval's sync only, it can't be watched: %s."
            " Raising fs.inotify.max_user_watches may help.",
            root,
            error,
        )


def _may_be_an_edit(path: str, staging: Path) -> bool:
    return not (path == str(staging) or path.startswith(f"{staging}/") or is_leftover(path))
