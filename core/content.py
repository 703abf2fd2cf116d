"""Says what in a version's folder is its content, at every door.

::

    metadata.json  parameters.json  explain_plan.json      the known files
    shell/… cloudformation/… arm/… terraform/… python/…    scripts, but for leftovers
    anything else                                          stands beside it, and is no part

Leftovers are what editors, tools and runs leave in a format's folder. None is taken in, makes an
edit or is handed out; but what a version lists already (from before a rule) is content, whatever it
is called and whatever mode it has.

::

    at a door                                   stored and published
    shell/stop.sh, 0755, begins with #!   ──►   shell/stop.sh, executable
    shell/NOTES, 0755, other text         ──►   shell/NOTES
    shell/again.sh, a link to stop.sh     ──►   shell/again.sh, a file with those bytes
    shell/prüfe.sh in Unicode NFD         ──►   the same in NFC, and a warning
    shell/.venv/…, shell/stop.sh~         ──►   nothing; "left out: …" names them once
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from core.errors import UnsafePath
from core.models import FORMATS, METADATA_FILE, PARAMETERS_FILE, PLAN_FILE, PlaybookDraft

KNOWN_FILES = frozenset({METADATA_FILE, PARAMETERS_FILE, PLAN_FILE})

# What editors, file managers and shares put beside the file that is being edited.
_EDITORS = (
    r".*~|\..*\.sw.|\.#.*|#.*#|4913|\..*\.tmp|.*___jb_(?:tmp|old)___|\.goutputstream-.*"
    r"|\.~lock\..*#?|.*\.kate-swp|\.nfs.*|\._.*|\.DS_Store|Thumbs\.db|desktop\.ini"
    r"|\.git"  # a file in a worktree or submodule, which says where on this machine that is
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
# As file(1) has it: bytes that stand in no text of one byte a character, nor in UTF-8.
_NO_TEXT = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_WIDE_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_HEAD_BYTES = 8192
_NAMED = 10  # names in one report of what was left out
LEFT_OUT = "left out: "
"""How the words of such a report begin."""


def is_part(path: str) -> bool:
    """Whether a playbook's own files stand at such a path: a known file, or one of a format."""
    head, slash, _ = path.partition("/")
    return head in FORMATS if slash else path in KNOWN_FILES


def is_leftover(path: str) -> bool:
    """Whether a file at ``path`` (``/`` between its parts) is no content of any playbook.

    A folder ends with ``/``; of a link see `is_leftover_link`.
    """
    *folders, name = path.split("/")
    return not _TOOL_FOLDERS.isdisjoint(folders) or _LEFTOVER.fullmatch(name) is not None


def is_leftover_link(path: str) -> bool:
    """Whether a link at ``path`` is a leftover: by the name of a file, as Emacs' lock, or of a folder."""
    return is_leftover(path) or is_leftover(f"{path}/")


def is_state(path: str) -> bool:
    """Whether ``path`` is the state of a run, and not a tool's own copy of it."""
    *folders, name = path.split("/")
    return _TOOL_FOLDERS.isdisjoint(folders) and _IS_STATE.fullmatch(name) is not None


def leftovers_but(known: Collection[str]) -> Callable[[str], bool]:
    """Return a test as `is_leftover` of paths below a version's folder, but for those ``known``."""
    kept = {path[:end] for path in known for end in range(len(path)) if path[end] == "/"}
    kept.update(known)
    return lambda path: (
        path.partition("/")[0] in FORMATS
        and path.removesuffix("/") not in kept
        and is_leftover(path)
    )


def left_out_name(path: str) -> str:
    """The name under which a report names a leftover: its tool folder, else itself."""
    parts = path.split("/")
    for end, part in enumerate(parts[:-1], 1):
        if part in _TOOL_FOLDERS:
            return "/".join(parts[:end])
    return path.removesuffix("/")


def names_left_out(names: Iterable[str]) -> str:
    """Say in a report's words what was left out; "" where nothing was."""
    listed = sorted(set(names))
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"{LEFT_OUT}{', '.join(listed[:_NAMED])}{more}" if listed else ""


def is_program(content: bytes) -> bool:
    """Whether a file's executable bit says something: it begins with ``#!``, or is no text."""
    if content.startswith(b"#!"):
        return True
    head = content[:_HEAD_BYTES]
    return not head.startswith(_WIDE_TEXT) and _NO_TEXT.search(head) is not None


def programs(files: Mapping[str, bytes], marked: Collection[str]) -> frozenset[str]:
    """Those of the ``marked`` paths whose executable bit is content."""
    return frozenset(path for path in marked if path in files and is_program(files[path]))


def as_content(
    draft: PlaybookDraft, known: Collection[str] = (), marked: Collection[str] = ()
) -> PlaybookDraft:
    """Return what of a draft, in clear, is content; the one rule of every door.

    Leftovers go into ``ignored``, names get their NFC form, executable bits that say nothing are
    dropped. Paths that are ``known`` of the very version stay as they are; ``marked``: which are
    executable where the draft's source knows no modes. Raises `UnsafePath` for two names that
    become one.
    """
    is_left_out = leftovers_but(known)
    files: dict[str, bytes] = {}
    now: dict[str, str] = {}
    ignored = dict.fromkeys(draft.ignored)
    for path, content in draft.files.items():
        if is_left_out(path):
            ignored[left_out_name(path)] = None
            continue
        name = path if path in known else unicodedata.normalize("NFC", path)
        if name in files:
            raise UnsafePath(
                f"Two files would be called {name!r}: names are stored in Unicode NFC form.",
                "Rename one of them.",
            )
        files[name] = content
        now[path] = name
    modes = marked if draft.executable is None else draft.executable
    renamed = [name for path, name in now.items() if name != path]
    return replace(
        draft,
        metadata=_with_renamed(draft.metadata) if renamed else draft.metadata,
        files=files,
        ignored=tuple(ignored),
        executable=programs(files, {now.get(path, path) for path in modes}),
        renamed=(*draft.renamed, *renamed),
    )


def _with_renamed(metadata: dict[str, object]) -> dict[str, object]:
    """Metadata whose entry points are named as the files are now."""
    named = metadata.get("entry_points")
    if not isinstance(named, dict):
        return metadata
    return metadata | {
        "entry_points": {
            key: unicodedata.normalize("NFC", path) if isinstance(path, str) else path
            for key, path in named.items()
        }
    }
