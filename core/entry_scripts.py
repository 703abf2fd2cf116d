r"""Says which file of a format's folder is its entry script: the one rule, of client and server alike.

::

    given in entry_points       stands: as ./run.sh, run.sh, shell/run.sh or shell\run.sh
    not given, at intake        `entry_script`; what it finds is stored in entry_points
    not there, on reading       `entry_script` again: of versions from before the rule

A candidate is a file that the format runs. Of the candidates at the top of the folder it is the
one with a usual name (``main.*`` …), else the only one, else the first by name, with a warning;
where there are none, the same one folder deeper. Terraform runs in its folder: any file stands for
it, ``main.tf`` before all others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

IsScript = Callable[[str], bool]
"""Whether the file at a path begins with ``#!``; asked only where its name does not tell."""

_SUFFIXES = {
    "shell": (".sh", ".bash", ".ksh", ".zsh"),
    "cloudformation": (".yaml", ".yml", ".json", ".template"),
    "arm": (".json", ".bicep"),
    "terraform": (".tf", ".tf.json"),
    "python": (".py",),
}
_USUAL = ("main.", "template.", "azuredeploy.", "handler.", "index.", "run.")
_NO_ENTRY = re.compile(
    r"\..*|.*~|readme(\..*)?|read[-_]me(\..*)?|(un)?licen[cs]e([-_.].*)?|copying(\..*)?|notice(\..*)?"
    r"|__init__\.py|setup\.py|conftest\.py|test_.*|.*_test\..*|.*\.bats"
    r"|.*\.tfvars|(variables|outputs|versions|providers)\.tf|.*param.*\.json|.*\.lock.*",
    re.DOTALL | re.IGNORECASE,
)
# the last three: of versions that were stored before such folders were left out
_NO_ENTRY_FOLDERS = frozenset({"tests", "venv", "node_modules", "__pycache__"})
_DEPTHS = (2, 3)  # parts of a path: at the top of the format's folder, and one folder deeper


class Entry(NamedTuple):
    """The entry script's path from the version's folder, or None, and what is odd about it."""

    path: str | None
    warning: str | None = None


def entry_script(format_: str, paths: Iterable[str], is_script: IsScript) -> Entry:
    """Find the entry script of ``format_`` among ``paths``, which are relative to the version."""
    inside = sorted(path for path in paths if path.startswith(f"{format_}/"))
    if not inside:
        return Entry(None)
    named = [path for path in inside if _may_be_entry(path)]
    for depth in _DEPTHS:
        level = [path for path in named if path.count("/") + 1 == depth]
        pick = _of_terraform if format_ == "terraform" else _usual_or_first
        found = pick(format_, level, is_script)
        if found.path is not None:
            return found
    return Entry(
        None,
        f"{format_} has no entry script: none of its files is one that is run"
        " (entry_points may name it)",
    )


def stored_entry(
    format_: str, paths: Collection[str], entry_points: object, is_script: IsScript
) -> Entry:
    """Find the entry script of a stored version: what its ``entry_points`` say, else by the rule.

    Nothing is refused: metadata from before the rule may name what is not there.
    """
    given = entry_points.get(format_) if isinstance(entry_points, Mapping) else None
    if not isinstance(given, str):
        return entry_script(format_, paths, is_script)
    if (path := given_entry(format_, given, paths)) is not None:
        return Entry(path)
    found = entry_script(format_, paths, is_script)
    return Entry(found.path, f"entry_points names {given!r} for {format_}, which is not there")


def given_entry(format_: str, given: str, paths: Collection[str]) -> str | None:
    """Bring a path that somebody gave into the one form, ``shell/run.sh``; None: it is not there.

    It may begin at the version's folder or at the format's, with ``./``, and with backslashes.
    """
    text = unicodedata.normalize("NFC", given).replace("\\", "/")
    parts = [part for part in text.split("/") if part != "."]
    if not {"", ".."}.isdisjoint(parts):
        return None
    path = "/".join(parts)
    for whole in (path, f"{format_}/{path}"):
        if whole.startswith(f"{format_}/") and whole in paths:
            return whole
    return None


def by_rule(metadata: Mapping[str, Any], paths: Collection[str]) -> tuple[str, ...]:
    """List the formats whose entry point in ``metadata`` is what the rule finds by names alone.

    Of versions that another machine made: its journal knows what was given there, ours does not.
    """
    entries = metadata.get("entry_points")
    if not isinstance(entries, Mapping):
        return ()
    return tuple(
        format_
        for format_, path in entries.items()
        if path == entry_script(format_, paths, lambda _path: False).path
    )


def begins_as_script(head: bytes) -> bool:
    """Whether a file with such first bytes names its interpreter."""
    return head.startswith((b"#!", b"\xef\xbb\xbf#!"))


# -- parts ------------------------------------------------------------------------------------


def _may_be_entry(path: str) -> bool:
    *folders, name = path.split("/")[1:]
    if _NO_ENTRY.fullmatch(name) or not _NO_ENTRY_FOLDERS.isdisjoint(folders):
        return False
    return not any(folder.startswith(".") for folder in folders)


def _has_suffix(format_: str, path: str) -> bool:
    return path.lower().endswith(_SUFFIXES.get(format_, ()))


def _runs(format_: str, path: str, is_script: IsScript) -> bool:
    return _has_suffix(format_, path) or (format_ == "shell" and is_script(path))


def _usual_or_first(format_: str, level: list[str], is_script: IsScript) -> Entry:
    # a suffix of the format before a mere #!: main.sh, not the main.py beside it
    by_suffix = sorted(level, key=lambda path: not _has_suffix(format_, path))
    for stem in _USUAL:
        for path in by_suffix:
            if path.rpartition("/")[2].lower().startswith(stem) and _runs(format_, path, is_script):
                return Entry(path, _several_folders(format_, path, level, stem))
    first = None
    for path in level:
        if not _runs(format_, path, is_script):
            continue
        if first is not None:
            return Entry(
                first,
                f"{format_} has several scripts and none of a usual name (main.*):"
                f" {first} is taken as its entry script; entry_points may name another",
            )
        first = path
    return Entry(first)


def _of_terraform(format_: str, level: list[str], _is_script: IsScript) -> Entry:
    found = [path for path in level if _has_suffix(format_, path)]
    if not found:
        return Entry(None)

    def rank(path: str) -> tuple[bool, bool]:
        name = path.rpartition("/")[2].lower()
        return not name.startswith("main.tf"), name.endswith(".json")

    path = min(found, key=rank)  # of equals the first by name
    return Entry(path, _several_folders(format_, path, found, ""))


def _several_folders(format_: str, path: str, level: list[str], stem: str) -> str | None:
    """The warning where another folder beside ``path``'s has such a script, too."""
    folder = path.rpartition("/")[0]
    for other in level:
        place, _, name = other.rpartition("/")
        if place != folder and name.lower().startswith(stem) and _has_suffix(format_, other):
            return (
                f"{format_} has scripts in several folders and none above them:"
                f" {path} is taken as its entry script; entry_points may name another"
            )
    return None
