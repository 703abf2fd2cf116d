"""Says what in a version's folder is its content, at every door, and which script is its entry.

::

    metadata.json  parameters.json  explain_plan.json      the known files
    shell/… cloudformation/… arm/… terraform/… python/…    scripts, but for leftovers
    anything else                                          stands beside it, and is no part

Leftovers are what editors, tools and runs leave in a format's folder. None is taken in, makes an
edit or is handed out; but what a version lists already (from before a rule) is content, whatever it
is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from core.models import FORMATS, METADATA_FILE, PARAMETERS_FILE, PLAN_FILE

KNOWN_FILES = frozenset({METADATA_FILE, PARAMETERS_FILE, PLAN_FILE})

# What editors, file managers and shares put beside the file that is being edited.
_EDITORS = (
    r".*~|\..*\.sw[a-z]|\.#.*|#.*#|4913|\..*\.tmp|.*___jb_(?:tmp|old)___|\.goutputstream-.*"
    r"|\.~lock\..*#?|.*\.kate-swp|\.nfs.*|\._.*|\.DS_Store|Thumbs\.db|desktop\.ini"
)
# What running a playbook leaves. Its state is what it knows of the cloud: nobody may lose it.
_STATE = r".*\.tfstate|.*\.tfstate\..*"
_RUNS = r".*\.tfplan|crash.*\.log|.*\.pyc"
_LEFTOVER = re.compile(f"{_EDITORS}|{_RUNS}|{_STATE}", re.DOTALL)
_IS_STATE = re.compile(_STATE, re.DOTALL)
_TOOL_FOLDERS = frozenset({
    ".git", ".hg", ".svn", ".terraform", ".venv", "venv", "__pycache__", "node_modules", ".idea",
    ".vscode", ".pytest_cache",
})  # fmt: skip


def is_part(path: str) -> bool:
    """Whether a playbook's own files stand at such a path: a known file, or one of a format."""
    head, slash, _ = path.partition("/")
    return head in FORMATS if slash else path in KNOWN_FILES


def is_leftover(path: str) -> bool:
    """Whether a file at ``path`` (``/`` between its parts) is no content of any playbook."""
    *folders, name = path.split("/")
    return not _TOOL_FOLDERS.isdisjoint(folders) or _LEFTOVER.fullmatch(name) is not None


def is_state(path: str) -> bool:
    """Whether ``path`` is the state of a run, and not a tool's own copy of it."""
    *folders, name = path.split("/")
    return _TOOL_FOLDERS.isdisjoint(folders) and _IS_STATE.fullmatch(name) is not None


def leftovers_but(known: Collection[str]) -> Callable[[str], bool]:
    """Return a test of paths below a version's folder: leftovers, but for those ``known``."""
    kept = {path[:end] for path in known for end in range(len(path)) if path[end] == "/"}
    kept.update(known)
    return lambda path: (
        path.partition("/")[0] in FORMATS
        and path not in kept
        and (is_leftover(path) or is_leftover(f"{path}/."))
    )


def entry_script(
    format_: str, paths: Sequence[str], entry_points: Mapping[str, str] | None
) -> tuple[str | None, str | None]:
    """Find the entry script of a format folder; answers ``(path, warning)``.

    ``entry_points``, else the only file, else ``main.* template.* azuredeploy.*``, else the first
    by name, with a warning. Paths are relative to the version's folder.
    """
    inside = sorted(path for path in paths if path.startswith(f"{format_}/"))
    if not inside:
        return None, None
    named = (entry_points or {}).get(format_)
    if named is not None:
        path = named if named.startswith(f"{format_}/") else f"{format_}/{named}"
        if path in inside:
            return path, None
        return inside[0], f"entry_points names {named!r} for {format_}, which is not there"
    if len(inside) == 1:
        return inside[0], None
    for stem in ("main.", "template.", "azuredeploy."):
        for path in inside:
            if path.rsplit("/", 1)[-1].startswith(stem):
                return path, None
    return inside[0], f"{format_} has {len(inside)} files and no entry point: {inside[0]} is taken"
