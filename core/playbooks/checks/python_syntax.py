"""Judges Python by ``ast.parse``: nothing is compiled or run.

What this Python refuses may be newer than it. Then tree-sitter's grammar, which reads all versions,
finds what is newer; that is written in older syntax, line for line, and ``ast`` judges the rest.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from core.playbooks.checks.words import Complaint, without_script_text

if TYPE_CHECKING:
    from tree_sitter import Node

RUNNING = sys.version_info[:2]
_IN_COMPREHENSION = re.compile(r"unpacking cannot be used in (?:dict )?comprehension")
_CLAUSE = re.compile(r"\s*(else|elif|except|finally)\b")
_GENERIC = re.compile(
    rb"(?:^|(?<=[:;]))[ \t]*(?:(?P<alias>type)[ \t]+\w+|(?:async[ \t]+)?(?:def|class)[ \t]+\w+)[ \t]*(?P<open>\[)?",
    re.MULTILINE,
)
_BRACKET = re.compile(rb"[\[\]]")
_MOST_OF_A_LIST = 4096
_ALIAS_VALUE = re.compile(rb"[ \t\\\n]*=(?!=)")
_PARENTHESIS = re.compile(rb"[ \t]*\(")
_LAZY = re.compile(rb"^([ \t]*)lazy[ \t]+(?=(?:import|from)\b)", re.MULTILINE)


# Where none of these stands nothing is newer, and the grammar need not be asked.
_MAY_BE_NEWER = re.compile(
    rb"^[ \t]*lazy[ \t]+\w|\btype[ \t]+\w|\b(?:def|class)[ \t]+\w+[ \t]*\[|\b[rR]?[fFtT][rR]?['\"]"
    rb"|\bexcept\b[^:\n]*,",
    re.MULTILINE,
)


class _Newer(NamedTuple):
    """A piece of syntax of a later version, and older text that may stand in its place."""

    start: int
    end: int
    text: bytes
    version: tuple[int, int]
    what: str


def python(content: bytes) -> list[Complaint]:
    """What is wrong with a program; takes its bytes, for a ``# coding:`` line may choose their encoding."""
    refused = _refused(content)
    if refused is None or refused.line is None:
        return [] if refused is None else [refused]
    if newer := _newer(content):
        rest = _refused(_older(content, newer))
        if rest is not None and not _IN_COMPREHENSION.search(rest.message):
            return [rest]
        return [_not_checked(content, newer[0])]
    if _IN_COMPREHENSION.search(refused.message) and RUNNING < (3, 15):
        piece = _Newer(0, 0, b"", (3, 15), "unpacking in a comprehension")
        return [_not_checked(content, piece)._replace(line=refused.line)]
    return [refused]


def _refused(content: bytes) -> Complaint | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(content)
    except SyntaxError as error:
        said = error.msg or "invalid syntax"
        if "unicodeescape" in said:
            said = "an escape in a string that Unicode does not know"
        elif "encoding" in said or "codec can't decode" in said:
            # these name the encoding that the script asked for
            said = "an unknown or wrong source encoding"
        elif said.startswith("Missing parentheses in call to"):
            said = f"a statement of Python 2: {said.split('. Did', 1)[0]}"
        elif said == "invalid syntax" and (word := _CLAUSE.match(error.text or "")):
            said = f"invalid syntax: `{word[1]}` without its statement?"
        return Complaint(error.lineno, without_script_text(said))
    except (ValueError, OverflowError) as error:
        return Complaint(None, f"Python refuses it ({type(error).__name__})")
    return None


def _not_checked(content: bytes, first: _Newer) -> Complaint:
    needs, runs = (".".join(map(str, version)) for version in (first.version, RUNNING))
    said = f"not checked: {first.what} need Python {needs}, and this service runs on {runs}"
    if first.what.startswith("unpacking"):
        said = said.replace(" need ", " needs ")
    return Complaint(content.count(b"\n", 0, first.start) + 1, said)


