"""Judges CloudFormation and ARM templates; what is none by its keys (parameters, tags, inputs) is not judged.

::

    CloudFormation   a format version, sections of a template, or resources of AWS types; YAML read as
                     events, or JSON                       a template of it needs Resources, each with a Type
    ARM              $schema …deploymentTemplate.json#, or contentVersion and resources; JSON as Azure
                     takes it                              a template of it needs resources

A file named ``template.*``, ``azuredeploy.json`` or ``mainTemplate.json`` is meant as one, whatever it
holds. What does not parse counts as one where its text shows the marks of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from core.playbooks.checks.json_text import BadJsonText, read_json
from core.playbooks.checks.words import Complaint
from core.playbooks.checks.yaml_shape import OTHER, Document, Entry, documents, json_as_document

_MEANT: Final = {
    "cloudformation": re.compile(r"template\.(?:ya?ml|json|template)"),
    "arm": re.compile(r"(?:azuredeploy|mainTemplate|template)\.json", re.IGNORECASE),
}

LOOKS: Final = {
    "cloudformation": re.compile(
        r"^[ {\t]*[\"']?(?:AWSTemplateFormatVersion|Resources)[\"']?[ \t]*:"
        r"|^\s*[\"']?Type[\"']?\s*:\s*[\"']?(?:AWS|Custom)::",
        re.MULTILINE,
    ),
    "arm": re.compile(
        r'"\$schema"\s*:\s*"[^"]*schema\.management\.azure\.com|"contentVersion"\s*:', re.IGNORECASE
    ),
}
"""Marks of a template in a text that does not parse."""


def looks_like_template(judge: str, path: str, text: str) -> bool:
    """Whether a file that can't be read is meant as a template, by its name or its text."""
    return _is_meant(judge, path) or LOOKS[judge].search(text) is not None


# -- CloudFormation ---------------------------------------------------------------------------

_SECTIONS: Final = frozenset({
    "AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Rules", "Mappings",
    "Conditions", "Transform", "Globals", "Hooks", "Resources", "Outputs",
    "Modules", "Packages", "Constants",  # of tools that make a template of it: aws-cli, Rain
})  # fmt: skip
_ATTRIBUTES: Final = frozenset({
    "Type", "Properties", "DependsOn", "Condition", "Metadata", "CreationPolicy", "UpdatePolicy",
    "UpdateReplacePolicy", "DeletionPolicy", "Description", "Version", "Connectors", "IgnoreGlobals",
    "Comment", "ForEach", "Controls",  # the last of AWS's conformance packs
})  # fmt: skip
TAGS: Final = frozenset({
    "!Ref", "!Sub", "!GetAtt", "!Join", "!Select", "!Split", "!If", "!Equals", "!And", "!Or",
    "!Not", "!Condition", "!FindInMap", "!ImportValue", "!Base64", "!Cidr", "!GetAZs",
    "!Transform", "!Length", "!ToJsonString", "!ForEach", "!Contains", "!EachMemberEquals",
    "!EachMemberIn", "!RefAll", "!ValueOf", "!ValueOfAll", "!GetStackOutput",
})  # fmt: skip
_TAGS_OF_TOOLS: Final = ("!Rain::",)
_AWS_TYPE = re.compile(r"(?:AWS|Alexa|Custom|[A-Z]\w*)::\w+(?:::[\w-]+)*")
_LEVELS_WITHOUT_NULL: Final = 4
"""CloudFormation refuses null; deeper than this it is mostly left to be filled in, not misplaced."""
_MACROS_THAT_KEEP_SECTIONS: Final = ("AWS::Serverless", "AWS::LanguageExtensions", "AWS::CodeDeploy",
                                     "AWS::SecretsManager")  # fmt: skip


def cloudformation(path: str, text: str) -> list[Complaint]:
    """What is wrong with a template; nothing where the file is none."""
    meant = _is_meant("cloudformation", path)
    is_json = _is_json(path, text)
    if is_json:
        try:
            found = [json_as_document(read_json(text))]
        except BadJsonText as error:
            if PurePosixPath(path).suffix not in {".yaml", ".yml"}:
                return (
                    [error.complaint] if looks_like_template("cloudformation", path, text) else []
                )
            is_json = False  # a flow mapping of YAML begins with a brace, too
    if not is_json:
        found, broken = documents(text)
        if broken is not None:
            return [broken] if looks_like_template("cloudformation", path, text) else []
    said = _judge(found, meant=meant)
    if is_json and said and said[0].line is None:
        # JSON's parser knows no lines; as YAML, where it can be read so, it has them
        again, broken = documents(text.replace("\t", " "))
        said = (None if broken else _judge(again, meant=meant)) or said
    return [complaint._replace(line=complaint.line or 1) for complaint in said]


