"""Reads the times of metadata that comes in: Unix seconds of 2000 to 2100, or ISO 8601 text.

Milliseconds, and other numbers that are no seconds, are refused by name: a time that is off by a
factor of a thousand sorts and expires everything wrong, and nobody sees why.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from core.errors import InvalidPlaybook
from core.models import METADATA_FILE

FIRST = 946_684_800
"""2000-01-01T00:00:00Z."""
LAST = 4_102_444_800
"""2100-01-01T00:00:00Z."""
_REMEDY = (
    "Use Unix seconds such as 1767225600, ISO 8601 such as 2026-01-01T00:00:00Z, or leave it out."
)


def read_time(field: str, value: Any) -> int:
    """Return ``value`` as Unix seconds; raises `InvalidPlaybook` for what is no time of 2000 to 2100.

    ISO text without an offset is UTC; a fraction of a second is dropped.
    """
    if isinstance(value, str):
        seconds = _iso_seconds(field, value)
    elif isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidPlaybook(f"{METADATA_FILE}: {field} {_shown(value)} is no time.", _REMEDY)
    else:
        seconds = int(value)
    if is_time(seconds):
        return seconds
    if is_time(seconds // 1000):
        raise InvalidPlaybook(
            f"{METADATA_FILE}: {field} {_shown(value)} is in milliseconds.",
            f"Use Unix seconds: {seconds // 1000}.",
        )
    raise InvalidPlaybook(
        f"{METADATA_FILE}: {field} {_shown(value)} is not between the years 2000 and 2100.", _REMEDY
    )


def is_time(value: object) -> bool:
    """Whether ``value`` is Unix seconds of the years 2000 to 2100."""
    return type(value) is int and FIRST <= value <= LAST


def kept_time(value: object, now: int) -> int:
    """Return a time that was stored before the rule as one that it takes; ``now`` where that fails."""
    if not isinstance(value, int) or isinstance(value, bool):
        return now
    return next((time for time in (value, value // 1000) if is_time(time)), now)


def _iso_seconds(field: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.strip().upper())  # RFC 3339 allows t and z
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise InvalidPlaybook(
            f"{METADATA_FILE}: {field} {_shown(text)} is no ISO 8601 time.", _REMEDY
        ) from None


def _shown(value: Any) -> str:
    return repr(value)[:60]
