from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from escher_playbooks.cli import main, session

ROOT = Path(__file__).resolve().parents[5]


def test_a_wrong_command_is_wrong_usage_and_says_where_the_help_is(run):
    done = run("no-such-command")
    assert done.code == 2
    assert "no-such-command" in done.err
    assert "--help" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "create", "--no-such-option"),
        ("create", "--json", "--no-such-option"),
        ("jobs", "--json", "no-such"),
    ],
)
def test_with_json_a_wrong_option_is_a_problem_document_too(run, arguments):
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.error["type"] == "UsageError"
    assert {"type", "title", "detail"} <= set(done.error)


def test_json_may_stand_before_the_command_or_between(run, folder):
    assert run("--json", "list").json["items"] == []
    assert run("jobs", "--json", "ls").json["items"] == []


def test_words_after_two_dashes_are_no_options(run, home):
    done = run("search", "--", "--json")
    assert done.code == 0
    assert "nothing found" in done.err  # for the query "--json", and not as JSON


def test_an_unforeseen_error_shows_its_kind_and_never_its_text(run, monkeypatch):
    def broken():
        raise RuntimeError("hunter2")

    monkeypatch.setattr(session, "open_service", broken)
    monkeypatch.setattr("escher_playbooks.cli.reading_commands.open_service", broken)
    done = run("list")
    assert done.code == 1
    assert "RuntimeError" in done.err
    assert "hunter2" not in done.err
    assert "Traceback" not in done.err
    assert "ESCHER_DEBUG=1" in done.err


def test_debug_adds_the_traceback(run, monkeypatch):
    def broken():
        raise RuntimeError("hunter2")

    monkeypatch.setattr("escher_playbooks.cli.reading_commands.open_service", broken)
    monkeypatch.setenv("ESCHER_DEBUG", "1")
    assert "Traceback" in run("list").err


def test_ctrl_c_ends_with_130(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("escher_playbooks.cli.reading_commands.open_service", interrupted)
    done = run("list")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_a_wrong_setting_is_named(run, monkeypatch):
    monkeypatch.setenv("ESCHER_API_PORT", "a lot")
    done = run("list", "--json")
    assert done.code == 2
    assert "api_port" in done.error["detail"]


def test_a_reader_that_has_had_enough_is_no_error_to_read_about(home):
    code = (
        "import sys; from escher_playbooks.cli.main import main; sys.argv[1:] = ['config']; main()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=home.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""


def test_help_loads_no_model_no_celery_and_no_journal():
    heavy = ["torch", "sentence_transformers", "celery", "sqlalchemy", "pydantic", "requests"]
    code = (
        "import sys; from escher_playbooks.cli import main; code = main.run(['--help'])\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_listing_loads_no_model_and_no_celery(home):
    heavy = ["torch", "sentence_transformers", "celery"]
    code = (
        "import sys; from escher_playbooks.cli import main; code = main.run(['list'])\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_every_command_takes_json():
    def leaves(group, path=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from leaves(command, (*path, name))
            if not hasattr(command, "commands") or command.invoke_without_command:
                yield (*path, name), command

    import typer.main

    commands = dict(leaves(typer.main.get_command(main.app)))
    without = [
        " ".join(path)
        for path, command in commands.items()
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert without == []
    expected = {
        "create", "import", "list", "show", "versions", "update", "delete", "status-set",
        "publish", "sync", "resolve", "search", "reindex", "verify", "config", "server",
        "up", "down", "status", "doctor",
    }  # fmt: skip
    assert expected <= {" ".join(path) for path in commands}
