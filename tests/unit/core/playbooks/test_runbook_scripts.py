"""What is generated for a runbook hands values on as data: run here with programs that only look."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.playbooks.runbooks.finding import Converted, iter_runbooks
from core.playbooks.runbooks.placeholders import expanded, reads_again

RUNBOOKS = Path(__file__).parents[3] / "data" / "runbooks"
HOSTILE = "a'b\"c $(touch pwned) `touch pwned` ; touch pwned & \\ * \n--x {{ y }} ü"
LOOKING = """#!/usr/bin/env bash
printf '%s\\0' "$@" >>"$SEEN/arguments"
env -0 >"$SEEN/environment"
for word in "$@"; do
  word=${word#@} word=${word#file://}
  [[ -f "$word" ]] && cat -- "$word" >>"$SEEN/files"
done
[[ -z "${PLAYBOOK_VALUES:-}" ]] || cat -- "$PLAYBOOK_VALUES" >>"$SEEN/files"
case "$*" in *Status*) echo Success ;; *) echo id-1 ;; esac
"""


class Unsafe(yaml.SafeLoader):
    """Reads texts under ``!unsafe`` as Ansible does: as they are."""


Unsafe.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


class Ran:
    """A generated script's run: what it said, and what the programs it called were given."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: list[str]) -> None:
        self.seen = folder / "seen"
        self.seen.mkdir(exist_ok=True)
        programs = folder / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("aws", "ansible-playbook", "pwsh", "curl", "ping"):
            (programs / name).write_text(LOOKING)
            (programs / name).chmod(stat.S_IRWXU)
        path = f"{programs}:{os.environ['PATH']}"
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        self.done = subprocess.run(
            arguments, env={"PATH": path, "SEEN": str(self.seen), "TMPDIR": str(folder / "tmp"), "HOME": str(folder), **environment},
            cwd=self.work, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert not list(folder.rglob("pwned")), "a value was run"
        assert not list((folder / "tmp").iterdir()), "a value was left behind"

    def read(self, name: str) -> str:
        path = self.seen / name
        return path.read_text() if path.exists() else ""


def convert(tool: str, source: str, folder: Path) -> Path:
    found = list(iter_runbooks(tool, RUNBOOKS / source, file_bytes=1 << 20, skipped=[]))
    (item,) = [item for _, item in found]
    assert isinstance(item, Converted)
    for path, content in item.draft.files.items():
        target = folder / "book" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o700 if content.startswith(b"#!") else 0o600)
    return folder / "book"


def run(tool: str, source: str, folder: Path, *arguments: str, **environment: str) -> Ran:
    book = convert(tool, source, folder)
    return Ran(folder, environment, ["bash", str(book / "shell/main.sh"), *arguments])


