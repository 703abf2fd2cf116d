"""Reads JSON that somebody else wrote, within limits: the one parser for files, answers and frames.

::

    read_json(content)          any value        depth ≤ 32, no key twice, no NaN, no 1e999, UTF-8
    read_object(content)        the same, and it must be an object
    read_items(content, name)   a page: {name: [item, …], …}; an item that breaks a rule is a
                                `BadJson` in its place, the others are values
    read_stored(text)           what this service wrote itself, before or after these rules: only
                                what would end the program is refused

Every fault is a `BadJson`, which is a `ValueError`: never a `RecursionError`, never a
`MemoryError`. Its ``why`` ends a sentence that begins with the thing's name
(``metadata.json`` + ``is nested too deeply: more than 32 levels (line 7, column 40)``) and ends with
the place, where there is one. A byte order mark is dropped.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from core.limits import METADATA_BYTES

MAX_DEPTH: Final = 32
"""Levels of objects and arrays of what comes in at a door."""
STORED_DEPTH: Final = 256
"""Levels of what homes from before the limit may hold; deeper was never stored."""
MAX_METADATA_BYTES: Final = METADATA_BYTES
MAX_DOCUMENT_BYTES: Final = 16 << 20
"""Of a whole document: ``parameters.json``, a plan, a page of the server's changes."""

_MAX_PLAIN_CHARS: Final = 300
_CONTAINERS = frozenset({dict, list})
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# possessive, so that no text makes it go back; a quote alone begins a string that never ends
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:"]', re.DOTALL)


_FAULTY = re.compile(
    r'"(?:[^"\\]++|\\.)*+"|[\[\]{},]|-?(?:NaN|Infinity)|-?\d[-+.\deE]*+', re.DOTALL
)


class BadJson(ValueError):
    """What is wrong with a text that should be JSON; ``why`` begins with a verb.

    Of an item of `read_items`, ``members`` are those of its plain members that can be read: its
    name, most likely.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.members: dict[str, Any] = {}


class _Fault(BadJson):
    """One that is found while a value is made of the text: ``token`` stands at its place, as a key or not."""

    def __init__(self, why: str, token: str, *, is_key: bool = False) -> None:
        super().__init__(why)
        self.token = token
        self.is_key = is_key


def read_json(
    content: bytes | str, *, depth: int = MAX_DEPTH, max_bytes: int = MAX_DOCUMENT_BYTES
) -> Any:
    """Return the value of a JSON text in UTF-8; raises `BadJson`."""
    text = _text(content, max_bytes)
    _check_brackets(text, depth)
    value = _decode(text, _STRICT)
    check_depth(value, depth)
    return value


def read_object(
    content: bytes | str, *, depth: int = MAX_DEPTH, max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """Return the members of a JSON object; raises `BadJson`."""
    return _as_object(read_json(content, depth=depth, max_bytes=max_bytes))


def read_stored(content: bytes | str) -> Any:
    """Return the value of a JSON text that this service stored: a key twice or a NaN was let in once."""
    text = _text(content, None)
    _check_brackets(text, STORED_DEPTH)
    value = _decode(text, _LENIENT)
    check_depth(value, STORED_DEPTH)
    return value


def read_stored_object(content: bytes | str) -> dict[str, Any]:
    """`read_stored` of an object."""
    return _as_object(read_stored(content))


def read_items(
    content: bytes | str,
    member: str,
    *,
    depth: int = MAX_DEPTH,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the object's other members, and each item of its array ``member`` or the item's `BadJson`.

    ``depth`` counts from an item. Raises `BadJson` where the page around the items is at fault.
    """
    text = _text(content, max_bytes)
    try:
        _check_brackets(text, depth + 2)
        page = _as_object(_decode(text, _STRICT))
        check_depth(page, depth + 2)
    except BadJson:  # some item's, most likely: find which
        page, spans = _page_by_hand(text, member)
        return page, [_item(text[start:end], depth) for start, end in spans]
    items = page.pop(member, None)
    if not isinstance(items, list):
        raise BadJson(f"has no list {member!r}")
    return page, [_shallow(item, depth) for item in items]


def check_depth(value: Any, limit: int = MAX_DEPTH) -> None:
    """Refuse a value with more levels of objects and arrays; looks level by level, never deeper."""
    level = [value] if type(value) in _CONTAINERS else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise BadJson(f"is nested too deeply: more than {limit} levels")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]


# -- parts ------------------------------------------------------------------------------------


def _text(content: bytes | str, max_bytes: int | None) -> str:
    if max_bytes is not None and len(content) > max_bytes:
        raise BadJson(f"has more than {max_bytes / (1 << 20):g} MiB")
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadJson(f"is not UTF-8 (byte {error.start})") from error


