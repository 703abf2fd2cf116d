"""Judges Terraform's language by HashiCorp's own parser (HCL 2, as pygohcl); nothing is evaluated.

The parser is written in Go, whose runtime reserves more than 1 GiB of addresses and hardly uses them.
The sandbox keeps room for that (`core.sandbox.child`), which is asked for here.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import Any

from core.playbooks.checks.heredocs import swallowed
from core.playbooks.checks.words import Complaint, without_script_text

# ``invalid HCL: tmp.hcl:2,5-8: Summary; detail, tmp.hcl:…``; a detail may quote the script
_SAID = re.compile(r"invalid HCL: tmp\.hcl:(?P<line>\d+),\d+-(?:\d+,)?\d+: (?P<said>[^;]*);")
_IN_WORDS = {
    "Unclosed configuration block": "a block that is never closed",
    "Unterminated template string": "a string or heredoc that is never closed",
    "Invalid multi-line string": "a string that is not closed on its line",
    "Attribute redefined": "an argument that was set before in this block",
    "Invalid expression": "not an expression: a wrong operator, or something is missing before it",
    "Missing newline after argument": "the argument does not end with its line: a wrong operator?",
    "Argument or block definition required": "neither an argument (name = value) nor a block begins here",
    "Invalid argument name": "not the name of an argument: since Terraform 0.12 they are not quoted",
}


def terraform(text: str) -> list[Complaint]:
    """What the parser says first; what follows mostly comes of it."""
    pygohcl = _library()
    try:
        pygohcl.loadb(text.encode())
    except pygohcl.HCLParseError as error:
        return [_complaint(str(error))]
    except pygohcl.HCLInternalError as error:
        # it parsed, and only its form in JSON could not be made
        if "panic" in str(error):
            return [Complaint(None, "not checked: its parser failed")]
    except RecursionError:
        pass  # likewise
    return swallowed(text.encode(), of_hcl=True)


@lru_cache(maxsize=1)
def _library() -> Any:
    import resource

    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    import pygohcl

    return pygohcl


def _complaint(error: str) -> Complaint:
    found = _SAID.match(error)
    if found is None:
        return Complaint(None, "Terraform's parser refuses it")
    said = found["said"]
    return Complaint(int(found["line"]), _IN_WORDS.get(said) or without_script_text(said))
