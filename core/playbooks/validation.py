"""The gate through which every playbook comes in: limits, contract rules, defaults, warnings.

Rules are those of ``contract/playbook-files.md``; docs/file-structure.md lists them for people.
Sizes are looked at before anything is read (`Limits`).
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from core.bounded_json import BadJson, check_depth
from core.content import is_part, names_left_out
from core.encryption import is_sealed
from core.errors import InvalidPlaybook, Refused, UnsafePath
from core.files import check_distinct, check_relative_path, json_bytes
from core.limits import FILE_BYTES, FILES, METADATA_BYTES, MIB, VERSION_BYTES
from core.models import (
    FORMATS,
    METADATA_FILE,
    PARAMETERS_FILE,
    PLAN_FILE,
    RESERVED_PREFIX,
    PlaybookDraft,
    PlaybookMetadata,
    Status,
    Strategy,
    canonical_json,
    check_id,
    parse_json_object,
    parse_metadata,
)
from core.playbooks.decisions import Decided, split_requests
from core.playbooks.entry_points import FIELD, entry_warnings, fill_in, without_filled
from core.playbooks.ids_from_names import id_from_name
from core.playbooks.sealing import check_clear, parameter_warnings
from core.playbooks.unix_times import read_time
from core.settings import Settings

MAX_DEPTH = 6  # folders between the one that is given and a playbook's
FIRST_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken in: bytes of a file, bytes of a whole version, files of a version.

    Those of `core.limits`, but for a file's, which the user may set.
    """

    file_bytes: int = FILE_BYTES
    total_bytes: int = VERSION_BYTES
    files: int = FILES

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """From ``max_script_size_mb``."""
        return cls(int(settings.max_script_size_mb * MIB))

    def check(self, sizes: Iterable[tuple[str, int]], where: str = "") -> None:
        """Refuse ``(path, bytes)`` of one version that are too many or too large."""
        inside = f" in {where}" if where else ""
        total = count = 0
        for path, size in sizes:
            is_metadata = path == METADATA_FILE
            cap = METADATA_BYTES if is_metadata else self.file_bytes
            if size > cap:
                raise InvalidPlaybook(
                    f"{path}{inside} has {_mib(size)} MiB; at most {_mib(cap)} are taken.",
                    "Make it smaller, or fetch large data at run time."
                    if is_metadata
                    else "Raise max_script_size_mb (the server has a limit of its own), or fetch"
                    " large data at run time.",
                )
            total, count = total + size, count + (not is_metadata)
            if total > self.total_bytes:
                raise InvalidPlaybook(
                    f"The files{inside} have more than {_mib(self.total_bytes)} MiB together.",
                    "Split the playbook, or fetch large data at run time.",
                )
            if count > self.files:
                raise InvalidPlaybook(
                    f"More than {self.files} files{inside}.", "Split the playbook."
                )


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}".removesuffix(".0")


def normalise(
    draft: PlaybookDraft,
    *,
    now: int,
    playbook_id: str | None = None,
    version: str | None = None,
    strategy: Strategy | None = None,
    author: str | None = None,
    status: Status | None = None,
    limits: Limits | None = None,
) -> PlaybookDraft:
    """Check a draft and fill in what is absent; arguments go before the draft's own fields.

    Entry points that are absent are filled in by the rule, and named in ``filled``.
    The draft's strategy, status and run counts are its file's requests (see ``decisions``);
    ``strategy`` and ``status`` are what holds. ``now`` is Unix seconds. Raises `InvalidPlaybook`
    (or `UnsafePath`) that names the file and the remedy, `Refused` for what only the Escher Library or nobody may do.
    """
    files = _without_marks(draft.files)
    _check_files(files, limits or Limits())
    filled = _filled(draft.metadata, playbook_id, version, author, now)
    metadata, asked = split_requests(filled, Decided(strategy or Strategy.LOCAL_ONLY, status))
    parsed = _parse(metadata)
    check_id(parsed.playbook_id)  # pydantic's own pattern, and ours
    if parsed.playbook_id.startswith(RESERVED_PREFIX):
        raise Refused(
            f"playbook_id {parsed.playbook_id!r}: ids beginning with {RESERVED_PREFIX} are the"
            " Escher Library's.",
            "Give another playbook_id (--id).",
        )
    if strategy is Strategy.DEFAULT:
        raise Refused(
            "storage_strategy using_default is for playbooks of the Escher Library.",
            "Use local_only, uploaded_for_review or uploaded_trusted.",
        )
    if parsed.sensitive and parsed.storage_strategy.is_uploaded:
        raise Refused(
            f"{parsed.playbook_id} is sensitive and can't be uploaded.",
            "Keep it private (local_only); only `declassify` makes it not sensitive.",
        )
    given = without_filled(parsed.as_json(), draft.filled).get(FIELD)
    entries = fill_in(given, files)
    held = {name: value for name, value in parsed.as_json().items() if name != FIELD}
    if entries.paths:
        held[FIELD] = entries.paths
    asked = {**draft.asked, **asked}
    return replace(draft, metadata=held, files=files, asked=asked, filled=entries.filled)


