"""Rundeck jobs: YAML, JSON and XML exports, one or many jobs a file.

The job's definition stands whole in ``shell/``. Its own commands and scripts become step files beside
it, run in order by ``main.sh`` with the environment that Rundeck gives (``RD_OPTION_…``); what only
Rundeck can run (references, plugins, other nodes) is told, and ends the script before it would do
half of the job.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, Final

from core.playbooks.runbooks import main_script
from core.playbooks.runbooks.placeholders import expanded, reads_again
from core.playbooks.runbooks.runbook import ABSENT, Parameter, Runbook, one_line, slug

_OPTION = re.compile(r"\$\{option\.([^}\s]+)\}")
_IN_SCRIPT = re.compile(r"@option\.([\w.-]+)@")
_CONTEXT = re.compile(
    r"(?:\$\{|@)(?:job|node|execution|globals|data|unquotedoption)\.[\w.:*-]+(?:\}|@)"
)
_SHELLS: Final = ("sh", "bash", "ksh", "dash", "zsh")
_SUFFIXES: Final = {
    "python": ".py",
    "python3": ".py",
    "pwsh": ".ps1",
    "powershell": ".ps1",
    "ruby": ".rb",
    "perl": ".pl",
}
_KNOWN: Final = frozenset({
    "name", "description", "group", "id", "uuid", "project", "options", "sequence",
    "defaultTab", "executionEnabled", "loglevel", "nodeFilterEditable", "scheduleEnabled",
    "nodesSelectedByDefault", "nodefilters", "plugins", "context",
})  # fmt: skip
_DROPPED: Final = {
    "schedule": "the schedule", "schedules": "the schedules", "notification": "the notifications",
    "timeout": "the time limit", "retry": "the retries", "orchestrator": "the orchestrator",
    "multipleExecutions": "several executions at once", "maxMultipleExecutions": "their number",
    "logLimit": "the log limit", "runnerSelector": "the choice of a runner", "tags": "the tags",
}  # fmt: skip


def jobs_of(document: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return the jobs of an export with their places in it, in the form that YAML exports have.

    None of another document.
    """
    if isinstance(document, dict) and document.get("tag") == "joblist":
        children = enumerate(document["children"])
        return [(at, _from_xml(child)) for at, child in children if child["tag"] == "job"]
    return [
        (at, job)
        for at, job in enumerate(document if isinstance(document, list) else [document])
        if isinstance(job, dict) and "sequence" in job and isinstance(job.get("name"), str)
    ]


def runbook(path: str, own: bytes | None, job: Mapping[str, Any]) -> Runbook:
    """Make a runbook of one job of the file ``path``; ``own`` is the job's text, None where it has none."""
    group = str(job.get("group") or "")
    made = Runbook(
        "rundeck",
        "Job",
        str(job["name"]),
        str(job.get("description") or ""),
        keywords=[part for part in group.split("/") if part],
        category=group or None,
    )
    if own is None:  # of several in JSON, which has no text but its values
        made.files["shell/job.json"] = _as_json(job)
    else:
        made.files[f"shell/job{_suffix(path)}"] = own
    hidden = _options(made, job.get("options"))
    _around(made, job)
    arguments = main_script.arguments_of(made.parameters)
    text = main_script.opening("rundeck", path, arguments, defaults=True)
    text += _environment(made, job, arguments, hidden)
    sequence = job["sequence"] if isinstance(job["sequence"], dict) else {}
    keeps_going = _true(sequence.get("keepgoing"))
    commands = sequence.get("commands")
    for number, step in enumerate(commands if isinstance(commands, list) else [], 1):
        text += _step(made, number, step if isinstance(step, dict) else {}, keeps_going=keeps_going)
    if sequence.get("strategy") not in {None, "node-first", "sequential"}:
        made.drop(f"the strategy {one_line(sequence['strategy'])}: steps run one after the other")
    if keeps_going:
        text += 'exit "$failed"\n'
    made.generate("shell/main.sh", text)
    return made


def _suffix(path: str) -> str:
    return "." + (path.rpartition(".")[2] if path.endswith((".xml", ".json")) else "yaml")


def _as_json(job: Mapping[str, Any]) -> bytes:
    return (json.dumps([job], indent=2, ensure_ascii=False) + "\n").encode()


# -- options ----------------------------------------------------------------------------------


