"""The three forms of a version's files: clear, on disk, published; and what is sealed in them.

========================  ==========================  =====================  ====================
file                      clear (drafts, `read`)      on disk                published (digests)
========================  ==========================  =====================  ====================
any, ``sensitive: true``  its bytes                   envelope               its bytes (stay home)
``parameters.json``       with all defaults           sensitive defaults     without them
                                                      in envelopes
any other                 its bytes                   the same               the same
========================  ==========================  =====================  ====================

On disk the default of a parameter with ``sensitive: true`` is ``{"$encrypted": "<base64 envelope>"}``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from core.bounded_json import read_stored
from core.encryption import Envelope, Place, is_sealed
from core.errors import EscherError, IntegrityError, InvalidPlaybook
from core.files import fsync_dir, json_bytes, make_private_dir, read_bytes, remove_tree, write_tree
from core.journal import VersionRecord
from core.models import PARAMETERS_FILE, Ref, check_id, parse_json_object, parse_version

SEALED_KEY = "$encrypted"
MAX_NAME = 128
_SNAKE_CASE = re.compile(r"[a-z][a-z0-9_]*")
log = logging.getLogger(__name__)
_SHAPE = 'Use {"parameters": [{"name": …, "type": …, …}, …]}.'


def parse_parameters(content: bytes) -> list[dict[str, Any]]:
    """Return the parameters, checked against the contract; unknown keys are nobody's business."""
    return _listed(_document(content))


def _document(content: bytes) -> dict[str, Any]:
    # of a version that is kept, maybe from before the limits; `check_clear` stands at the door
    return parse_json_object(content, PARAMETERS_FILE, stored=True)


def _listed(document: dict[str, Any]) -> list[dict[str, Any]]:
    listed = document.get("parameters")
    if not isinstance(listed, list):
        raise InvalidPlaybook(f"{PARAMETERS_FILE} has no list `parameters`.", _SHAPE)
    for number, parameter in enumerate(listed, 1):
        where = f"{PARAMETERS_FILE}, parameter {number}"
        if not isinstance(parameter, dict):
            raise InvalidPlaybook(f"{where} is not an object.", _SHAPE)
        name = parameter.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidPlaybook(
                f"{where} has no proper name.", f"Use 1-{MAX_NAME} printable characters."
            )
        for flag in ("sensitive", "required"):
            if not isinstance(parameter.get(flag), bool | None):
                raise InvalidPlaybook(f"{where} ({name}): {flag} is no boolean.", "Use true/false.")
    return listed


def check_clear(content: bytes) -> None:
    """Refuse a draft whose defaults are sealed already; they open in their old place only."""
    document = parse_json_object(content, PARAMETERS_FILE)
    for parameter in _listed(document):
        if _is_sealed(parameter.get("default")):
            raise InvalidPlaybook(
                f"{PARAMETERS_FILE}: the default of {parameter['name']} is encrypted for another"
                " place.",
                "Give it in clear (`escher-playbooks export` writes a clear copy), or leave it out.",
            )
    if has_sealed_defaults(content):
        try:
            json_bytes(document)
        except ValueError as error:  # 1e999, a lone surrogate: it has no JSON form
            raise InvalidPlaybook(
                f"{PARAMETERS_FILE} can't be written again: {error}.", "Mend that value."
            ) from error


def parameter_warnings(content: bytes) -> list[str]:
    """Name the parameters whose names are odd but allowed."""
    names = [str(parameter["name"]) for parameter in parse_parameters(content)]
    odd = [name for name in names if not _SNAKE_CASE.fullmatch(name)]
    twice = sorted({name for name in names if names.count(name) > 1})
    found = []
    if odd:
        found.append(f"{PARAMETERS_FILE}: not in snake_case: {', '.join(odd[:5])}{_more(odd)}")
    if twice:
        found.append(f"{PARAMETERS_FILE}: named twice: {', '.join(twice[:5])}{_more(twice)}")
    return found


def has_sealed_defaults(content: bytes) -> bool:
    """Whether some sensitive parameter has a default, in whatever form."""
    return any(map(_is_secret, parse_parameters(content)))


def has_clear_defaults(content: bytes) -> bool:
    """Whether some sensitive parameter's default lies there in clear."""
    return any(_is_secret(p) and not _is_sealed(p["default"]) for p in parse_parameters(content))


def seal_defaults(content: bytes, seal: Callable[[str, bytes], str]) -> bytes:
    """Turn clear form into disk form; ``seal(parameter name, JSON of its default)`` gives base64."""

    def sealed(parameter: dict[str, Any]) -> None:
        clear = json.dumps(parameter["default"]).encode()
        parameter["default"] = {SEALED_KEY: seal(parameter["name"], clear)}

    return _each_secret(content, sealed)


def open_defaults(content: bytes, open_: Callable[[str, str], bytes]) -> bytes:
    """Turn disk form into clear form; a default that was edited in clear stays as it is.

    What was sealed stays sensitive, whatever an edit of the flag says: else the next publication
    would carry it in clear.
    """

    def opened(parameter: dict[str, Any]) -> None:
        if not _is_sealed(parameter["default"]):
            return
        text = parameter["default"][SEALED_KEY]
        if not isinstance(text, str):
            raise IntegrityError(
                f"{PARAMETERS_FILE}: the default of {parameter['name']} is no envelope.",
                "Restore this version from a backup, or update it with the right default.",
            )
        parameter["default"] = read_stored(open_(parameter["name"], text))
        parameter["sensitive"] = True

    return _each_secret(content, opened)


