"""Runbooks of five other tools become playbooks: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.errors import EscherError, InvalidPlaybook, NotFound, UsageError
from core.models import PARAMETERS_FILE, PlaybookDraft
from core.playbooks.checks import check_scripts
from core.playbooks.ids_from_names import id_from_name
from core.playbooks.runbooks import TOOLS
from core.playbooks.runbooks.finding import Converted, iter_runbooks
from core.playbooks.validation import normalise

RUNBOOKS = Path(__file__).parents[3] / "data" / "runbooks"
FOLDERS = {
    "ssm": "ssm", "rundeck": "rundeck", "stackstorm": "stackstorm/pack", "azure-runbook": "azure",
}  # fmt: skip


def read(tool: str, path: Path) -> tuple[dict[str, Converted], dict[str, EscherError], list[str]]:
    skipped: list[str] = []
    found = list(iter_runbooks(tool, path, file_bytes=1 << 20, skipped=skipped))
    good = {name: item for name, item in found if isinstance(item, Converted)}
    bad = {name: item for name, item in found if isinstance(item, EscherError)}
    assert len(good) + len(bad) == len(found)
    return good, bad, skipped


@pytest.fixture(scope="module")
def converted() -> dict[str, Converted]:
    """All of the test data, by id."""
    found: dict[str, Converted] = {}
    paths = [(tool, RUNBOOKS / folder) for tool, folder in FOLDERS.items()]
    paths += [
        ("ansible", RUNBOOKS / "ansible" / name)
        for name in ("site", "local", "role/nginx_hardening")
    ]
    for tool, path in paths:
        good, bad, _ = read(tool, path)
        assert not bad, bad
        for item in good.values():
            assert "playbook_id" not in item.draft.metadata, "the store makes one of the name"
            found[id_from_name(item.draft.metadata["name"])] = item
    return found


# id: (files but parameters.json, parameters as name:type and marks (! required, * secret), dropped)
KEPT: dict[str, tuple[set[str], list[str], list[str]]] = {
    # -- AWS Systems Manager
    "stopidleinstances": (
        {"shell/document.yaml", "shell/main.sh"},
        ["AutomationAssumeRole:string", "InstanceId:array!", "Environment:string", "Force:boolean",
         "MaxWait:integer"],
        [],
    ),
    "restartservice": (
        {"shell/document.json", "shell/main.sh"},
        ["ssm_targets:string!", "ServiceName:string!", "commands:array"],
        ["interpolationType", "displayType"],
    ),
    "install-agent": (
        {"shell/document.yaml", "shell/main.sh"},
        ["ssm_targets:string!", "ApiToken:string!*", "Tags:object"],
        ["ApiToken"],
    ),
    "patch-with-approval": (
        {"shell/document.json", "shell/main.sh"},
        ["Approvers:array!", "Targets:array!", "AmiId:string"],
        ["attachments (check.py)"],
    ),
    # -- Rundeck
    "restart-web": (
        {"shell/job.yaml", "shell/main.sh", "shell/steps/01-say-it.sh", "shell/steps/02-restart.sh"},
        ["service:string", "reason:string!", "lb_password:string*"],
        ["schedule", "key storage path", "secret options"],
    ),
    "old-snapshots": (
        {"shell/job.xml", "shell/main.sh", "shell/steps/01-list.py", "shell/steps/02-step-2.sh"},
        ["region:string", "days:string"],
        [],
    ),
    "nightly": (
        {"shell/job.xml", "shell/main.sh"},
        [],
        ["reference to the job Old snapshots", "plugin (slack-message)", "notifications", "tags: db",
         "strategy parallel"],
    ),
    "disk-report": (
        {"shell/job.json", "shell/main.sh", "shell/steps/01-step-1.sh", "shell/steps/02-step-2.sh"},
        ["path:string", "hosts:string", "until:string", "list:string"],
        ["values from a URL", "time limit", "step 2: ${option.path} stays"],
    ),
    "legacy": (
        {"shell/job.yaml", "shell/main.sh", "shell/steps/02-step-2.sh"},
        ["password:string*", "size:string!"],
        ["script file of the server (/opt/scripts/run.sh)", "${node.name}", "signs in at nodes"],
    ),
    # -- StackStorm
    "cloudops-rotate-logs": (
        {"shell/action.yaml", "shell/rotate_logs.sh", "shell/main.sh"},
        ["directory:string!", "keep:integer", "level:string", "dry_run:boolean"],
        ["sudo (True)", "timeout (120)"],
    ),
    "cloudops-find-volumes": (
        {"python/action.yaml", "python/find_volumes.py", "python/lib/volumes.py", "python/main.py"},
        ["region:string!", "tags:object", "api_key:string*"],
        [],
    ),
    "cloudops-ping": (
        {"shell/action.yaml", "shell/command.sh", "shell/main.sh"},
        ["host:string!", "count:integer"],
        ["hosts that StackStorm runs it on"],
    ),
    "cloudops-deploy": (
        {"shell/action.yaml", "shell/deploy.yaml", "shell/main.sh"},
        ["version:string!", "targets:array", "token:string*"],
        ["runner orquesta", "notifications", "worked out by StackStorm", "take it out there"],
    ),
    # -- Ansible
    "site": (
        {"shell/site.yml", "shell/extra.yml", "shell/main.sh", "shell/files/motd", "shell/vars/common.yml",
         "shell/templates/index.html.j2", "shell/roles/web/tasks/main.yml",
         "shell/roles/web/defaults/main.yml", "shell/roles/web/handlers/main.yml",
         "shell/roles/web/meta/main.yml", "shell/roles/web/templates/nginx.conf.j2"},
        ["domain:string!", "cert_passphrase:string!*", "http_port:integer", "features:array",
         "admin_password:string*"],
        ["geerlingguy.firewall", "group_vars", "server_name: worked out", "confirm", "admin_password"],
    ),
    "nginx-hardening": (
        {"shell/playbook.yml", "shell/main.sh", "shell/roles/nginx_hardening/tasks/main.yml",
         "shell/roles/nginx_hardening/defaults/main.yml", "shell/roles/nginx_hardening/meta/main.yml",
         "shell/roles/nginx_hardening/meta/argument_specs.yml",
         "shell/roles/nginx_hardening/templates/hardening.conf.j2"},
        ["hosts:string!", "hsts_seconds:integer", "mode:string!", "ticket_key:string*", "tls_versions:array"],
        ["vhost: worked out", "license"],
    ),
    "report": (
        {"shell/report.yml", "shell/main.sh"},
        ["region:string", "limits:object"],
        ["inventory"],
    ),
    "clean-up-old-images": ({"shell/cleanup.yaml", "shell/main.sh"}, ["age_days:string"], []),
    # -- Azure Automation
    "stop-idlevm": (
        {"shell/runbook.ps1", "shell/run.ps1", "shell/main.sh"},
        ["ResourceGroupName:string!", "Hours:integer", "Mode:string", "Exclude:array", "Since:string",
         "WebhookSecret:string*", "Force:boolean"],
        [],
    ),
    "rotatekeys": (
        {"shell/runbook.ps1", "shell/run.ps1", "shell/main.sh"},
        ["AccountName:string!", "Credential:object*", "WebhookData:object"],
        ["Get-AutomationVariable SubscriptionId", "Credential: a credential"],
    ),
    "startall": (
        {"shell/runbook.ps1", "shell/main.sh"}, ["Tag:string"], ["PowerShell Workflow"],
    ),
    "tag-report": (
        {"python/tag_report.py"}, ["tag:string!", "format:string", "limit:integer"], [],
    ),
}  # fmt: skip
DRAFTS = {
    "patch-with-approval", "nightly", "disk-report", "legacy", "cloudops-ping", "rotatekeys",
    "startall",
}  # fmt: skip


def parameters(draft: PlaybookDraft) -> list[dict[str, Any]]:
    return list(json.loads(draft.files.get(PARAMETERS_FILE, b'{"parameters": []}'))["parameters"])


def test_all_of_them_are_in_the_table(converted):
    assert set(converted) == set(KEPT)
    assert len(KEPT) >= 20


@pytest.mark.parametrize("playbook_id", KEPT)
def test_what_is_kept_and_what_is_dropped(converted, playbook_id):
    item = converted[playbook_id]
    files, wanted, dropped = KEPT[playbook_id]
    assert set(item.draft.files) - {PARAMETERS_FILE} == files
    shown = [
        f"{p['name']}:{p['type']}{'!' * p['required']}{'*' * p['sensitive']}"
        for p in parameters(item.draft)
    ]
    assert shown == wanted
    for word in dropped:
        assert any(word in said for said in item.dropped), (word, item.dropped)
    assert item.draft.metadata["imported_from"]["dropped"] == list(item.dropped)


@pytest.mark.parametrize("playbook_id", KEPT)
def test_each_is_a_sound_playbook_whose_scripts_parse(converted, playbook_id):
    draft = converted[playbook_id].draft
    ready = normalise(draft, now=1_800_000_000, playbook_id=playbook_id)
    assert ready.metadata["status"] == ("draft" if playbook_id in DRAFTS else "ready")
    assert ready.metadata["description"]
    for entry in draft.metadata["entry_points"].values():
        assert entry in draft.files
    scripts = {path: text for path, text in draft.files.items() if path.endswith((".sh", ".py"))}
    assert [warning.as_text() for warning in check_scripts(scripts)] == []


def test_the_sources_text_is_kept_whole(converted):
    sources = {
        "stopidleinstances": ("ssm/StopIdleInstances.yaml", "shell/document.yaml"),
        "restart-web": ("rundeck/restart-web.yaml", "shell/job.yaml"),
        "cloudops-rotate-logs": ("stackstorm/pack/actions/rotate_logs.sh", "shell/rotate_logs.sh"),
        "site": ("ansible/site/site.yml", "shell/site.yml"),
        "stop-idlevm": ("azure/Stop-IdleVm.ps1", "shell/runbook.ps1"),
        "tag-report": ("azure/tag_report.py", "python/tag_report.py"),
    }
    for playbook_id, (source, stored) in sources.items():
        text = (RUNBOOKS / source).read_bytes()
        assert converted[playbook_id].draft.files[stored] == text


def test_of_several_jobs_each_has_its_own_text(tmp_path, converted):
    text = (RUNBOOKS / "rundeck/export.xml").read_text()
    first, second = (
        "<job>" + part.partition("</job>")[0] + "</job>" for part in text.split("<job>")[1:]
    )
    assert (
        converted["old-snapshots"].draft.files["shell/job.xml"].decode()
        == f"<joblist>\n{first}\n</joblist>\n"
    )
    assert second in converted["nightly"].draft.files["shell/job.xml"].decode()
    jobs = [
        f"# the {name}\n- name: {name} job\n  sequence: {{commands: [{{exec: echo {name}}}]}}\n"
        for name in ("one", "two")
    ]
    (tmp_path / "both.yaml").write_text("".join(jobs))
    good, _, _ = read("rundeck", tmp_path)
    one, two = (item.draft.files["shell/job.yaml"].decode() for item in good.values())
    assert one + two == "".join(jobs).partition("\n")[2]
    (tmp_path / "one.yaml").write_text(one)
    again, _, _ = read("rundeck", tmp_path / "one.yaml")
    assert len(again) == 1


def test_fields_of_the_source_become_fields_of_the_playbook(converted):
    def field(playbook_id: str, name: str) -> dict[str, Any]:
        return next(p for p in parameters(converted[playbook_id].draft) if p["name"] == name)

    stop = converted["stopidleinstances"].draft.metadata
    assert stop["name"] == "StopIdleInstances"
    assert stop["description"].startswith("### Stop idle")
    assert stop["cloud_provider"] == ["aws"]
    assert "ec2::instance" in stop["resource_types"]
    assert field("stopidleinstances", "Environment")["validation"] == {"enum": ["dev", "test"]}
    assert field("stopidleinstances", "MaxWait")["default"] == 15
    assert (
        field("patch-with-approval", "AmiId")["validation"]["ssm_default"] == "{{ssm:/golden/ami}}"
    )
    service = field("restart-web", "service")
    assert (service["default"], service["validation"]) == ("nginx", {"enum": ["nginx", "apache2"]})
    assert field("restart-web", "reason")["validation"] == {"pattern": "^.{3,}$"}
    assert field("old-snapshots", "region")["validation"]["enum"] == ["eu-west-1", "eu-central-1"]
    assert field("cloudops-rotate-logs", "keep")["validation"] == {"minimum": 1, "maximum": 99}
    assert field("nginx-hardening", "mode")["validation"] == {"enum": ["strict", "lenient"]}
    assert field("nginx-hardening", "hsts_seconds")["default"] == 31536000
    assert field("stop-idlevm", "Hours")["validation"] == {"minimum": 1, "maximum": 168}
    assert field("stop-idlevm", "Exclude")["default"] == ["bastion", "jump"]
    assert field("stop-idlevm", "ResourceGroupName")["description"].startswith(
        "The resource group."
    )
    assert "default" not in field("stop-idlevm", "Since")
    assert field("tag-report", "format")["validation"] == {"enum": ["text", "json"]}
    assert (
        "PowerShell module Az.Compute" in converted["stop-idlevm"].draft.metadata["prerequisites"]
    )
    assert converted["report"].draft.metadata["cloud_provider"] == ["aws"]


def test_what_is_generated_is_marked(converted):
    for item in converted.values():
        metadata = item.draft.metadata
        made = metadata.get("generated", [])
        assert metadata["tags"].get("generated", False) is bool(made)
        for path in made:
            text = item.draft.files[path].decode()
            if path != "shell/steps/02-restart.sh":  # the job's own script, with variables in it
                assert "enerated by `escher-playbooks import --from" in text
    assert "generated" not in converted["tag-report"].draft.metadata


def test_what_is_of_a_place_stays_there(converted):
    files = converted["site"].draft.files
    assert not any("group_vars" in path or "inventory" in path for path in files)
    _, _, skipped = read("ansible", RUNBOOKS / "ansible/site")
    assert skipped == []


def test_the_same_source_gives_the_same_draft():
    first, _, _ = read("rundeck", RUNBOOKS / "rundeck")
    again, _, _ = read("rundeck", RUNBOOKS / "rundeck")
    assert first == again


def test_one_file_and_a_folder_give_the_same(tmp_path):
    one, _, _ = read("stackstorm", RUNBOOKS / "stackstorm/pack/actions/find_volumes.yaml")
    (item,) = one.values()
    many, _, skipped = read("stackstorm", RUNBOOKS / "stackstorm/pack")
    assert item.draft.files in [other.draft.files for other in many.values()]
    assert {"pack.yaml", "actions/workflows/deploy.yaml"} <= set(skipped)


def test_what_a_playbook_includes_comes_with_it_or_is_missed(tmp_path):
    files = {
        "site.yml": "- hosts: all\n  tasks:\n    - include_tasks: tasks/a.yml\n    - import_tasks: none.yml\n"
        "    - include_vars: '{{ env }}.yml'\n    - copy: {src: tree, dest: /}\n",
        "tasks/a.yml": "- include_tasks: b.yml\n- template: {src: x.j2, dest: /x}\n",
        "tasks/b.yml": "- debug: {}\n",
        "templates/x.j2": "x",
        "files/tree/deep/y": "y",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    good, bad, _ = read("ansible", tmp_path)
    assert not bad
    (item,) = good.values()
    assert set(item.draft.files) >= {f"shell/{name}" for name in files}
    missed = [what for what in item.dropped if "includes" in what]
    assert len(missed) == 2
    assert any("none.yml" in what for what in missed)
    assert item.draft.metadata["status"] == "draft"


# -- what is refused --------------------------------------------------------------------------


REFUSED = {
    "ssm": {
        "broken.yaml": ("a: [", "not YAML"),
        "bomb.yaml": ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
        ) + "schemaVersion: '0.3'\n", "values"),
        "deep.json": ('{"schemaVersion":' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        "tag.yaml": ("schemaVersion: '0.3'\nmainSteps: !!python/object/apply:os.system ['true']\n", None),
        "loop.yaml": ("schemaVersion: '0.3'\nparameters: &p {a: *p}\n", "nested too deeply"),
    },
    "rundeck": {
        "entities.xml": ('<!DOCTYPE x [<!ENTITY a "aaaa">]><joblist>&a;</joblist>', "document type"),
        "broken.xml": ("<joblist><job>", "not XML"),
    },
    "azure-runbook": {
        "drawn.graphrunbook": ("<x/>", "graphical runbook"),
        "open.ps1": ("param([string]$a", "not closed"),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "name"), [(tool, name) for tool, names in REFUSED.items() for name in names]
)
def test_what_cannot_be_read_is_named_and_costs_itself_alone(tmp_path, tool, name):
    text, why = REFUSED[tool][name]
    (tmp_path / name).write_text(text)
    good_one = {
        "ssm": "RestartService.json",
        "rundeck": "disk-report.json",
        "azure-runbook": "tag_report.py",
    }
    shutil.copy(RUNBOOKS / FOLDERS[tool] / good_one[tool], tmp_path)
    good, bad, _ = read(tool, tmp_path)
    assert good_one[tool] in good
    if why is None:  # a tag is data
        assert name in good or name in bad
        return
    assert name in bad
    assert why in bad[name].detail
    assert bad[name].remedy


def test_of_another_tool_is_said(tmp_path):
    with pytest.raises(UsageError, match="holds no SSM document"):
        read("ssm", RUNBOOKS / "azure")
    with pytest.raises(InvalidPlaybook, match="no StackStorm action"):
        read("stackstorm", RUNBOOKS / "ssm/RestartService.json")
    with pytest.raises(UsageError, match="ssm"):
        read("chef", RUNBOOKS)
    with zipfile.ZipFile(tmp_path / "project.zip", "w") as archive:
        archive.writestr("site.yml", "- hosts: all\n")
    with pytest.raises(UsageError, match="archive"):
        read("ansible", tmp_path / "project.zip")
    with pytest.raises(NotFound):
        read("ssm", tmp_path / "none")
    assert set(TOOLS) == {"ssm", "rundeck", "stackstorm", "ansible", "azure-runbook"}


def test_links_lead_nowhere(tmp_path):
    (tmp_path / "secret").write_text("- hosts: localhost\n")
    project = tmp_path / "project"
    project.mkdir()
    (project / "site.yml").write_text("- hosts: localhost\n  vars_files: [linked.yml, ../secret]\n")
    (project / "linked.yml").symlink_to(tmp_path / "secret")
    (project / "other.yml").symlink_to(tmp_path / "secret")
    good, bad, _ = read("ansible", project)
    site = good["site.yml"]
    assert set(site.draft.files) - {PARAMETERS_FILE} == {"shell/site.yml", "shell/main.sh"}
    assert any("linked.yml" in what for what in site.dropped)
    assert site.draft.metadata["status"] == "draft"
    assert "other.yml" not in good
    assert "other.yml" in bad