def holds_template(path: str, text: str) -> bool:
    """Whether a file that is read without a fault is a CloudFormation template."""
    if _is_json(path, text):
        try:
            return is_template(json_as_document(read_json(text)).root)
        except BadJsonText:
            return False
    found, broken = documents(text)
    return broken is None and any(is_template(document.root) for document in found)


def _is_meant(script_format: str, path: str) -> bool:
    _, _, name = path.partition("/")
    return "/" not in name and _MEANT[script_format].fullmatch(name) is not None


def _is_json(path: str, text: str) -> bool:
    return PurePosixPath(path).suffix == ".json" or text.lstrip()[:1] == "{"


def _judge(found: list[Document], *, meant: bool) -> list[Complaint]:
    templates = [document for document in found if is_template(document.root)]
    if not templates:
        if not meant or not found:
            return [Complaint(1, "the template is empty")] if meant else []
        if isinstance(found[0].root.value, dict):
            return [Complaint(found[0].root.line, _NO_RESOURCES)]
        return [Complaint(found[0].root.line, "the template is not a mapping")]
    if len(found) > 1:
        line = found[1].root.line
        return [Complaint(line, "a template is one YAML document, and here starts another")]
    document = templates[0]
    for tag, line in document.tags:
        if tag not in TAGS and not tag.startswith(_TAGS_OF_TOOLS):
            return [Complaint(line, "a YAML tag (!…) that CloudFormation does not know")]
    if document.fault is not None:
        return [document.fault]
    said = list(_structure(document.root.value))
    if not said and not _is_macro(document.root.value.get("Transform")):
        said = [
            Complaint(line, "a key without a value: is the indentation right?")
            for level, line in document.nulls
            if 1 < level <= _LEVELS_WITHOUT_NULL
        ]
    return said[:1]


_NO_RESOURCES: Final = "Resources is missing: CloudFormation refuses a template without it"


def is_template(root: Entry) -> bool:
    """Whether a document's root is a CloudFormation template, by its keys alone."""
    top = root.value
    if not isinstance(top, dict):
        return False
    if "AWSTemplateFormatVersion" in top:
        return True
    sections = _mappings(top)
    if any(map(_is_aws_resource, _members(sections.get("Resources")))):
        return True
    known = all(key in _SECTIONS for key in top)
    if "Resources" in top or "Transform" in top:
        return known
    if known and (
        _has(sections.get("Parameters"), "Type") or _has(sections.get("Outputs"), "Value")
    ):
        return True
    # a section's name may be what is wrong
    return any(any(map(_is_aws_resource, _members(section))) for section in sections.values())


