"""Finds the runbooks of a tool in a file or folder, and makes each a draft; a bad one is an error.

What is read stays below the folder that holds the file, or the folder that is given; links are not
followed. Documents are parsed in a child of the sandbox, one call a file, so what breaks its parser
costs that file alone.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from core import sandbox
from core.content import is_leftover
from core.errors import (
    EscherError,
    InvalidPlaybook,
    NotFound,
    Unreadable,
    UsageError,
    faults_of,
    storage_error,
)
from core.models import PlaybookDraft
from core.playbooks.archives.kinds import TAR_BLOCK, archive_kind
from core.playbooks.discovery import MAX_DEPTH, is_looked_into
from core.playbooks.runbooks import ansible, azure, rundeck, ssm, stackstorm
from core.playbooks.runbooks.documents import decoded
from core.playbooks.runbooks.runbook import Runbook

MIB: Final = 1 << 20
MAX_RUNBOOK_BYTES: Final = 2 * MIB
MAX_FILES: Final = 20_000
SECONDS: Final = 10.0
_YAML: Final = (".yaml", ".yml")
_NO_PLAYBOOKS: Final = frozenset({
    "roles", "tasks", "handlers", "defaults", "meta", "vars", "templates", "files", "group_vars",
    "host_vars", "molecule", "collections",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Converted:
    """A runbook as a draft, and what of it was ``dropped``, in words."""

    draft: PlaybookDraft
    dropped: tuple[str, ...]


Found = Iterator[tuple[str, Runbook | EscherError]]


@dataclass(frozen=True, slots=True)
class _Tool:
    """How a tool's runbooks are found: by ``suffixes``, made by ``make``; ``what`` one is called."""

    what: str
    suffixes: tuple[str, ...]
    make: Callable[[_Project, str, bytes], list[Runbook]]


def iter_runbooks(
    tool: str, path: Path, *, file_bytes: int, skipped: list[str]
) -> Iterator[tuple[str, Converted | EscherError]]:
    """Yield each runbook of ``tool`` at ``path`` as a draft, or its error, under its file's name.

    Files of a folder that are none are added to ``skipped``. Raises `UsageError` for an unknown tool
    and where there is no runbook at all, `NotFound` where ``path`` is not there.
    """
    kind = _tool(tool)
    empty = True
    for name, found in _runbooks(kind, path, file_bytes, skipped):
        empty = False
        if isinstance(found, EscherError):
            yield name, found
            continue
        try:
            with faults_of(name):
                draft = found.draft(name)
        except EscherError as error:
            yield name, error
        else:
            yield name, Converted(draft, tuple(found.dropped))
    if empty:
        raise UsageError(
            f"{path} holds no {kind.what}.",
            f"Give a file or folder of them ({', '.join(kind.suffixes)}).",
        )


def _tool(name: str) -> _Tool:
    try:
        return KINDS[name]
    except KeyError:
        raise UsageError(
            f"Runbooks of {name!r} are not known.", f"Use --from {'|'.join(KINDS)}."
        ) from None


def _runbooks(kind: _Tool, path: Path, file_bytes: int, skipped: list[str]) -> Found:
    if path.is_dir():
        project = _Project(path, file_bytes)
        used: set[str] = set()
        if kind is KINDS["ansible"]:
            yield from _roles(project)
        for name in project.names():
            if not name.lower().endswith(kind.suffixes):
                continue
            found = _made(kind, project, name)
            if found == [] and not _is_of_roles(kind, name):
                skipped.append(name)
            for one in found:
                if isinstance(one, Runbook):
                    used.update(one.files)
            yield from ((_shown(name, one, found), one) for one in found)
        skipped[:] = [name for name in skipped if f"shell/{name}" not in used]
        skipped += _unused_roles(kind, project, used)
    elif path.is_file():
        _refuse_archive(path)
        is_action = kind is KINDS["stackstorm"] and path.parent.name == "actions"
        root = path.absolute().parent.parent if is_action else path.absolute().parent
        project = _Project(root, file_bytes)
        name = path.absolute().relative_to(root).as_posix()
        found = _made(kind, project, name, wants_all=True)
        if found == []:
            raise InvalidPlaybook(
                f"{path.name} is no {kind.what}.", "Look at what it is, and at --from."
            )
        yield from ((_shown(name, one, found), one) for one in found)
    else:
        raise NotFound(f"{path} is not there.", "Give a runbook, or a folder of them.")


def _refuse_archive(path: Path) -> None:
    try:
        with path.open("rb") as file:
            kind = archive_kind(file.read(TAR_BLOCK))
    except OSError as error:
        raise storage_error(error, f"Reading {path}") from error
    if kind is not None:
        raise UsageError(f"{path} is an archive (.{kind}).", "Unpack it and give the folder.")