def _options(made: Runbook, declared: Any) -> set[str]:
    """Add the parameters; answers the names of those that no step may see."""
    hidden = set()
    listed = declared if isinstance(declared, list) else []
    if isinstance(declared, dict):  # before Rundeck 2.6
        listed = [
            {"name": name, **(said or {})}
            for name, said in declared.items()
            if isinstance(said or {}, dict)
        ]
    for said in listed:
        if not isinstance(said, dict) or not said.get("name"):
            continue
        name = str(said["name"])
        secure = (
            _true(said.get("secure")) or _true(said.get("secureExposed")) or "storagePath" in said
        )
        rules: dict[str, Any] = {}
        values = said.get("values")
        if isinstance(values, str):
            values = values.split(",")
        if isinstance(values, list) and values:
            rules["enum" if _true(said.get("enforced")) else "examples"] = values
        if said.get("regex"):
            rules["pattern"] = str(said["regex"])
            made.drop(
                f"option {name}: main.sh does not check its pattern, which is in parameters.json"
            )
        if _true(said.get("multivalued")):
            rules["delimiter"] = str(said.get("delimiter") or ",")
            if "enum" in rules:  # each of several values
                rules["items_enum"] = rules.pop("enum")
        if _true(said.get("isDate")):
            rules["date_format"] = str(said.get("dateFormat") or "")
        default = said.get("value", ABSENT)
        made.parameters.append(
            Parameter(
                name,
                "string",
                str(said.get("description") or said.get("label") or ""),
                required=_true(said.get("required")) and default is ABSENT,
                default=default,
                sensitive=secure,
                validation=rules,
            )
        )
        if _true(said.get("secure")) and not _true(said.get("valueExposed")):
            hidden.add(name)
            made.drop(f"option {name}: it signs in at nodes, and no step sees it")
        if secure and default is not ABSENT:
            made.drop(
                f"option {name}: its default stands in the job's text, too; take it out there"
            )
        for key, what in (("storagePath", "the key storage path"), ("valuesUrl", "the values from a URL"),
                          ("valuesListDelimiter", "the values' delimiter"), ("optionValuesPluginType", "the values of a plugin")):  # fmt: skip
            if said.get(key):
                made.drop(f"option {name}: {what} ({one_line(said[key], 120)})")
        if said.get("type") == "file":
            made.drop(f"option {name}: an uploaded file; its path is taken in its place")
    return hidden


def _environment(
    made: Runbook,
    job: Mapping[str, Any],
    arguments: list[main_script.Argument],
    hidden: set[str],
) -> str:
    lines = [f"export RD_JOB_NAME={quote(one_line(job['name']))}"]
    for argument in arguments:
        if argument.parameter.name not in hidden:
            name = _variable(argument.parameter.name)
            lines.append(f'export {name}="${{{argument.variable}:-}}"')
    lines += main_script.hidden(arguments)  # the steps have them as Rundeck gives them
    if any(a.parameter.sensitive and a.parameter.name not in hidden for a in arguments):
        made.drop("secret options reach the steps in their environment, not pasted into commands")
    lines += ["failed=0", 'cd -- "$here"', ""]
    return "\n".join(lines)


def _variable(option: str) -> str:
    return "RD_OPTION_" + re.sub(r"[^A-Z0-9]", "_", option.upper())


# -- steps ------------------------------------------------------------------------------------


def _step(made: Runbook, number: int, step: Mapping[str, Any], *, keeps_going: bool) -> str:
    label = one_line(step.get("description") or f"step {number}", 120)
    handler = step.get("errorhandler")
    if handler:
        made.drop(f"step {number}: its error handler")
    begin = f"\nprintf '%s\\n' {quote(f'== {label}')}\n"
    if isinstance(step.get("exec"), str):
        made_path = _exec(made, number, label, step["exec"])
        call = f'bash "$here/{made_path}"'
    elif isinstance(step.get("script"), str):
        call = _script(made, number, label, step)
    else:
        why = f"step {number} is {_what(step)}: only Rundeck runs it"
        made.drop(why, incomplete=True)
        return begin + main_script.refusal(why)
    if isinstance(call, list):
        return begin + "".join(call)
    return begin + (f"{call} || failed=1\n" if keeps_going else f"{call}\n")


def _exec(made: Runbook, number: int, label: str, command: str) -> str:
    known = {parameter.name for parameter in made.parameters}
    text, left = expanded(command, _OPTION, lambda name: _variable(name) if name in known else None)
    _tell(made, number, [*left, *_CONTEXT.findall(command)])
    _tell_of_code(made, number, command, _OPTION)
    path = f"steps/{number:02}-{slug(label)}.sh"
    made.generate(f"shell/{path}", f"#!/usr/bin/env bash\n{text}\n", entry=False)
    return path


def _script(made: Runbook, number: int, label: str, step: Mapping[str, Any]) -> Any:
    script = step["script"]
    interpreter = str(step.get("scriptInterpreter") or "").split()
    program = (interpreter[0].rpartition("/")[2] if interpreter else "") or _interpreter(script)
    suffix = ".sh" if program in _SHELLS else _SUFFIXES.get(program, "")
    path = f"steps/{number:02}-{slug(label)}{suffix}"
    known = {parameter.name for parameter in made.parameters}
    if program in _SHELLS:
        text, left = expanded(
            script, _IN_SCRIPT, lambda name: _variable(name) if name in known else None
        )
        if text != script:
            made.generated.add(f"shell/{path}")
    else:
        text, left = script, _IN_SCRIPT.findall(script)
    _tell(made, number, [*left, *_CONTEXT.findall(script)])
    if program in _SHELLS:
        _tell_of_code(made, number, script, _IN_SCRIPT)
    made.files[f"shell/{path}"] = text.encode()
    made.executable.add(f"shell/{path}")
    arguments, stay = expanded(
        str(step.get("args") or ""),
        _OPTION,
        lambda name: _variable(name) if name in known else None,
    )
    _tell(made, number, stay)
    if not _are_words(arguments):
        why = f"step {number}: the arguments {one_line(arguments, 80)} hold signs of the shell"
        made.drop(why, incomplete=True)
        return [main_script.refusal(why)]
    words = " ".join(map(quote, interpreter)) or ("bash" if not script.startswith("#!") else "")
    return f'{words} "$here/{path}" {arguments}'.strip()


