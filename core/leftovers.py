"""What editors, tools and runs leave in a format folder: the one list of what is never content.

Nothing of it is taken in, makes an edit, or is handed out. A version from before that lists such a
file keeps it: what the journal has is content, whatever it is called.
"""

from __future__ import annotations

import re

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
TOOL_FOLDERS = frozenset({
    ".git", ".hg", ".svn", ".terraform", ".venv", "venv", "__pycache__", "node_modules", ".idea",
    ".vscode", ".pytest_cache",
})  # fmt: skip


def is_leftover(path: str) -> bool:
    """Whether a file at ``path`` (``/`` between its parts) is no content of any playbook."""
    *folders, name = path.split("/")
    return in_tool_folder(folders) or _LEFTOVER.fullmatch(name) is not None


def is_state(path: str) -> bool:
    """Whether ``path`` is the state of a run, and not a tool's own copy of it."""
    *folders, name = path.split("/")
    return not in_tool_folder(folders) and _IS_STATE.fullmatch(name) is not None


def in_tool_folder(folders: list[str]) -> bool:
    """Whether one of these folders is a tool's own."""
    return not TOOL_FOLDERS.isdisjoint(folders)