def test_ansible_gets_values_from_a_file_and_secrets_nowhere_else(tmp_path):
    ran = run(
        "ansible", "ansible/site/site.yml", tmp_path, "--domain", HOSTILE, "--http_port=81",
        '--features=["a", "b"]', PARAM_CERT_PASSPHRASE=HOSTILE + "1", ANSIBLE_INVENTORY="hosts",
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    said = ran.read("files").partition("\n---")[0]
    assert said.count("!unsafe ") == 4, "Ansible works nothing out of a value"
    assert yaml.load(said, Loader=Unsafe) == {
        "domain": HOSTILE, "http_port": 81, "features": ["a", "b"], "cert_passphrase": HOSTILE + "1",
    }  # fmt: skip
    assert HOSTILE not in ran.read("arguments")
    assert "PARAM_CERT_PASSPHRASE" not in ran.read("environment")
    assert "site.yml" in ran.read("arguments")


def test_a_secret_is_taken_from_a_file_and_refused_among_arguments(tmp_path):
    (tmp_path / "phrase").write_text(HOSTILE)
    ran = run(
        "ansible", "ansible/site/site.yml", tmp_path, "--domain=x",
        PARAM_CERT_PASSPHRASE_FILE=str(tmp_path / "phrase"), ANSIBLE_INVENTORY="hosts",
    )  # fmt: skip
    assert HOSTILE in yaml.load(ran.read("files").partition("\n---")[0], Loader=Unsafe).values()
    refused = run("ansible", "ansible/site/site.yml", tmp_path, "--cert_passphrase", "x")
    assert refused.done.returncode == 2
    assert "PARAM_CERT_PASSPHRASE" in refused.done.stderr


def test_systems_manager_gets_lists_of_texts_and_its_own_document(tmp_path):
    ran = run(
        "ssm", "ssm/StopIdleInstances.yaml", tmp_path, "--InstanceId", "i-1,i-2", "--MaxWait=3",
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    words = ran.read("arguments").split("\0")
    assert "start-automation-execution" in words
    (name,) = {word for word in words if word.startswith("escher-")}
    assert re.fullmatch(r"escher-stopidleinstances-[0-9a-f]{12}", name)
    assert '{"InstanceId":["i-1","i-2"],"MaxWait":["3"]}' in ran.read("files")


def test_a_command_document_needs_its_targets(tmp_path):
    refused = run("ssm", "ssm/RestartService.json", tmp_path, "--ServiceName", "x")
    assert refused.done.returncode == 2
    assert "ssm_targets" in refused.done.stderr
    ran = run(
        "ssm", "ssm/RestartService.json", tmp_path, "--ServiceName", HOSTILE,
        "--ssm_targets", "Key=tag:a,Values=b",
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    line = next(
        line for line in ran.read("files").splitlines() if line.startswith('{"ServiceName"')
    )
    assert json.loads(line) == {"ServiceName": [HOSTILE]}
    assert "Key=tag:a,Values=b" in ran.read("arguments")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--Environment=prod", "--InstanceId=i-1"], "Environment is one of: dev, test"),
        ([], "InstanceId is needed"),
        (["--none=1"], "unknown option: --none=1"),
        (["--MaxWait"], "needs a value"),
    ],
)
def test_wrong_values_are_refused_before_anything_runs(tmp_path, arguments, said):
    ran = run("ssm", "ssm/StopIdleInstances.yaml", tmp_path, *arguments)
    assert ran.done.returncode == 2
    assert said in ran.done.stderr
    assert not ran.read("arguments")


def test_powershell_reads_values_by_name_from_a_private_file(tmp_path):
    ran = run(
        "azure-runbook", "azure/Stop-IdleVm.ps1", tmp_path, "--ResourceGroupName", HOSTILE,
        "--Force=true", PARAM_WEBHOOKSECRET="hush",
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    assert ran.read("arguments").split("\0")[:3] == ["-NoProfile", "-NonInteractive", "-File"]
    assert "hush" not in ran.read("arguments")
    values = ran.read("files").splitlines()[-1]
    assert json.loads(values) == {
        "ResourceGroupName": HOSTILE,
        "WebhookSecret": "hush",
        "Force": True,
    }


def test_a_stackstorm_script_gets_its_words_in_order(tmp_path):
    ran = run(
        "stackstorm", "stackstorm/pack/actions/rotate_logs.yaml", tmp_path, "--directory", HOSTILE
    )
    assert ran.done.returncode == 0, ran.done.stderr
    assert ran.done.stdout == f"<--level=fast><--dry_run><{HOSTILE}><7>"


def test_a_stackstorm_command_expands_variables_and_no_code(tmp_path):
    ran = run("stackstorm", "stackstorm/pack/actions/ping.yaml", tmp_path, "--host", HOSTILE)
    assert ran.read("arguments").split("\0")[:3] == ["-c", "3", HOSTILE]
    assert HOSTILE in ran.done.stdout


def test_a_stackstorm_class_is_called_outside_of_it(tmp_path):
    book = convert("stackstorm", "stackstorm/pack/actions/find_volumes.yaml", tmp_path)
    (tmp_path / "key").write_text("hush\n")
    ran = Ran(
        tmp_path, {"PARAM_TAGS": '{"a": 1}', "PARAM_API_KEY_FILE": str(tmp_path / "key")},
        [sys.executable, str(book / "python/main.py"), "--region", HOSTILE],
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    assert json.loads(ran.done.stdout) == {
        "region": HOSTILE, "tags": {"a": 1}, "kind": "gp3", "has_key": True,
    }  # fmt: skip


def test_stackstorm_itself_is_asked_with_a_file(tmp_path):
    (tmp_path / "key").write_text("St2-Api-Key: x")
    source = "stackstorm/pack/actions/deploy.yaml"
    refused = run("stackstorm", source, tmp_path, "--version", HOSTILE)
    assert refused.done.returncode == 2
    assert "StackStorm would work out" in refused.done.stderr
    plain = HOSTILE.replace("{{", "")
    ran = run(
        "stackstorm", source, tmp_path, "--version", plain, PARAM_TOKEN="hush",
        ST2_API_URL="http://127.0.0.1:1", ST2_API_KEY_FILE=str(tmp_path / "key"),
    )  # fmt: skip
    assert ran.done.returncode == 0, ran.done.stderr
    request = ran.read("files").partition("St2-Api-Key: x")[2]
    assert json.loads(request) == {
        "action": "cloudops.deploy", "parameters": {"version": plain, "token": "hush"},
    }  # fmt: skip
    assert "hush" not in ran.read("arguments")


def test_rundeck_steps_get_their_options_as_rundeck_gives_them(tmp_path):
    ran = run(
        "rundeck", "rundeck/restart-web.yaml", tmp_path, "--reason", HOSTILE, PARAM_LB_PASSWORD="x"
    )
    assert ran.done.returncode == 0, ran.done.stderr
    lines = ran.done.stdout
    assert f"restarting nginx because {HOSTILE}" in lines
    assert "nginx will be back" in lines
    missing = run("rundeck", "rundeck/restart-web.yaml", tmp_path)
    assert missing.done.returncode == 2


def test_a_step_that_only_rundeck_runs_ends_the_job_before_it(tmp_path):
    ran = run("rundeck", "rundeck/legacy-options.yaml", tmp_path, "--size=small")
    assert ran.done.returncode == 2
    assert "/opt/scripts/run.sh" in ran.done.stderr
    assert "done on" not in ran.done.stdout


NAME = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@pytest.mark.parametrize(
    ("command", "wanted", "left"),
    [
        ("echo {{ a }}", 'echo "${A}"', []),
        ('echo "x {{a}} y"', 'echo "x ${A} y"', []),
        ("echo 'x {{ a }} y'", "echo 'x '\"${A}\"' y'", []),
        ("echo it\\'s {{ a }}", "echo it\\'s \"${A}\"", []),
        ("# don't {{ a }}\necho {{ a }}", "# don't {{ a }}\necho \"${A}\"", []),
        ("cat <<E\n'{{ a }}'\nE\necho {{ a }}", "cat <<E\n'${A}'\nE\necho \"${A}\"", []),
        ("cat <<'E'\n{{ a }}\nE\n", "cat <<'E'\n{{ a }}\nE\n", ["{{ a }}"]),
        ("cat <<-E\n\t{{ a }}\n\tE\n{{ a }}", 'cat <<-E\n\t${A}\n\tE\n"${A}"', []),
        ('"$(f "{{ a }}" "x {{ a }}")" "{{ a }}"', '"$(f "${A}" "x ${A}")" "${A}"', []),
        ("(cd x && echo '{{ a }}') \"{{ a }}\"", "(cd x && echo ''\"${A}\"'') \"${A}\"", []),
        ("echo $'it\\'s {{ a }}' {{ a }}", "echo $'it\\'s {{ a }}' \"${A}\"", ["{{ a }}"]),
        ("echo {{ b }}", "echo {{ b }}", ["{{ b }}"]),
    ],
)  # fmt: skip
def test_placeholders_keep_to_their_quotes(command, wanted, left):
    assert expanded(command, NAME, {"a": "A"}.get) == (wanted, left)


@pytest.mark.parametrize(
    "command",
    ["bash -c 'f {{ a }}'", 'sudo sh -ec "{{ a }}"', "ssh host {{ a }}", "eval {{ a }}", "bash <<E\n{{ a }}\nE",
     "echo $(( {{ a }} + 1 ))", "[[ {{ a }} -gt 3 ]]", "python3 -c 'print({{ a }})'"],
)  # fmt: skip
def test_a_value_that_another_reader_takes_for_code_is_told(command):
    assert reads_again(command, NAME)
    for harmless in (
        "echo {{ a }} && [ {{ a }} -gt 3 ]",
        "f {{ a }} | awk '{ print $1 }' | g {{ a }}",
    ):
        assert not reads_again(harmless, NAME)
    assert reads_again("awk -F: '/'{{ a }}'/ { print }' x", NAME)


def test_no_word_of_a_runbook_becomes_code_of_the_generated_script(tmp_path):
    """A description that ends the usage text, a name with quotes, a default that is a command."""
    evil = "USAGE\n}\ntouch pwned\nusage() {\ncat <<'USAGE'"
    document = {
        "schemaVersion": "0.3",
        "description": evil,
        "parameters": {
            "a'; touch pwned; '": {"type": "String", "description": evil, "default": "$(touch pwned)",
                                   "allowedValues": ["$(touch pwned)", "x' ) touch pwned ;; 'y"]},
            "$(touch pwned)": {"type": "String", "description": "`touch pwned`", "default": ""},
        },
        "mainSteps": [{"action": "aws:sleep", "name": "x"}],
    }  # fmt: skip
    source = tmp_path / "$(touch pwned)`touch pwned`.json"
    source.write_text(json.dumps(document))
    for arguments in (["--help"], []):
        ran = run("ssm", str(source), tmp_path, *arguments)
        assert ran.done.returncode == 0, ran.done.stderr
