"""Nothing that a file, a name or a server says drives the terminal or forges a line."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder

from core.errors import Refused
from escher_playbooks.cli import main, output

CLI = Path(output.__file__).parent
DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NAME = "Stop\x1b]52;c;aGk=\x07 \x9b2J \u202ebad\ndone  [bold]x[/bold] [link=http://e]here[/link]"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def hostile(run, tmp_path):
    one = draft("Stop it")
    one.metadata.update(playbook_id="stop-it", name=NAME, description=NAME + "\n\rfolder  /")
    assert run("create", write_folder(tmp_path / "one", one)).code == 0


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("command", [("list",), ("show", "stop-it"), ("search", "stop")])
def test_a_hostile_name_is_shown_with_escapes(run, command):
    done = run(*command)
    assert "Stop\\x1b]52;c;aGk=\\x07 \\x9b2J \\u202ebad" in done.out
    assert not DANGEROUS.search(done.out)
    assert not re.search("^(done|folder  /)", done.out, re.MULTILINE)


@pytest.mark.usefixtures("hostile")
def test_json_to_a_pipe_is_the_text_itself_and_to_a_terminal_the_same_in_escapes(run, monkeypatch):
    piped = run("show", "stop-it", "--json")
    assert "\u202ebad" in piped.out
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main.run(["show", "stop-it", "--json"]) == 0
    assert not DANGEROUS.search(terminal.getvalue())
    assert json.loads(terminal.getvalue()) == piped.json


def test_a_table_takes_no_markup_from_its_data(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    output.table(("NAME",), [(NAME,), ("[red]y",), (":smile:",)])
    shown = terminal.getvalue()
    assert "[link=http://e]here[/link]" in shown
    assert "[red]y" in shown
    assert ":smile:" in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_of_the_server_neither(monkeypatch, as_json):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    output.fail(Refused("The server: no\nup: all well\x1b[2J", "Ask\x9b2J it."), as_json=as_json)
    assert not DANGEROUS.search(terminal.getvalue())
    assert "\nup: all well" not in terminal.getvalue()


def test_debug_shows_a_traceback_that_drives_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("ESCHER_DEBUG", "1")
    try:
        raise ValueError("no\nForged: line\x1b]0;title\x07")
    except ValueError as error:
        output.fail(error, as_json=False)
    assert "Forged" in terminal.getvalue()
    assert "\nForged" not in terminal.getvalue()
    assert not DANGEROUS.search(terminal.getvalue())


def test_a_question_is_cleaned(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert output.confirm("Delete a\x1b[2J\nb?") is False
    assert "\x1b" not in terminal.getvalue()


def test_nobody_prints_past_the_one_place():
    direct = re.compile(
        r"sys\.std(out|err)\.(buffer|write)|(?<!\.)\bprint\(|typer\.(echo|secho|prompt|confirm)"
    )
    own = {"output.py", "child.py"}  # child.py becomes another program and has no data
    found = [
        f"{path.name}: {line.strip()}"
        for path in CLI.glob("*.py")
        if path.name not in own
        for line in path.read_text().splitlines()
        if direct.search(line)
    ]
    assert not found
