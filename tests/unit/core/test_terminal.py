from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery.utils.log import ColorFormatter
from uvicorn.logging import DefaultFormatter

from core.terminal import CleanRecord, block, encodable, json_text, one_line

# everything that can drive a terminal, break a line or turn text round
DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

HOSTILE = {
    "colour": ("a\x1b[31mb", r"a\x1b[31mb"),
    "title and clipboard": ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
    "hyperlink": ("\x1b]8;;http://x\x1b\\y", r"\x1b]8;;http://x\x1b\y"),
    "eight-bit CSI": ("\x9b31m", r"\x9b31m"),
    "eight-bit OSC": ("\x9d52;c;aGk=\x9c", r"\x9d52;c;aGk=\x9c"),
    "next line": ("a\x85b", r"a\x85b"),
    "line feed": ("a\nb", r"a\nb"),
    "carriage return": ("safe\rrm -rf", r"safe\rrm -rf"),
    "backspace": ("a\bb", r"a\x08b"),
    "delete": ("a\x7f", r"a\x7f"),
    "NUL": ("\x00", r"\x00"),
    "right-to-left override": ("a\u202egpj.sh", r"a\u202egpj.sh"),
    "isolate": ("\u2066x\u2069", r"\u2066x\u2069"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "language tag": ("\U000e0001x", r"\U000e0001x"),
    "a byte that is no UTF-8": ("\udc9b31m", r"\udc9b31m"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=list(HOSTILE))
def test_what_drives_a_terminal_is_shown_and_not_sent(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert block("x" + text).replace("\n  ", r"\n") == "x" + shown
    assert not DANGEROUS.search(encodable(one_line(text), "utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian writes a joiner inside words
        "क्\u200dष",
        "👩\u200d🚒 ❤\ufe0f 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "启动\u3000实例",
        "Größe e\u0301 prüfen",
        "[bold]kept[/bold] C:\\new",
    ],
)
def test_text_of_people_stays(text: str) -> None:
    assert one_line(text) == text
    assert json_text(text) == text


def test_a_block_keeps_its_lines_and_none_of_them_begins_like_ours() -> None:
    assert block("one\r\ntwo\tthree\n\x1b[2J") == "one\n  two\tthree\n  \\x1b[2J"


@pytest.mark.parametrize("text", [pair[0] for pair in HOSTILE.values()], ids=list(HOSTILE))
def test_json_says_the_same_in_its_own_escapes(text: str) -> None:
    body = {"name": text, "more": [text, 1]}
    shown = json_text(json.dumps(body, ensure_ascii=False, indent=2))
    assert json.loads(shown) == body
    assert not DANGEROUS.search(shown)


# -- logs -------------------------------------------------------------------------------------

FORGED = "2001-01-01 21:00:00,000 INFO escher.api.access: GET '/v1/ok' 200"


@pytest.fixture
def guarded() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(CleanRecord)
    yield
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize(
    "formatter",
    [
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"),
        ColorFormatter("[%(asctime)s: %(levelname)s/%(processName)s] %(message)s", use_color=False),
        DefaultFormatter("%(levelprefix)s %(message)s", use_colors=True),
    ],
    ids=["ours", "Celery's", "uvicorn's"],
)
@pytest.mark.usefixtures("guarded")
def test_no_record_forges_another(formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("forging")
    logger.handlers.clear()
    logger.propagate = False
    for _ in range(2):  # two handlers share one record
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.warning("the server: %s", f"no\n{FORGED}")
    logger.warning(f"no\r\n{FORGED}\x9b2J")  # so does a careless caller
    try:
        raise ValueError(f"no\n{FORGED}\n\x1b]52;c;aGk=\x07")
    except ValueError:
        logger.exception("failed", stack_info=True)
    lines = stream.getvalue().split("\n")
    assert not [line for line in lines if line.startswith("2001-")]
    assert len([line for line in lines if FORGED in line]) == 6
    ours = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())  # the formatter's own colours
    assert not DANGEROUS.search(ours)
    assert "test_no_record_forges_another" in ours  # the traceback is there


def test_an_error_nobody_caught_forges_no_line_either() -> None:
    code = (
        "import threading\n"
        "from core.terminal import guard_process\n"
        "guard_process()\n"
        "def fails():\n"
        "    raise ValueError('in a thread\\nFORGED \\x1b[2J')\n"
        "thread = threading.Thread(target=fails)\n"
        "thread.start(); thread.join()\n"
        "raise ValueError('at the end\\nFORGED \\x9b2J')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("FORGED") == 2
    assert "\nFORGED" not in done.stderr
    assert not DANGEROUS.search(done.stderr)
