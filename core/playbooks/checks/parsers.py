"""The parsers of the five script formats; this module is imported in children of the sandbox only.

::

    shell            bash -n: it reads the script and runs none of it
    cloudformation   PyYAML's events, or as below
    arm              strict JSON: an object, without NaN or Infinity
    terraform        python-hcl2's grammar, or as above
    python           ast.parse: nothing is compiled or run

Each gives `Complaint`s. What parsers put between quotes is script text, and script text may be a
password: none of it gets into a complaint.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import subprocess
import time
import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from core.playbooks.checks import MAX_MESSAGE_CHARS, NO_BASH, Complaint

if TYPE_CHECKING:
    from lark import Lark

DEADLINE_SECONDS = 8  # of bash and HCL, before the sandbox would end the child
MAX_YAML_DEPTH = 200
_TOO_DEEP = Complaint(None, "nested too deep to be parsed")

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`']*['`]")
# Kept are only things no one uses as a password: punctuation, and words of the languages themselves.
_LANGUAGE_WORDS = frozenset(keyword.kwlist) | {
    "newline", "then", "do", "done", "fi", "elif", "esac", "case", "until", "select",
    "function", "time", "print", "exec", "utf-8", "unicodeescape",
}  # fmt: skip
_PUNCTUATION = re.compile(r"[^\w\s]{1,3}")


def complaints(argument: dict[str, Any], content: bytes) -> list[Complaint]:
    """What the parser of its format says of a script.

    ``argument`` is ``{path, bash}``: the path ``format/…``, and where bash is or None.
    """
    path, bash = str(argument["path"]), argument["bash"]
    script_format, suffix = path.split("/", 1)[0], PurePosixPath(path).suffix
    if (at := content.find(b"\0")) >= 0:
        return [Complaint(content.count(b"\n", 0, at) + 1, "it holds a NUL byte")]
    try:
        if script_format == "python":
            return _python(content)
        # a byte order mark is no fault of JSON or YAML on Windows; bash chokes on it by itself
        text = content.decode("utf-8" if script_format == "shell" else "utf-8-sig")
        if script_format == "shell":
            return _shell(text, bash) if _is_for_bash(path, text) else []
        if suffix == ".json" or (script_format == "cloudformation" and text.lstrip()[:1] == "{"):
            return _json(text)
        return _yaml(text) if script_format == "cloudformation" else _terraform(text)
    except UnicodeDecodeError as error:
        return [Complaint(content.count(b"\n", 0, error.start) + 1, "it is not UTF-8 text")]
    except (RecursionError, MemoryError):
        return [_TOO_DEEP]


def without_script_text(message: str) -> str:
    """The parser's words with everything it quotes from the script replaced by `…`."""
    return _QUOTED.sub(_kept_or_dots, message)[:MAX_MESSAGE_CHARS]


def _kept_or_dots(found: re.Match[str]) -> str:
    inner = found[0][1:-1]
    if inner in _LANGUAGE_WORDS or _PUNCTUATION.fullmatch(inner):
        return found[0]
    return "'…'"


# -- python -----------------------------------------------------------------------------------


def _python(content: bytes) -> list[Complaint]:
    """Takes the bytes, for a `# coding:` line may choose their encoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(content)
    except SyntaxError as error:
        said = error.msg or "invalid syntax"
        if "encoding" in said:
            # these name the encoding that the script asked for
            said = "an unknown or wrong source encoding"
        return [Complaint(error.lineno, without_script_text(said))]
    except (ValueError, OverflowError) as error:
        return [Complaint(None, f"Python refuses it ({type(error).__name__})")]
    return []


# -- json -------------------------------------------------------------------------------------


class _NotJson(ValueError):
    """NaN, Infinity and -Infinity, which Python's parser takes and JSON does not have."""


def _refuse_constant(name: str) -> None:
    raise _NotJson(name)


def _json(text: str) -> list[Complaint]:
    try:
        # numbers stay text: an integer of a million digits takes minutes to convert
        parsed = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # column, too, for machine-written JSON may be one single line
        return [Complaint(error.lineno, f"{error.msg.removesuffix(' at')}: column {error.colno}")]
    except _NotJson as error:
        return [Complaint(None, f"{error} is not JSON")]
    if not isinstance(parsed, dict):
        return [Complaint(None, "the document is not a JSON object")]
    return []


# -- yaml -------------------------------------------------------------------------------------

# libyaml's parser is ten times as fast; not every build of PyYAML has it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_CORE_TAGS = frozenset(
    _CORE + name
    for name in (
        "null", "bool", "int", "float", "binary", "timestamp", "omap", "pairs", "set", "str",
        "seq", "map", "merge", "value",
    )
)  # fmt: skip


