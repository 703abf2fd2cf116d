"""Finds a here-document in which another begins with the same marker: its own end was forgotten.

Its reader takes the second one's end for the first one's, so the script parses, and what stood between
them is text. Used for shells and for HCL, whose here-documents differ in how they begin and end.
"""

from __future__ import annotations

import re

from core.playbooks.checks.words import Complaint

# ``<<MARK`` as the last word of a command, or before what goes on with it
_OF_SHELL = re.compile(
    rb"(?<!<)<<(-?)[ \t]*(?:\\|(['\"])?)([A-Za-z_][\w.-]*)(?(2)\2)(?=[\s;|&)<>]|$)"
)
_OF_HCL = re.compile(rb"<<(-?)()([^\W\d][\w-]*)$")


def swallowed(script: bytes, *, of_hcl: bool) -> list[Complaint]:
    """A complaint about the first such here-document, or none; takes one pass."""
    if b"<<" not in script:
        return []
    opens, comments = (_OF_HCL, (b"#", b"//")) if of_hcl else (_OF_SHELL, (b"#",))
    marker, dash, began = b"", b"", 0
    inside: list[Complaint] = []
    for number, whole in enumerate(script.split(b"\n"), start=1):
        line = whole.rstrip(b"\r")
        if marker:
            own = line.strip() if of_hcl else line.lstrip(b"\t") if dash else line
            if own == marker:
                if inside:
                    return inside
                marker = b""
            elif not inside and any(found[3] == marker for found in opens.finditer(line)):
                text = f"a here-document that runs on into the next one, at line {number}"
                inside = [Complaint(began, f"{text}: its marker is missing")]
        elif not line.lstrip().startswith(comments) and (found := opens.search(line)):
            dash, marker, began, inside = found[1], found[3], number, []
    return []