def _check_brackets(text: str, limit: int) -> None:
    """Refuse what is nested far deeper than ``limit`` before the parser recurses into it.

    Pairs are taken away, the innermost first; only where brackets are left over by that (in texts,
    or too many of them) is every token looked at.
    """
    brackets = text.encode("utf-8", "surrogatepass").translate(None, _ALL_BUT_BRACKETS)
    for _ in range(limit):
        fewer = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if not fewer:
            return
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    depth = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign == '"':  # and each quote after it would be tried again
            raise BadJson("is not JSON: a text that never ends")
        if sign in "[{":
            depth += 1
            if depth > limit:
                where = _place(text, token.start())
                raise BadJson(f"is nested too deeply: more than {limit} levels ({where})")
        elif sign in "]}":
            depth -= 1


def _decode(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadJson(f"is not JSON: {error.msg} at {where}") from error
    except RecursionError:
        raise BadJson("is nested too deeply to be read") from None
    except MemoryError:
        raise BadJson("is too large to be read") from None
    except _Fault as fault:
        raise BadJson(f"{fault.why} ({_place(text, _at(text, fault))})") from None
    except BadJson:
        raise
    except ValueError:  # Python's limit of 4300 digits
        raise BadJson("holds a number that is too long") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Fault(f"gives the key {twice[:60]!r} twice", twice, is_key=True)
    return members


def _no_constant(name: str) -> NoReturn:
    raise _Fault(f"holds {name}, which is not JSON", name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Fault("holds a number that is too large", text)
    return number


def _at(text: str, fault: _Fault) -> int:
    """Where the fault stands: its token outside of texts, or the second key of that name in an object."""
    around: list[set[str] | None] = []  # the keys so far of each object, None for an array
    before = ""
    for found in _FAULTY.finditer(text):
        sign = found[0]
        if sign[0] == '"':
            keys = around[-1] if around and before in {"{", ","} else None
            if keys is not None:
                key = json.loads(sign)
                if fault.is_key and key == fault.token and key in keys:
                    return found.start()
                keys.add(key)
        elif sign in {"{", "["}:
            around.append(set() if sign == "{" else None)
        elif sign in {"}", "]"}:
            around.pop()
        elif sign == fault.token and not fault.is_key:
            return found.start()
        before = sign
    return 0


def _place(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


_STRICT = json.JSONDecoder(
    object_pairs_hook=_no_key_twice, parse_constant=_no_constant, parse_float=_finite
)
_LENIENT = json.JSONDecoder()


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadJson("is not a JSON object")
    return value


def _shallow(item: Any, depth: int) -> Any:
    try:
        check_depth(item, depth)
    except BadJson as error:
        if isinstance(item, dict):
            error.members = {k: v for k, v in item.items() if type(v) not in _CONTAINERS}
        return error
    return item


def _item(text: str, depth: int) -> Any:
    try:
        return read_json(text, depth=depth, max_bytes=len(text))
    except BadJson as error:
        error.members = _plain_members(text) if depth > 1 else {}
        return error


def _plain_members(text: str) -> dict[str, Any]:
    """The members of a bad object that are no containers and can be read, the first ones of each."""
    found: dict[str, Any] = {}
    try:
        for key, start, end in _spans(text, 0, len(text), "{"):
            value = text[start:end].strip()
            if key is not None and len(value) <= _MAX_PLAIN_CHARS and value[:1] not in {"{", "["}:
                read = _item(value, 1)
                if not isinstance(read, BadJson):
                    found.setdefault(key, read)
    except BadJson:
        return found  # up to there
    return found


def _page_by_hand(text: str, member: str) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """The members of the outermost object but ``member``, and the spans of its items."""
    page: dict[str, Any] = {}
    items: list[tuple[int, int]] | None = None
    for key, start, end in _spans(text, 0, len(text), "{"):
        if key == member and items is None:
            items = [(first, last) for _, first, last in _spans(text, start, end, "[")]
        elif key is None or key == member or key in page:
            raise BadJson(f"gives the key {str(key)[:60]!r} twice")
        else:
            page[key] = read_json(text[start:end], max_bytes=end - start)
    if items is None:
        raise BadJson(f"has no list {member!r}")
    return page, items


def _spans(text: str, start: int, end: int, opening: str) -> Iterator[tuple[str | None, int, int]]:
    """``(key or None, start, end)`` of what stands directly in one object or array."""
    depth, begin, key = 0, start, None
    empty = True
    for token in _TOKEN.finditer(text, start, end):
        sign = token[0]
        if depth == 0 and (sign != opening or text[start : token.start()].strip()):
            break
        if depth == 1 and sign == ":" and opening == "{" and key is None:
            key = _item(text[begin : token.start()], 1)
            if not isinstance(key, str):
                break
            begin = token.end()
        elif depth == 1 and sign in {",", "]", "}"}:
            if sign == "," or not empty or text[begin : token.start()].strip():
                yield key, begin, token.start()
            if sign != ",":
                if text[token.end() : end].strip():
                    break
                return
            begin, key, empty = token.end(), None, False
        if sign == '"':
            raise BadJson("holds a text that never ends")
        if sign in "[{":
            depth += 1
            begin = token.end() if depth == 1 else begin
        elif sign in "]}":
            depth -= 1
    raise BadJson("is not JSON")
