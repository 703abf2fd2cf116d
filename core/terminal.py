r"""What may be printed: the one place that cleans text on its way to a terminal or a log.

Names, descriptions, server answers and error texts are other people's. A control character in
them can drive the terminal (``ESC ] 52`` writes the clipboard, U+009B is ``ESC [`` in one
character), a line break forges a line of a log or a table, a bidirectional control shows text in
another order than it is stored. All of them are shown as escapes (``\x1b``, ``\n``, ``\u202e``)::

    one_line(text)        a line, a table's cell, a log record's message
    block(text)           text that may have several lines; all but the first are indented
    json_text(text)       JSON with its own escapes in place of what a terminal would act on
    guard_process()       every log record and uncaught error of this process goes through here

What languages need stays: joiners (U+200C, U+200D), variation selectors, emoji, wide spaces.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

_CONTROLS = "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINE_ENDS = "\u2028\u2029"
# format characters without a use in running text: deprecated ones, annotations, a BOM inside
_INVISIBLE = "\u180e\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0001"
_SURROGATES = "\ud800-\udfff"  # bytes of a file name that is no UTF-8
_UNSAFE = re.compile(f"[{_CONTROLS}{_BIDI}{_LINE_ENDS}{_INVISIBLE}{_SURROGATES}]")
_LINE_BREAK = re.compile("\r\n|\n")
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": " "}
INDENT = "  "
LOG_INDENT = "  | "


def one_line(text: str) -> str:
    """``text`` as one line that a terminal only shows."""
    if text.isascii() and text.isprintable():  # nearly all of it
        return text
    return _UNSAFE.sub(_escape, text)


def block(text: str, indent: str = INDENT) -> str:
    """``text`` with its own line breaks; a line after the first is indented, so it forges none."""
    first, *rest = _LINE_BREAK.split(text)
    return "\n".join([_with_tabs(first), *(indent + _with_tabs(line) for line in rest)])


def json_text(text: str) -> str:
    """A JSON text, the same for every parser, in which nothing drives a terminal."""
    return "\n".join(_UNSAFE.sub(_json_escape, line) for line in text.split("\n"))


def encodable(text: str, encoding: str | None) -> str:
    """``text`` as a stream of this encoding can take it; other characters become escapes."""
    codec = encoding or "utf-8"
    return text.encode(codec, "backslashreplace").decode(codec)


def _with_tabs(line: str) -> str:
    return "\t".join(map(one_line, line.split("\t")))


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if sign in _NAMED:
        return _NAMED[sign]
    code = ord(sign)
    if code <= 0xFF:  # noqa: PLR2004 - the highest that two digits write
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - four digits


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2)
    )


# -- the whole process ------------------------------------------------------------------------


class CleanRecord(logging.LogRecord):
    """A log record whose message is one line, and whose traceback can't pass for records.

    In the record, not in a formatter: so it holds for every handler, also those of Celery,
    uvicorn and others that bring formatters of their own.
    """

    _exc_text: str | None = None
    _stack_info: str | None = None

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return one_line(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The traceback, as the formatter keeps it here."""
        return self._exc_text

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._exc_text = _attached(text)

    @property
    def stack_info(self) -> str | None:
        """The stack, where one was asked for."""
        return self._stack_info

    @stack_info.setter
    def stack_info(self, text: str | None) -> None:
        self._stack_info = _attached(text)


def guard_process() -> None:
    """From now on, all log records and uncaught errors of this process are cleaned.

    For programs of ours: a library would change its host's logging.
    """
    logging.setLogRecordFactory(CleanRecord)
    sys.excepthook = _tell_uncaught
    threading.excepthook = _tell_thread


def set_up_logging(level: int = logging.INFO) -> None:
    """`guard_process`, and records on standard error, for a program that has no logging yet."""
    guard_process()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def traceback_text(error: BaseException) -> str:
    """An error's traceback, cleaned, for a human who asked for it."""
    return block("".join(traceback.format_exception(error)).rstrip("\n"), LOG_INDENT)


def _attached(text: str | None) -> str | None:
    if not text:
        return text
    lines = _LINE_BREAK.split(text)
    if all(line.startswith(LOG_INDENT) for line in lines):  # formatted by another handler before
        return text
    return "\n".join(LOG_INDENT + one_line(line) for line in lines)


def _tell_uncaught(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    sys.stderr.write(encodable(traceback_text(error), sys.stderr.encoding) + "\n")


def _tell_thread(arguments: Any) -> None:
    error = arguments.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else "unknown"
    words = f"Exception in thread {one_line(name)}:\n{traceback_text(error)}"
    sys.stderr.write(encodable(words, sys.stderr.encoding) + "\n")