def _yaml(text: str) -> list[Complaint]:
    try:
        complaint = _first_in_events(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = without_script_text(error.problem or error.context or "not YAML")
        complaint = Complaint(mark.line + 1 if mark else None, said)
    except yaml.YAMLError:
        # the reader's errors: they quote the character
        complaint = Complaint(None, "it holds a character that YAML does not allow")
    return [] if complaint is None else [complaint]


def _first_in_events(text: str) -> Complaint | None:
    """What is wrong with a template's events.

    They are read and not loaded. So the short forms (`!Ref`, `!Sub`, any `!X`) need no
    constructors, nothing is built or run, and neither an alias bomb nor deep nesting costs more
    than the length of the text.
    """
    anchors: set[str] = set()
    documents = depth = 0
    root: yaml.Event | None = None
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return Complaint(line, "a template is one YAML document, and here starts another")
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                return Complaint(line, "an alias (*) without its anchor (&)")
        elif isinstance(event, yaml.NodeEvent):
            root = root or event
            if event.anchor:
                anchors.add(event.anchor)
            tag = getattr(event, "tag", None)
            if tag and not tag.startswith("!") and tag not in _CORE_TAGS:
                said = "a YAML tag (!!) that is neither YAML's nor CloudFormation's"
                return Complaint(line, said)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_YAML_DEPTH:
                return Complaint(line, f"nested deeper than {MAX_YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    if not isinstance(root, yaml.MappingStartEvent):
        return Complaint(None, "the template is not a mapping")
    return None


# -- shell ------------------------------------------------------------------------------------

_SHELLS = frozenset({"sh", "bash", "dash", "ksh"})
_SAID = re.compile(r"^/dev/stdin: line (?P<line>\d+): (?P<said>.*)$")
# What comes of no script text: anything else bash says is reported by its place alone.
_KNOWN = re.compile(
    r"syntax error near unexpected token `(?P<token>[^']*)'"
    r"|syntax error: unexpected end of file"
    r"|unexpected EOF while looking for matching `.'"
    r"|unexpected token `[^']*', conditional binary operator expected"
    r"|unexpected argument `[^']*' to conditional (?:unary|binary) operator"
    r"|conditional binary operator expected"
    r"|unexpected token `[^']*' in conditional command"
    r"|maximum here-document count exceeded"
    r"|warning: here-document at line \d+ delimited by end-of-file(?= )"
)


def _is_for_bash(path: str, text: str) -> bool:
    """`*.sh`, `*.bash` or no suffix at all, unless a `#!` line names another interpreter."""
    if PurePosixPath(path).suffix not in {"", ".sh", ".bash"}:
        return False
    first = text.split("\n", 1)[0]
    if not first.startswith("#!"):
        return True
    words = [PurePosixPath(word).name for word in first[2:].split()]
    return any(word in _SHELLS for word in words)


def _shell(text: str, bash: str | None) -> list[Complaint]:
    """Takes about 3 ms, most of it the new process."""
    if bash is None:
        return [Complaint(None, NO_BASH)]
    try:
        done = subprocess.run(
            # as a file, not as standard input: only so are lines numbered and reads buffered
            [bash, "--noprofile", "--norc", "-n", "/dev/stdin"],
            input=text.encode(),
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            # BASH_ENV or exported functions of ours would be run before -n counts
            env={"LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return [Complaint(None, f"not checked: bash took longer than {DEADLINE_SECONDS} s")]
    except OSError as error:
        return [Complaint(None, f"not checked: bash did not start ({error.strerror})")]
    if done.returncode < 0:
        said = f"bash gave up on it (signal {-done.returncode}): nested too deep?"
        return [Complaint(None, said)]
    found: list[Complaint] = []
    for line in done.stderr.decode("utf-8", "replace").splitlines():
        match = _SAID.match(line)
        if match is None:
            continue
        known = _KNOWN.match(match["said"])
        if known:
            found.append(Complaint(int(match["line"]), without_script_text(known[0])))
        elif not found:
            found.append(Complaint(int(match["line"]), "bash refuses this line"))
    if done.returncode and not found:
        found.append(Complaint(None, "bash refuses it"))
    return found


# -- terraform --------------------------------------------------------------------------------

_TOKENS_BETWEEN_LOOKS = 256


def _terraform(text: str) -> list[Complaint]:
    """The slow one: about 180 KB/s (9 ms for a usual file), so a deadline stands over it."""
    # only when there is Terraform to check: importing and building takes 0.3-2.5 s
    from hcl2.parser import parser
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

    built: Lark = parser()
    try:
        finished = _parse(built, text + "\n", time.monotonic() + DEADLINE_SECONDS)
    except UnexpectedToken as error:
        if error.token.type == "$END":
            return [Complaint(None, "unexpected end of file")]
        return [Complaint(error.line, f"unexpected {error.token.type}")]
    except UnexpectedCharacters as error:
        return [Complaint(error.line, "unexpected character")]
    except UnexpectedInput:
        return [Complaint(None, "unexpected end of file")]
    if not finished:
        return [Complaint(None, f"not checked: parsing took longer than {DEADLINE_SECONDS} s")]
    return []


def _parse(parser: Lark, text: str, deadline: float) -> bool:
    """False when the deadline came first."""
    # token by token instead of `parser.parse`: only so can it be stopped
    interactive = parser.parse_interactive(text)
    last = None
    for count, token in enumerate(interactive.iter_parse()):
        last = token
        if count % _TOKENS_BETWEEN_LOOKS == 0 and time.monotonic() > deadline:
            return False
    interactive.feed_eof(last)  # type: ignore[no-untyped-call]  # lark left its hint out
    return True
