"""Makes an id from a playbook's name, in whatever script that is written.

::

    Stop idle RDS (dev)   stop-idle-rds-dev
    Größe prüfen          grosse-prufen
    启动 EC2 实例           qi-dong-ec2-shi-li
    🚀                    rocket

Two names may give one id: who takes a playbook in gives the second another (`core.playbooks.naming`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_CHARS = 100
MAX_NAME = 200
"""A longer name is refused: no time is spent on it."""
# ideographs are words of their own
_HAN = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_BETWEEN = re.compile(r"[^a-z0-9]+")


def id_from_name(name: str) -> str:
    """Return the id of a name: well-formed, and always the same."""
    from anyascii import anyascii

    spaced = _HAN.sub(r" \1 ", unicodedata.normalize("NFC", name[:MAX_NAME]))
    return _slug(anyascii(spaced)) or _unspoken(name)


def former_id(name: str) -> str:
    """Return the id that version 0.1.0 made of a name: what is no Latin letter was dropped."""
    return _slug(unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()) or (
        _unspoken(name)
    )


def with_suffix(playbook_id: str, suffix: str) -> str:
    """Return an id with ``-2`` or the like at its end, cut before it where it would be too long."""
    return playbook_id[: MAX_CHARS - len(suffix)].rstrip("-") + suffix


def same_name(one: str, other: str) -> bool:
    """Whether two names are one, but for blanks and Unicode form."""
    return plain_name(one) == plain_name(other)


def plain_name(name: str) -> str:
    """Return a name by which it is compared with others."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def _slug(text: str) -> str:
    return _BETWEEN.sub("-", text.lower()).strip("-")[:MAX_CHARS].strip("-")


def _unspoken(name: str) -> str:
    """The id of a name that has no sound in Latin letters."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"playbook-{digest[:12]}"
