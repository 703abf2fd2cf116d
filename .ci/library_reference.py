"""Write the reference part of docs/library.md from the docstrings of the public package.

python .ci/library_reference.py           write it
python .ci/library_reference.py --check   exit 1 where it is not what the docstrings say
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

import escher_playbooks
from escher_playbooks import EscherError, PlaybookConfig, PlaybookService

PAGE = Path(__file__).resolve().parent.parent / "docs" / "library.md"
BEGIN = "<!-- from here on written by .ci/library_reference.py -->\n"
SECTIONS = {
    "Opening": ("open", "close"),
    "Keeping playbooks": (
        "create_playbook", "get_playbook", "update_playbook", "delete_playbook", "list_playbooks",
        "create", "update", "import_path", "export", "set_status", "decide", "declassify",
    ),
    "Publishing and syncing": (
        "publish_metadata", "sync_all_metadata", "start_background_sync", "request_publish",
        "publish_refs", "delete", "request_delete", "findings", "accept_findings",
        "resolve_conflict", "restore_from_trash", "finish_sync",
    ),
    "Scripts": (
        "resolve_script", "download_script", "cache_script", "evict_old_cache", "locate_script",
        "lease_script",
    ),
    "Searching": (
        "search_local_playbooks", "add_to_rag", "remove_from_rag", "index_refs", "index_pending",
    ),
    "The whole": ("verify", "status", "adopt", "bind"),
}  # fmt: skip


def main() -> int:
    """Write the page, or compare it; the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    head = text[: text.index(BEGIN) + len(BEGIN)]
    wanted = head + reference()
    if "--check" in sys.argv[1:]:
        if text != wanted:
            sys.stderr.write(f"{PAGE} is old: run python .ci/library_reference.py\n")
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


def reference() -> str:
    """All of it: methods by subject, settings, exceptions as a tree."""
    named = {name for names in SECTIONS.values() for name in names}
    public = {
        name
        for name, found in inspect.getmembers(PlaybookService)
        if not name.startswith("_") and (inspect.isfunction(found) or inspect.ismethod(found))
    }
    if named != public:
        sys.exit(f"SECTIONS and PlaybookService differ: {sorted(named ^ public)}")
    parts = ["\n## Methods of `PlaybookService`\n"]
    for title, names in SECTIONS.items():
        parts.append(f"\n### {title}\n")
        parts.extend(method(name) for name in names)
    parts.append("\n## `PlaybookConfig`\n\n| Setting | Type | Default |\n| --- | --- | --- |\n")
    parts.extend(settings())
    parts.append("\n## Exceptions\n\n")
    parts.extend(exceptions(EscherError, 0))
    return "".join(parts)


def method(name: str) -> str:
    """Heading, signature and docstring of one method."""
    found = getattr(PlaybookService, name)
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(found)))
    signature = signature.replace("(self, ", "(").replace("(self)", "()")
    return f"\n#### `{name}`\n\n```python\n{name}{signature}\n```\n\n{inspect.getdoc(found)}\n"


def settings() -> list[str]:
    """A row a setting; secrets and derived ones have no default to show."""
    rows = []
    for name, field in PlaybookConfig.model_fields.items():
        kind = getattr(field.annotation, "__name__", None)
        words = kind if kind and "[" not in str(field.annotation) else str(field.annotation)
        words = words.replace("typing.", "").replace("pathlib.", "").replace("|", "\\|")
        words = words.replace("pydantic.types.", "")
        default = "" if field.default in (PydanticUndefined, None) else f"`{field.default}`"
        rows.append(f"| `{name}` | {words} | {default} |\n")
    return rows


def exceptions(error: type[EscherError], depth: int) -> list[str]:
    """The tree below ``error``, each with the first paragraph of its docstring."""
    told = " ".join((error.__doc__ or error.title).split("\n\n")[0].split())
    lines = [f"{'  ' * depth}- `{error.__name__}`: {told}\n"]
    for below in sorted(error.__subclasses__(), key=lambda each: each.__name__):
        if below.__name__ in escher_playbooks.__all__:
            lines.extend(exceptions(below, depth + 1))
    return lines


if __name__ == "__main__":
    sys.exit(main())