def _shown(name: str, one: Runbook | EscherError, found: list[Any]) -> str:
    return f"{name}: {one.name}" if isinstance(one, Runbook) and len(found) > 1 else name


def _made(
    kind: _Tool, project: _Project, name: str, *, wants_all: bool = False
) -> list[Runbook | EscherError]:
    """The runbooks of one file: none where it is something else, an error where it can't be read."""
    if not wants_all and not name.lower().endswith(kind.suffixes):
        return []
    try:
        with faults_of(name):
            return list(kind.make(project, name, project.runbook(name)))
    except EscherError as error:
        return [error]


class _Project:
    """The files below one folder, read within limits; links are not there for it."""

    def __init__(self, root: Path, file_bytes: int) -> None:
        self.root = root
        self.file_bytes = file_bytes
        self._parsed = lru_cache(maxsize=256)(lambda content: _yaml("It", content))

    def names(self, under: str = "") -> list[str]:
        """Paths of the files below a folder, by name; not in hidden folders or those of tools."""
        found: list[str] = []
        try:
            for folder, names, files in os.walk(self.root / under):
                inside = Path(folder).relative_to(self.root).as_posix()
                prefix = "" if inside == "." else f"{inside}/"
                deep = prefix.count("/") > MAX_DEPTH
                names[:] = [] if deep else sorted(filter(is_looked_into, names))
                found += [f"{prefix}{name}" for name in sorted(files) if not is_leftover(name)]
                if len(found) > MAX_FILES:
                    raise UsageError(
                        f"{self.root} has more than {MAX_FILES} files.", "Give a smaller folder."
                    )
        except OSError as error:
            raise storage_error(error, f"Reading {self.root}") from error
        return found

    def runbook(self, name: str) -> bytes:
        """A runbook's text; `InvalidPlaybook` where it is too large or no file."""
        content = self._content(name, MAX_RUNBOOK_BYTES)
        if content is None:
            raise InvalidPlaybook(
                f"{name} is no file of at most {MAX_RUNBOOK_BYTES // MIB} MiB.",
                "Give the runbook itself.",
            )
        return content

    def read(self, path: str) -> dict[str, bytes]:
        """The file at a path, or all below one that ends with ``/``; {} for what is not there or outside."""
        is_folder, path = path.endswith("/"), posixpath.normpath(path)
        if path.startswith(("/", "..")) or path == ".":
            return {}
        if is_folder:
            if (self.root / path).is_symlink():
                return {}
            found = {name: self._content(name, self.file_bytes) for name in self.names(path)}
            return {name: content for name, content in found.items() if content is not None}
        content = self._content(path, self.file_bytes)
        return {} if content is None else {path: content}

    def document(self, content: bytes) -> Any:
        """The first YAML document of a text; None of what is none."""
        try:
            documents = self._parsed(content)
        except InvalidPlaybook:
            return None
        return documents[0] if documents else None

    def _content(self, name: str, most: int) -> bytes | None:
        """A file's bytes; None for a link on its way, no file, or more than ``most``."""
        path = self.root
        try:
            for part in name.split("/"):
                path = path / part
                if path.is_symlink():
                    return None
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                content = file.read(most + 1)
        except OSError:
            return None
        return content if len(content) <= most else None


def _ask(function: str, kind: str, content: bytes, name: str) -> dict[str, Any]:
    """What a reader in the sandbox says of the text of ``name``; raises `InvalidPlaybook`."""
    answer = sandbox.call(
        f"core.playbooks.runbooks.{function}", [({"kind": kind}, content)], seconds=SECONDS
    )[0]
    if isinstance(answer, Unreadable):
        raise Unreadable(f"{name}: {answer.detail}", answer.remedy)
    if isinstance(answer, EscherError):
        raise answer
    if not isinstance(answer, dict) or "error" in answer:
        why = str(answer.get("error")) if isinstance(answer, dict) else "broke its reader"
        raise InvalidPlaybook(f"{name} {why}.", "Look at the file; the others were gone on with.")
    return answer


def _yaml(name: str, content: bytes) -> list[Any]:
    return list(_ask("documents:read", "yaml", content, name)["documents"])


# -- the tools --------------------------------------------------------------------------------


def _ssm(_project: _Project, name: str, content: bytes) -> list[Runbook]:
    documents = _yaml(name, content)
    return [ssm.runbook(name, content, said) for said in documents[:1] if ssm.is_document(said)]


