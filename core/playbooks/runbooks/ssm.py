"""AWS Systems Manager documents: Automation runbooks and Command documents.

None of the five formats carries one, and its steps run where Systems Manager runs them: the document
stands whole in ``shell/``, and ``main.sh`` creates it under a name made of its content (so no other
document is ever started), starts it, and waits for its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from core.files import sha256_bytes
from core.playbooks.runbooks import main_script
from core.playbooks.runbooks.runbook import ABSENT, Parameter, Runbook, looks_secret, one_line, slug

_TYPES: Final = {
    "String": "string", "StringList": "array", "Boolean": "boolean", "Integer": "integer",
    "MapList": "array", "StringMap": "object",
}  # fmt: skip
_RULES: Final = {
    "allowedPattern": "pattern", "minItems": "minItems", "maxItems": "maxItems",
    "minChars": "minLength", "maxChars": "maxLength",
}  # fmt: skip
_KNOWN: Final = frozenset({
    "schemaVersion", "description", "parameters", "mainSteps", "runtimeConfig", "assumeRole",
    "outputs", "files", "variables", "$schema",
})  # fmt: skip
_TARGETS = Parameter(
    "ssm_targets",
    description="Where the command runs, as `aws ssm send-command --targets` takes it:"
    " Key=tag:Role,Values=web, or Key=InstanceIds,Values=i-1,i-2.",
    required=True,
)
_AUTOMATION: Final = """execution="$(aws ssm start-automation-execution --document-name "$document" \\
  --parameters "file://$values" --query AutomationExecutionId --output text)"
printf 'execution %s\\n' "$execution"
while :; do
  state="$(aws ssm get-automation-execution --automation-execution-id "$execution" \\
    --query AutomationExecution.AutomationExecutionStatus --output text)"
  case "$state" in
    Success | CompletedWithSuccess) break ;;
    Failed | TimedOut | Cancelled | Rejected | Exited | CompletedWithFailure)
      printf '%s\\n' "$state" >&2
      exit 1
      ;;
  esac
  sleep 10
done
"""
_COMMAND: Final = """command="$(aws ssm send-command --document-name "$document" \\
  --targets "$PARAM_SSM_TARGETS" --parameters "file://$values" --query Command.CommandId --output text)"
printf 'command %s\\n' "$command"
while :; do
  state="$(aws ssm list-commands --command-id "$command" --query 'Commands[0].Status' --output text)"
  case "$state" in
    Success) break ;;
    Failed | TimedOut | Cancelled)
      printf '%s\\n' "$state" >&2
      exit 1
      ;;
  esac
  sleep 5
done
"""


def is_document(document: Any) -> bool:
    """Whether a document is one of Systems Manager's."""
    return isinstance(document, dict) and "schemaVersion" in document


def runbook(path: str, content: bytes, document: Mapping[str, Any]) -> Runbook:
    """Make a runbook of the SSM document in the file ``path``."""
    version = str(document["schemaVersion"])
    is_automation = version == "0.3"
    name = PurePosixPath(path).name
    for suffix in (".json", ".yaml", ".yml", ".ssm", ".document"):
        name = name.removesuffix(suffix)
    made = Runbook(
        "ssm",
        "Automation runbook" if is_automation else "Command document",
        name,
        str(document.get("description") or ""),
        clouds=["aws"],
        keywords=["systems-manager", "automation" if is_automation else "run-command"],
        category="automation",
        prerequisites=["AWS CLI, signed in", "Permission to create and start SSM documents"],
    )
    is_json = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    stored = f"shell/document.{'json' if is_json else 'yaml'}"
    made.files[stored] = content
    _parameters(made, document.get("parameters"))
    _steps(made, document, version)
    if "assumeRole" in document:
        made.prerequisites.append(f"The role of assumeRole: {one_line(document['assumeRole'])}")
    for key in sorted(set(document) - _KNOWN):
        made.drop(f"{key}: not known here; it stands in the document")
    _script(made, path, stored, version)
    return made


