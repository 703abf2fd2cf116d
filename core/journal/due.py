"""When what failed is tried again, by a clock that may have been set since."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_

LONGEST_WAIT_SECONDS = 3600.0  # nothing is put off for longer
_SLACK_SECONDS = 60


def is_due(next_attempt_at: int | None, now: float) -> bool:
    """Whether the time has come; one further off than any wait is of a clock that was wrong."""
    if next_attempt_at is None:
        return True
    return not now < next_attempt_at <= _latest(now)


def due(column: ColumnElement[Any], now: float) -> ColumnElement[bool]:
    """`is_due` of a column."""
    return or_(column.is_(None), column <= now, column > _latest(now))


def _latest(now: float) -> float:
    return now + LONGEST_WAIT_SECONDS + _SLACK_SECONDS
