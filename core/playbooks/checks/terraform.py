"""Terraform files (`.tf`, `.tfvars`), by python-hcl2's grammar.

It is the slow one: about 180 KB/s (9 ms for a usual file), so a deadline stands over it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from core.playbooks.checks.complaints import Complaint

if TYPE_CHECKING:
    from lark import Lark

DEADLINE_SECONDS = 8.0  # before the sandbox would end the reader itself
_TOKENS_BETWEEN_LOOKS = 256

_BUILD = threading.Lock()


def check(text: str) -> list[Complaint]:
    """What the HCL grammar says."""
    # lark's, and only when there is Terraform to check: importing and building takes 0.3-2.5 s
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

    try:
        finished = _parse(_parser(), text + "\n", time.monotonic() + DEADLINE_SECONDS)
    except UnexpectedToken as error:
        if error.token.type == "$END":
            return [Complaint(None, "unexpected end of file")]
        return [Complaint(error.line, f"unexpected {error.token.type}")]
    except UnexpectedCharacters as error:
        return [Complaint(error.line, "unexpected character")]
    except UnexpectedInput:
        return [Complaint(None, "unexpected end of file")]
    except (RecursionError, MemoryError):
        return [Complaint(None, "nested too deep to be parsed")]
    if not finished:
        return [Complaint(None, f"not checked: parsing took longer than {DEADLINE_SECONDS:.0f} s")]
    return []


def _parser() -> Lark:
    from hcl2.parser import parser

    with _BUILD:  # its own cache does not keep two threads from building it at once
        built: Lark = parser()
    return built


def _parse(parser: Lark, text: str, deadline: float) -> bool:
    """False when the deadline came first."""
    # token by token instead of `parser.parse`: only so can it be stopped
    interactive = parser.parse_interactive(text)
    last = None
    for count, token in enumerate(interactive.iter_parse()):
        last = token
        if count % _TOKENS_BETWEEN_LOOKS == 0 and time.monotonic() > deadline:
            return False
    interactive.feed_eof(last)  # type: ignore[no-untyped-call]  # lark left its hint out
    return True