def with_defaults_of(published: bytes, own: bytes) -> bytes:
    """Turn published form into clear form, with the defaults of sensitive parameters that ``own`` has."""
    secret = {p["name"]: p["default"] for p in parse_parameters(own) if _is_secret(p)}
    document = _document(published)
    lacking = [
        p
        for p in _listed(document)
        if p.get("sensitive") is True and "default" not in p and p["name"] in secret
    ]
    for parameter in lacking:
        parameter["default"] = secret[parameter["name"]]
    return json_bytes(document) if lacking else published


def unflagged_defaults(content: bytes) -> list[str]:
    """Names of parameters whose sealed default has lost its flag in a disk form: tampering."""
    return [
        p["name"]
        for p in parse_parameters(content)
        if _is_sealed(p.get("default")) and p.get("sensitive") is not True
    ]


def sealed_defaults(content: bytes) -> list[str]:
    """Return the base64 envelopes in a disk form."""
    found = [
        p["default"][SEALED_KEY] for p in parse_parameters(content) if _is_sealed(p.get("default"))
    ]
    return [text for text in found if isinstance(text, str)]


def without_defaults(content: bytes) -> bytes:
    """Turn disk or clear form into published form; unchanged bytes where nothing is left out."""
    return _each_secret(content, lambda parameter: parameter.pop("default"))


def _each_secret(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = _document(content)
    secret = [parameter for parameter in _listed(document) if _is_secret(parameter)]
    if not secret:
        return content
    for parameter in secret:
        change(parameter)
    return json_bytes(document)


def _is_secret(parameter: dict[str, Any]) -> bool:
    # sealed counts even where somebody took the flag away: it is never published
    return "default" in parameter and (
        parameter.get("sensitive") is True or _is_sealed(parameter["default"])
    )


def _is_sealed(default: object) -> bool:
    return isinstance(default, dict) and set(default) == {SEALED_KEY}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""  # noqa: PLR2004 - five are told


# -- whole versions ---------------------------------------------------------------------------


def to_disk(
    files: Mapping[str, bytes], ref: Ref, generation: int, envelope: Envelope, *, sensitive: bool
) -> dict[str, bytes]:
    """Turn clear form into disk form under the place's new ``generation``."""
    if sensitive:
        return {
            path: envelope.seal(content, Place(*ref, path, generation))
            for path, content in files.items()
        }
    disk = dict(files)
    if PARAMETERS_FILE in disk:
        disk[PARAMETERS_FILE] = seal_defaults(
            disk[PARAMETERS_FILE],
            lambda name, clear: envelope.seal_text(clear, _default_place(ref, name, generation)),
        )
    return disk


def to_clear(
    disk: Mapping[str, bytes],
    ref: Ref,
    generation: int,
    envelope: Envelope,
    *,
    sensitive: bool,
    edited: bool = False,
) -> dict[str, bytes]:
    """Turn disk form into clear form; raises `IntegrityError` or `WrongKey` for what does not open.

    ``edited``: a file that lies there in clear was put there by the user and is taken as it is.
    """
    clear = {}
    for path, content in disk.items():
        if sensitive and (is_sealed(content) or not edited):
            clear[path] = envelope.open(content, Place(*ref, path, generation))
        elif path == PARAMETERS_FILE and not sensitive:
            clear[path] = open_defaults(
                content,
                lambda name, text: envelope.open_text(text, _default_place(ref, name, generation)),
            )
        else:
            clear[path] = content
    return clear


def published_form(clear_or_disk: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what digests are made of and what is sent: no default of a sensitive parameter."""
    files = dict(clear_or_disk)
    if PARAMETERS_FILE in files:
        files[PARAMETERS_FILE] = without_defaults(files[PARAMETERS_FILE])
    return files


def _default_place(ref: Ref, name: str, generation: int) -> Place:
    return Place(*ref, f"{PARAMETERS_FILE}#{name}", generation)


class SealedCopies:
    """Keeps the last sealed content of every sensitive version beside its folder.

    ::

        <home>/sealed/<playbook_id>-v<semver>/g<generation>/…   envelopes, as they stand in the folder

    An editor that saves clear text over an envelope has destroyed what was in it, and no server has
    a copy: these go on being answered then. Nothing here is in clear. Who writes holds the store's lock.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, record: VersionRecord) -> bool:
        """Whether the content of this generation is kept."""
        return self._folder(record).is_dir()

    def keep(self, record: VersionRecord, folder: Path, paths: Iterable[str]) -> bool:
        """Copy the envelopes of ``folder``, durably, and drop older ones; False when that failed.

        A failure costs no content now: the next sync tries again.
        """
        target = self._folder(record)
        staged = target.with_name(f".{target.name}.tmp")
        try:
            files = {path: read_bytes(folder / path) for path in paths}
            if target.is_dir() or not all(map(is_sealed, files.values())):
                return target.is_dir()
            remove_tree(staged)
            make_private_dir(target.parent)
            write_tree(staged, files)
            staged.rename(target)
            fsync_dir(target.parent)
            for other in target.parent.iterdir():
                if other != target:
                    remove_tree(other)
        except (EscherError, OSError) as error:
            log.warning("the sealed content of %s is not kept a second time: %s", record.ref, error)
            return False
        return True

    def read(self, record: VersionRecord, path: str) -> bytes | None:
        """The envelope of a file; None where there is no copy."""
        file = self._folder(record) / path
        return read_bytes(file) if file.is_file() else None

    def forget(self, refs: Iterable[Ref]) -> None:
        """Remove the copies of versions that are gone, or not sensitive any more."""
        for ref in refs:
            if (folder := self._version(ref)).is_dir():
                remove_tree(folder)

    def _folder(self, record: VersionRecord) -> Path:
        return self._version(record.ref) / f"g{record.generation}"

    def _version(self, ref: Ref) -> Path:
        check_id(ref.playbook_id)
        parse_version(ref.version)
        return self._root / f"{ref.playbook_id}-v{ref.version}"