def _script(made: Runbook, path: str, stored: str, version: str) -> None:
    is_automation = version == "0.3"
    arguments = main_script.arguments_of(made.parameters)
    own = arguments
    if not is_automation:
        made.parameters.insert(0, _TARGETS)
        arguments = main_script.arguments_of(made.parameters)
        own = arguments[1:]
    text = main_script.opening("ssm", path, arguments)
    if version == "1.0":
        made.drop("a Session document starts no work by itself", incomplete=True)
        made.generate(
            "shell/main.sh", text + main_script.refusal("a Session document starts no work")
        )
        return
    content = made.files[stored]
    called = f"escher-{slug(made.name)}-{sha256_bytes(content)[7:19]}"
    text += main_script.values_file(own, lists=True)
    text += "\n".join([
        f"document={called}",
        'if ! aws ssm describe-document --name "$document" >/dev/null 2>&1; then',
        '  aws ssm create-document --name "$document" \\',
        f"    --document-type {'Automation' if is_automation else 'Command'} \\",
        f"    --document-format {stored.rpartition('.')[2].upper()} \\",
        f'    --content "file://$here/{stored.removeprefix("shell/")}" >/dev/null',
        "fi",
        "",
    ])  # fmt: skip
    made.generate("shell/main.sh", text + (_AUTOMATION if is_automation else _COMMAND))


def _parameters(made: Runbook, declared: Any) -> None:
    for name, said in (declared if isinstance(declared, dict) else {}).items():
        if not isinstance(said, dict):
            continue
        kind = str(said.get("type", "String"))
        rules = {ours: said[theirs] for theirs, ours in _RULES.items() if theirs in said}
        if isinstance(said.get("allowedValues"), list):
            rules["enum"] = said["allowedValues"]
        if kind.startswith(("AWS::", "List<AWS::")):
            rules["aws_type"] = kind
            _, *parts = kind.removeprefix("List<").rstrip(">").lower().split("::")
            made.resource_types.append("::".join(parts[:2]))
        default = said.get("default", ABSENT)
        shown_as = "array" if kind.startswith("List<") else _TYPES.get(kind, "string")
        if isinstance(default, str) and default.startswith("{{"):
            rules["ssm_default"] = default  # of the Parameter Store, which Systems Manager reads
            default = ABSENT
        made.parameters.append(
            Parameter(
                name,
                shown_as,
                str(said.get("description") or ""),
                required="default" not in said,
                default=default,
                sensitive=looks_secret(name),
                validation=rules,
            )
        )
        if looks_secret(name):
            made.drop(
                f"parameter {name}: kept secret here for its name; Systems Manager logs it in clear"
            )
        for key in sorted(set(said) & {"displayType", "interpolationType"}):
            made.drop(f"parameter {name}: {key} ({said[key]}) is Systems Manager's own")


def _steps(made: Runbook, document: Mapping[str, Any], version: str) -> None:
    steps = document.get("mainSteps")
    actions = [str(step.get("action")) for step in steps or () if isinstance(step, dict)]
    runtime = document.get("runtimeConfig")
    actions += list(runtime) if isinstance(runtime, dict) else []
    made.keywords += [action.removeprefix("aws:") for action in actions]
    if not actions and version != "1.0":
        made.drop("it has no step", incomplete=True)
    for step in steps or ():
        inputs = step.get("inputs") if isinstance(step, dict) else None
        if isinstance(inputs, dict) and step.get("action") == "aws:executeAwsApi":
            service = str(inputs.get("Service", ""))
            made.keywords.append(service)
    attached = document.get("files")
    if isinstance(attached, dict) and attached:
        names = ", ".join(sorted(one_line(name, 80) for name in attached))
        made.drop(f"attachments ({names}): attach them to the document in AWS", incomplete=True)