def _rundeck(_project: _Project, name: str, content: bytes) -> list[Runbook]:
    kind = "xml" if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" else "yaml"
    said = _ask("documents:read", kind, content, name)
    jobs = [job for document in said["documents"][:1] for job in rundeck.jobs_of(document)]
    if len(jobs) == 1:
        return [rundeck.runbook(name, content, jobs[0][1])]
    parts = said["parts"]
    texts = [_part(content, kind, parts[at]) if at < len(parts) else None for at, _ in jobs]
    return [rundeck.runbook(name, text, job) for (_, job), text in zip(jobs, texts, strict=True)]


def _part(content: bytes, kind: str, part: list[int]) -> bytes:
    """The text of one job of several, as a file that holds it alone."""
    text = decoded(content)
    start, end = part
    if kind == "xml":
        return b"<joblist>\n" + text.encode()[start:end] + b"\n</joblist>\n"
    return "".join(text.splitlines(keepends=True)[start:end]).encode()


def _stackstorm(project: _Project, name: str, content: bytes) -> list[Runbook]:
    documents = _yaml(name, content)
    if not documents or not stackstorm.is_action(documents[0]):
        return []
    said: dict[str, Any] = documents[0]
    folder = posixpath.dirname(name)
    pack = project.read(posixpath.join(folder, "../pack.yaml")) or project.read(
        posixpath.join(folder, "pack.yaml")
    )
    for text in pack.values():
        described = project.document(text)
        if isinstance(described, dict) and not said.get("pack"):
            said = {**said, "pack": described.get("ref") or described.get("name")}

    def beside(path: str) -> dict[str, bytes]:
        at = posixpath.join(folder, path)
        prefix = f"{folder}/" if folder else ""
        return {found.removeprefix(prefix): text for found, text in project.read(at).items()}

    return [stackstorm.runbook(name, content, said, beside)]


def _ansible(project: _Project, name: str, content: bytes) -> list[Runbook]:
    if _is_of_roles(KINDS["ansible"], name):
        return []
    documents = _yaml(name, content)
    if not documents or not ansible.is_playbook(documents[0]):
        return []
    return [ansible.playbook(name, content, documents[0], project.read, project.document)]


def _role_folders(project: _Project) -> list[str]:
    """The roles of a project; ``.`` where it is one itself."""
    names = project.names()
    tasks = (name for name in names if name.endswith(("tasks/main.yml", "tasks/main.yaml")))
    return sorted(name.rpartition("/")[0].rpartition("/")[0] or "." for name in tasks)


def _roles(project: _Project) -> Found:
    """The role that the folder is, or those in it where no playbook stands at its top."""
    folders = _role_folders(project)
    if "." in folders:
        above = _Project(project.root.absolute().parent, project.file_bytes)
        own = project.root.absolute().name
        yield own, ansible.role(own, above.read, above.document)
        return
    if any("/" not in name and _ansible_at(project, name) for name in project.names()):
        return  # they go with the playbooks that use them
    for folder in folders:
        try:
            with faults_of(folder):
                yield folder, ansible.role(folder, project.read, project.document)
        except EscherError as error:
            yield folder, error


def _unused_roles(kind: _Tool, project: _Project, used: set[str]) -> list[str]:
    """Roles beside playbooks that none of these uses."""
    if kind is not KINDS["ansible"] or not used:
        return []
    taken = tuple(used)
    return [
        f"{folder} (a role that no playbook uses)"
        for folder in _role_folders(project)
        if folder != "." and not any(path.startswith(f"shell/{folder}/") for path in taken)
    ]


def _is_of_roles(kind: _Tool, name: str) -> bool:
    """Whether a file of an Ansible project stands where no playbook does."""
    return kind is KINDS["ansible"] and not _NO_PLAYBOOKS.isdisjoint(PurePosixPath(name).parts[:-1])


def _ansible_at(project: _Project, name: str) -> bool:
    return name.endswith(_YAML) and any(
        ansible.is_playbook(project.document(content)) for content in project.read(name).values()
    )


def _azure(_project: _Project, name: str, content: bytes) -> list[Runbook]:
    if name.lower().endswith(".graphrunbook"):
        return [azure.runbook(name, content, {})]
    kind = "python" if name.lower().endswith(".py") else "powershell"
    said = _ask("scripts:describe", kind, content, name)
    return [azure.runbook(name, content, said)]


KINDS: Final = {
    "ssm": _Tool("SSM document", (".json", *_YAML), _ssm),
    "rundeck": _Tool("Rundeck job", (*_YAML, ".xml", ".json"), _rundeck),
    "stackstorm": _Tool("StackStorm action", (*_YAML, ".json"), _stackstorm),
    "ansible": _Tool("Ansible playbook or role", _YAML, _ansible),
    "azure-runbook": _Tool("Azure Automation runbook", (".ps1", ".py", ".graphrunbook"), _azure),
}