def _are_words(arguments: str) -> bool:
    """Whether a step's arguments are words alone, in quotes that close."""
    try:
        shlex.split(arguments)
    except ValueError:
        return False
    return re.search(r"[;&|<>`\n]|\$\(", arguments) is None


def _interpreter(script: str) -> str:
    """The program that a script's first line names; bash where it names none."""
    first = script.partition("\n")[0]
    words = first[2:].split() if first.startswith("#!") else []
    named = [word.rpartition("/")[2] for word in words if not word.startswith("-")]
    return next((word for word in named if word != "env"), "bash") if named else "bash"


def _tell(made: Runbook, number: int, left: list[str]) -> None:
    if left:
        names = ", ".join(dict.fromkeys(one_line(name, 60) for name in left))
        made.drop(
            f"step {number}: {names} stays as it is, for only Rundeck fills it in", incomplete=True
        )


def _tell_of_code(made: Runbook, number: int, command: str, placeholder: re.Pattern[str]) -> None:
    if reads_again(command, placeholder):
        why = "an option's value is read once more, by another shell, program or arithmetic"
        made.drop(f"step {number}: {why}; take it from its RD_OPTION_ variable", incomplete=True)


def _what(step: Mapping[str, Any]) -> str:
    if isinstance(step.get("jobref"), dict):
        reference = step["jobref"]
        return (
            f"a reference to the job {one_line(reference.get('name') or reference.get('uuid'), 80)}"
        )
    for key, what in (
        ("scriptfile", "a script file of the server"),
        ("scripturl", "a script from a URL"),
    ):
        if step.get(key):
            return f"{what} ({one_line(step[key], 100)})"
    return f"a plugin ({one_line(step.get('type') or 'of unknown kind', 80)})"


def _around(made: Runbook, job: Mapping[str, Any]) -> None:
    filters = job.get("nodefilters")
    if isinstance(filters, dict) and set(filters) - {"dispatch"}:
        said = filters.get("filter") or filters.get("include") or filters
        made.drop(
            f"the nodes ({one_line(said, 120)}): the steps run on this machine", incomplete=True
        )
    for key, what in _DROPPED.items():
        if job.get(key):
            made.drop(what)
    for key in sorted(set(job) - _KNOWN - set(_DROPPED)):
        made.drop(f"{one_line(key, 60)}: not known here; it stands in the job's definition")


def _true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


# -- XML --------------------------------------------------------------------------------------


def _from_xml(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job of an XML export in the form that YAML exports have."""
    found: dict[str, Any] = {}
    for child in job["children"]:
        tag = child["tag"]
        if tag == "context":
            found["options"] = [
                _option_from_xml(option)
                for options in child["children"] if options["tag"] == "options"
                for option in options["children"] if option["tag"] == "option"
            ]  # fmt: skip
            found.update(
                {c["tag"]: c["text"].strip() for c in child["children"] if c["tag"] == "project"}
            )
        elif tag == "sequence":
            found["sequence"] = {
                **child["attributes"],
                "commands": [
                    _command_from_xml(c) for c in child["children"] if c["tag"] == "command"
                ],
            }
        else:
            found[tag] = _plain(child)
    return found


def _option_from_xml(option: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"enforcedvalues": "enforced", "valueExposed": "valueExposed"}
    said = {renamed.get(key, key): value for key, value in option["attributes"].items()}
    for child in option["children"]:
        said[child["tag"]] = child["text"].strip()
    return said


def _command_from_xml(command: Mapping[str, Any]) -> dict[str, Any]:
    names = {"scriptargs": "args", "scriptinterpreter": "scriptInterpreter"}
    found: dict[str, Any] = {}
    for child in command["children"]:
        tag = child["tag"]
        if tag in {"exec", "script", "description", "scriptfile", "scripturl", *names}:
            found[names.get(tag, tag)] = child["text"] if tag == "script" else child["text"].strip()
        elif tag in {"step-plugin", "node-step-plugin"}:
            found["type"] = child["attributes"].get("type")
        else:
            found[tag] = {**child["attributes"], **dict(_pairs(child))}
    return found


def _plain(element: Mapping[str, Any]) -> Any:
    if not element["children"]:
        return element["text"].strip() or dict(element["attributes"])
    return {**element["attributes"], **dict(_pairs(element))}


def _pairs(element: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for child in element["children"]:
        yield child["tag"], _plain(child)
