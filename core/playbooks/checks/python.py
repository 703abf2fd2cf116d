"""Python programs, by `ast.parse`: nothing is compiled or run."""

from __future__ import annotations

import ast
import warnings

from core.playbooks.checks.complaints import Complaint, without_script_text


def check(content: bytes) -> list[Complaint]:
    """What Python says of a program's syntax.

    Takes the bytes, for a `# coding:` line may choose their encoding.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(content)
    except SyntaxError as error:
        said = error.msg or "invalid syntax"
        if "encoding" in said:
            # these name the encoding that the script asked for
            said = "an unknown or wrong source encoding"
        return [Complaint(error.lineno, without_script_text(said))]
    except (RecursionError, MemoryError):
        return [Complaint(None, "nested too deep to be parsed")]
    except (ValueError, OverflowError) as error:
        return [Complaint(None, f"Python refuses it ({type(error).__name__})")]
    return []
