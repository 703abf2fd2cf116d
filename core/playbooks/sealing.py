"""The three forms of a version's files: clear, on disk, published.

========================  ==========================  =====================  ====================
file                      clear (drafts, `read`)      on disk                published (digests)
========================  ==========================  =====================  ====================
any, ``sensitive: true``  its bytes                   envelope               its bytes (stay home)
``parameters.json``       with all defaults           sensitive defaults     without them
                                                      in envelopes
any other                 its bytes                   the same               the same
========================  ==========================  =====================  ====================
"""

from __future__ import annotations

from collections.abc import Mapping

from core.encryption import Envelope, Place, is_sealed
from core.models import PARAMETERS_FILE, Ref
from core.playbooks import parameters


def to_disk(
    files: Mapping[str, bytes], ref: Ref, generation: int, envelope: Envelope, *, sensitive: bool
) -> dict[str, bytes]:
    """Clear form to disk form under the place's new ``generation``."""
    if sensitive:
        return {
            path: envelope.seal(content, Place(*ref, path, generation))
            for path, content in files.items()
        }
    disk = dict(files)
    if PARAMETERS_FILE in disk:
        disk[PARAMETERS_FILE] = parameters.seal_defaults(
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
    """Disk form to clear form; `IntegrityError` or `WrongKey` for what does not open here.

    ``edited``: a file that lies there in clear was put there by the user and is taken as it is.
    """
    clear = {}
    for path, content in disk.items():
        if sensitive and (is_sealed(content) or not edited):
            clear[path] = envelope.open(content, Place(*ref, path, generation))
        elif path == PARAMETERS_FILE and not sensitive:
            clear[path] = parameters.open_defaults(
                content,
                lambda name, text: envelope.open_text(text, _default_place(ref, name, generation)),
            )
        else:
            clear[path] = content
    return clear


def published_form(clear_or_disk: Mapping[str, bytes]) -> dict[str, bytes]:
    """What digests are made of and what is sent: no default of a sensitive parameter."""
    files = dict(clear_or_disk)
    if PARAMETERS_FILE in files:
        files[PARAMETERS_FILE] = parameters.without_defaults(files[PARAMETERS_FILE])
    return files


def _default_place(ref: Ref, name: str, generation: int) -> Place:
    return Place(*ref, f"{PARAMETERS_FILE}#{name}", generation)