def draft_warnings(draft: PlaybookDraft) -> list[str]:
    """Say what is odd about a normalised draft, but allowed; scripts are looked at by ``checks``."""
    found = []
    if left_out := names_left_out(draft.ignored):
        found.append(left_out)
    if draft.renamed:
        more = f" and {len(draft.renamed) - 5} more" if len(draft.renamed) > 5 else ""  # noqa: PLR2004
        names = ", ".join(sorted(draft.renamed)[:5])
        found.append(f"file names are stored in Unicode NFC form now: {names}{more}")
    if not any(path.partition("/")[0] in FORMATS for path in draft.files):
        found.append("It holds no script")
    found.extend(entry_warnings(draft))
    if PARAMETERS_FILE in draft.files:
        found.extend(parameter_warnings(draft.files[PARAMETERS_FILE]))
    return found


def _filled(
    raw: Mapping[str, Any],
    playbook_id: str | None,
    version: str | None,
    author: str | None,
    now: int,
) -> dict[str, Any]:
    given = {
        "playbook_id": playbook_id,
        "version": version,
        "author": author,
    }
    metadata = dict(raw) | {key: value for key, value in given.items() if value is not None}
    if metadata.get("playbook_id") is None and isinstance(metadata.get("name"), str):
        metadata["playbook_id"] = id_from_name(metadata["name"])
    for key in ("created_at", "updated_at"):
        if metadata.get(key) is not None:
            metadata[key] = read_time(key, metadata[key])
    defaults = {
        "version": FIRST_VERSION,
        "author": "user_custom",
        "resource_types": [],
        "created_at": now,
        "updated_at": now,
    }
    for key, value in defaults.items():
        if metadata.get(key) is None:
            metadata[key] = value
    if isinstance(entries := metadata.get(FIELD), dict):
        metadata[FIELD] = {name: path for name, path in entries.items() if path is not None}
    return metadata


def _parse(metadata: dict[str, Any]) -> PlaybookMetadata:
    try:
        check_depth(metadata)
        parsed = parse_metadata(metadata)
        canonical_json(metadata)  # pydantic would turn 1e999 into null
        size = len(json_bytes(parsed.as_json()))
    except BadJson as error:
        raise InvalidPlaybook(f"{METADATA_FILE} {error.why}.", "Make it flatter.") from error
    except InvalidPlaybook as error:
        if error.detail.startswith(METADATA_FILE):
            raise
        raise InvalidPlaybook(f"{METADATA_FILE}: {error.detail}", error.remedy) from error
    if size > METADATA_BYTES:
        raise InvalidPlaybook(f"{METADATA_FILE} has more than 1 MiB.", "Make it smaller.")
    return parsed


def check_paths(paths: Iterable[str]) -> None:
    """Refuse paths that are unsafe, no part of a playbook, or in each other's way."""
    files, folders = list(paths), set[str]()
    for path in files:
        check_relative_path(path)
        if path == METADATA_FILE or not is_part(path):
            raise InvalidPlaybook(
                f"{path!r} is no part of a playbook.",
                f"Scripts stand in {', '.join(f'{name}/' for name in FORMATS)};"
                f" beside them {PARAMETERS_FILE} and {PLAN_FILE}.",
            )
        folders.update(accumulate(path.split("/")[:-1], lambda a, b: f"{a}/{b}"))
    check_distinct([*files, *folders])
    for path in sorted(folders & set(files)):
        raise UnsafePath(f"{path!r} is a file and a folder at once.", "Rename one of them.")


def _without_marks(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, those of ours without a byte order mark."""
    return {
        path: content.removeprefix(BOM_UTF8) if path in {PARAMETERS_FILE, PLAN_FILE} else content
        for path, content in files.items()
    }


def _check_files(files: Mapping[str, bytes], limits: Limits) -> None:
    check_paths(files)
    limits.check((path, len(content)) for path, content in files.items())
    for path, content in files.items():
        if is_sealed(content):
            raise InvalidPlaybook(
                f"{path} is encrypted for another place.",
                "Give it in clear; `escher-playbooks export` writes a clear copy.",
            )
    if PARAMETERS_FILE in files:
        check_clear(files[PARAMETERS_FILE])
    if PLAN_FILE in files:
        parse_json_object(files[PLAN_FILE], PLAN_FILE)