def _mappings(top: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    return {key: entry.value for key, entry in top.items() if isinstance(entry.value, dict)}


def _members(section: Mapping[str, Entry] | None) -> Iterator[dict[str, Entry]]:
    for entry in (section or {}).values():
        if isinstance(entry.value, dict):
            yield entry.value


def _has(section: Mapping[str, Entry] | None, key: str) -> bool:
    return any(key in member for member in _members(section))


def _is_aws_resource(member: Mapping[str, Entry]) -> bool:
    type_ = member.get("Type")
    return (
        type_ is not None
        and isinstance(type_.value, str)
        and bool(_AWS_TYPE.fullmatch(type_.value))
    )


def _structure(top: Mapping[str, Entry]) -> Iterator[Complaint]:
    transform = top.get("Transform")
    if "Fn::Transform" in top or "<<" in top or _includes(transform):
        return  # what it is made into is not known here
    if _is_macro(transform):
        if "Resources" not in top:
            yield Complaint(1, _NO_RESOURCES)
        return
    for key, entry in top.items():
        if key not in _SECTIONS:
            yield Complaint(entry.line, "not a section of a template: is the indentation right?")
    resources = top.get("Resources")
    if resources is None:
        yield Complaint(1, _NO_RESOURCES)
        return
    if not isinstance(resources.value, dict):
        if resources.value is not OTHER:
            yield Complaint(resources.line, "Resources is not a mapping: is the indentation right?")
        return
    for name, entry in resources.value.items():
        if not name.startswith("Fn::") and name != "<<":
            yield from _resource(entry)
    for section, needed in (("Parameters", "Type"), ("Outputs", "Value")):
        yield from _needs(top.get(section), section, needed)


def _includes(transform: Entry | None) -> bool:
    """Whether AWS::Include, or what else has parameters, may bring whole sections."""
    if transform is None:
        return False
    named = transform.value if isinstance(transform.value, list) else [transform.value]
    return any(not isinstance(name, str) for name in named)


def _is_macro(transform: Entry | None) -> bool:
    """Whether a macro of the user's own makes something else of what it finds."""
    if transform is None:
        return False
    named = transform.value if isinstance(transform.value, list) else [transform.value]
    return not all(
        isinstance(name, str) and name.startswith(_MACROS_THAT_KEEP_SECTIONS) for name in named
    )


def _resource(entry: Entry) -> Iterator[Complaint]:
    if entry.value is OTHER:
        return
    if not isinstance(entry.value, dict):
        yield Complaint(
            entry.line, "a resource is a mapping with a Type: is the indentation right?"
        )
        return
    if "<<" in entry.value or any(key.startswith("Fn::") for key in entry.value):
        return
    type_ = entry.value["Type"].value if "Type" in entry.value else ""
    # SAM passes over what it does not know, and modules of tools have attributes of their own
    is_strict = isinstance(type_, str) and not type_.startswith("AWS::Serverless::")
    for key, attribute in entry.value.items():
        if is_strict and key not in _ATTRIBUTES:
            yield Complaint(
                attribute.line, "not an attribute of a resource: is the indentation right?"
            )
    if "Type" not in entry.value:
        yield Complaint(entry.line, "a resource without a Type")


def _needs(section: Entry | None, name: str, needed: str) -> Iterator[Complaint]:
    if section is None or not isinstance(section.value, dict):
        return
    for key, entry in section.value.items():
        if key.startswith("Fn::") or key == "<<" or entry.value is OTHER:
            continue
        if not isinstance(entry.value, dict) or not {needed, "<<"} & entry.value.keys():
            yield Complaint(entry.line, f"one of the {name} without a {needed}")


# -- ARM --------------------------------------------------------------------------------------

_ARM_SCHEMA = re.compile(r"deploymentTemplate\.json", re.IGNORECASE)


def arm(path: str, text: str) -> list[Complaint]:
    """What is wrong with a template for Azure Resource Manager; nothing where the file is none."""
    meant = _is_meant("arm", path)
    try:
        root = read_json(text, relaxed=True)
    except BadJsonText as error:
        is_one = looks_like_template("arm", path, text)
        return [error.complaint._replace(line=error.complaint.line or 1)] if is_one else []
    if not isinstance(root, dict):
        return [Complaint(1, "the template is not a JSON object")] if meant else []
    keys = {key.lower(): value for key, value in root.items()}
    if not (meant or _is_arm_template(keys)) or _is_of_parameters(path, keys):
        return []
    resources = keys.get("resources")
    if resources is None:
        return [Complaint(1, "resources is missing: Azure refuses a template without it")]
    if not isinstance(resources, list | dict):
        return [Complaint(1, "resources is neither an array nor an object")]
    return []


def _is_arm_template(keys: Mapping[str, Any]) -> bool:
    schema = keys.get("$schema")
    if isinstance(schema, str):
        return _ARM_SCHEMA.search(schema) is not None
    return "contentversion" in keys and isinstance(keys.get("resources"), list | dict)


def _is_of_parameters(path: str, keys: Mapping[str, Any]) -> bool:
    """Whether a file holds values of parameters; some carry a template's $schema by mistake."""
    parameters = keys.get("parameters")
    if not keys.keys() <= {"$schema", "contentversion", "parameters"} or not isinstance(
        parameters, dict
    ):
        return False
    values = [value for value in parameters.values() if isinstance(value, dict)]
    if not values:
        return "param" in PurePosixPath(path).name.lower()
    return all(not value.keys().isdisjoint({"value", "reference"}) for value in values)