def _newer(content: bytes) -> list[_Newer]:
    """What is newer than this Python, in the order of the text and none inside of another."""
    if not _MAY_BE_NEWER.search(content):
        return []
    import tree_sitter
    import tree_sitter_python

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_python.language()))
    found = [
        _Newer(match.start(), match.end(), match[1], (3, 15), "lazy imports")
        for match in _LAZY.finditer(content)
    ]
    found += _generics(content)
    pending = [parser.parse(content).root_node]
    while pending:
        node = pending.pop()
        pieces = list(_pieces(node, content))
        found += pieces
        if not any(
            piece.start == node.start_byte and piece.end == node.end_byte for piece in pieces
        ):
            pending += node.children
    newer = sorted(piece for piece in found if piece.version > RUNNING)
    kept: list[_Newer] = []
    for piece in newer:
        if not kept or piece.start >= kept[-1].end:
            kept.append(piece)
    return kept


def _pieces(node: Node, content: bytes) -> Iterator[_Newer]:
    start, end = node.start_byte, node.end_byte
    text = content[start:end]
    if node.type == "string":
        yield from _strings(node, text)
    elif node.type == "except_clause":
        yield from _except(node, content)


def _generics(content: bytes) -> Iterator[_Newer]:
    """Type parameters and aliases, by their brackets: the grammar knows no defaults in them."""
    for match in _GENERIC.finditer(content):
        closed = _closing(content, match.end()) if match["open"] else match.end()
        if closed is None:
            continue
        inside = content[match.end() : closed]
        lines = inside.count(b"\n")
        version = (3, 13) if re.search(rb"[\w\]]\s*=", inside) else (3, 12)
        if match["alias"]:
            follows = _ALIAS_VALUE.match(content, closed)
            if follows:
                older = b"_" + b" \\\n" * lines
                yield _Newer(match.start("alias"), closed, older, version, "type aliases")
        elif match["open"]:
            # their line breaks go behind the next parenthesis
            follows = _PARENTHESIS.match(content, closed)
            older = b"(" + b"\n" * lines + (b"" if follows else b")")
            end = follows.end() if follows else closed
            yield _Newer(match.start("open"), end, older, version, "type parameters")


def _closing(content: bytes, at: int) -> int | None:
    """Where the bracket ends that was opened just before ``at``."""
    depth = 1
    for match in _BRACKET.finditer(content, at, at + _MOST_OF_A_LIST):
        depth += 1 if match[0] == b"[" else -1
        if not depth:
            return match.end()
    return None


def _strings(node: Node, text: bytes) -> Iterator[_Newer]:
    opening = node.children[0] if node.children else None
    prefix = (opening.text or b"").lower() if opening is not None else b""
    is_template = b"t" in prefix.rstrip(b"'\"")
    if not is_template and not any(child.type == "interpolation" for child in node.children):
        return
    quote = b"'" * 3 if b"'" in prefix else b'"' * 3
    older = quote + b"\n" * text.count(b"\n") + quote
    if is_template:
        yield _Newer(node.start_byte, node.end_byte, older, (3, 14), "template strings")
    elif _refused(b"(" + text + b")") is not None and _is_free(node, prefix):
        yield _Newer(
            node.start_byte, node.end_byte, older, (3, 12), "f-strings with any expression"
        )


def _is_free(node: Node, prefix: bytes) -> bool:
    """Whether an f-string's expressions hold what they may since 3.12: its own quotes, backslashes, comments."""
    if node.has_error:
        return False
    mark = prefix.lstrip(b"abcdefghijklmnopqrstuvwxyz")
    for child in node.children:
        inner = (child.text or b"") if child.type == "interpolation" else b""
        breaks = b"\n" in inner and len(mark) == 1
        if inner and (mark in inner or b"\\" in inner or b"#" in inner or breaks):
            return True
    return False


def _except(node: Node, content: bytes) -> Iterator[_Newer]:
    """``except A, B:`` is Python 3.14's, where B is no name for the error as in Python 2."""
    names = [child for child in node.children if child.is_named and child.type != "block"]
    commas = [child for child in node.children if child.type == ","]
    if not commas or not names or any(child.type == "as_pattern" for child in names):
        return
    last = content[names[-1].start_byte : names[-1].end_byte].split(b".")[-1]
    if not commas[1:] and not last[:1].isupper():
        return
    start, end = names[0].start_byte, names[-1].end_byte
    text = b"(" + content[start:end] + b")"
    yield _Newer(start, end, text, (3, 14), "several exceptions without parentheses")


def _older(content: bytes, newer: list[_Newer]) -> bytes:
    parts, at = [], 0
    for piece in newer:
        parts += [content[at : piece.start], piece.text]
        at = piece.end
    return b"".join([*parts, content[at:]])
