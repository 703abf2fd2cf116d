"""SemVer 2.0.0 versions without build metadata: parsing, precedence, the next patch.

Source of the rules: https://semver.org/spec/v2.0.0.html and ``contract/playbook-files.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from semver import Version

from core.errors import InvalidPlaybook

MAX_LENGTH = 64  # a version is a folder's name


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version:
    """Parse ``text`` (``1.2.3`` or ``1.2.3-rc.1``); raise `InvalidPlaybook` for anything else."""
    remedy = "Use SemVer such as 1.0.0 or 2.1.0-rc.1, without build metadata."
    if len(text) > MAX_LENGTH:
        raise InvalidPlaybook(f"Version of {len(text)} characters is too long.", remedy)
    try:
        version = Version.parse(text)
    except (ValueError, TypeError) as error:
        raise InvalidPlaybook(f"Version {text!r} is not SemVer 2.0.0.", remedy) from error
    if version.build is not None or not text.isascii():
        raise InvalidPlaybook(f"Version {text!r} has build metadata.", remedy)
    return version


def latest(versions: Iterable[str]) -> str | None:
    """The highest version by SemVer precedence, or None of none."""
    return max(versions, key=parse_version, default=None)


def sorted_versions(versions: Iterable[str]) -> list[str]:
    """Versions from the lowest to the highest precedence."""
    return sorted(versions, key=parse_version)


def is_higher(a: str, b: str) -> bool:
    """Whether ``a`` has a higher precedence than ``b``."""
    return parse_version(a) > parse_version(b)


def next_patch(version: str, taken: Iterable[str] = ()) -> str:
    """The next free patch version after ``version`` (``1.0.0-rc.1`` gives ``1.0.0``)."""
    used = set(taken)
    candidate = parse_version(version).next_version("patch")
    while str(candidate) in used:
        candidate = candidate.bump_patch()
    return str(candidate)
