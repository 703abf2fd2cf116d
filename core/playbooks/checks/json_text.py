"""Strict JSON: ARM templates, `.tf.json`, and CloudFormation written as JSON."""

from __future__ import annotations

import json

from core.playbooks.checks.complaints import Complaint


class _NotJson(ValueError):
    """NaN, Infinity and -Infinity, which Python's parser takes and JSON does not have."""


def _refuse_constant(name: str) -> None:
    raise _NotJson(name)


def check(text: str) -> list[Complaint]:
    """What the JSON parser says; a document must be an object."""
    try:
        # numbers stay text: an integer of a million digits takes minutes to convert
        parsed = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # column, too, for machine-written JSON may be one single line
        return [Complaint(error.lineno, f"{error.msg.removesuffix(' at')}: column {error.colno}")]
    except _NotJson as error:
        return [Complaint(None, f"{error} is not JSON")]
    except (RecursionError, MemoryError):
        return [Complaint(None, "nested too deep to be parsed")]
    if not isinstance(parsed, dict):
        return [Complaint(None, "the document is not a JSON object")]
    return []
