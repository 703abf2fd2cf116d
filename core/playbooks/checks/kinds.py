"""Finds out what a file of a format folder is; answers who judges it, or why nobody does.

::

    shell/           a ``#!`` line, else a mode line, else the suffix: bash judges sh, dash, ash and bash,
                     Python its own; other shells are named, everything else (LICENSE, Makefile) is no script
    cloudformation/  *.yaml *.yml *.json *.template    templates by their keys, see `templates`
    arm/             *.json                            likewise
    terraform/       *.tf *.tofu *.tfvars …            HCL; *.tf.json and the like: JSON
    python/          *.py *.pyw, or a ``#!`` line

What a tool still has to fill in (`*.j2`, `*.tpl`, …) is nobody's, and so is all other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final, NamedTuple

BOM: Final = b"\xef\xbb\xbf"
_HEAD_BYTES: Final = 4096


class Kind(NamedTuple):
    """Who judges a file; ``note`` says why none does where somebody may wonder.

    ``unix_lines`` is true where a carriage return before a line's end breaks the script.
    """

    judge: str | None
    note: str | None = None
    unix_lines: bool = False


UNJUDGED: Final = Kind(None)
_BASH: Final = Kind("bash", unix_lines=True)
_PYTHON: Final = Kind("python")

_TO_BE_FILLED_IN: Final = frozenset({
    ".j2", ".jinja", ".jinja2", ".tmpl", ".tpl", ".tftpl", ".gotmpl", ".erb", ".mustache", ".in",
    ".ejs", ".hbs",
})  # fmt: skip
_FOR_BASH: Final = re.compile(r"(?:r?bash|sh|dash|ash|busybox)(?:-?\d[\d.]*)?")
_FOR_PYTHON: Final = re.compile(r"(?:python|pypy)(?:3(?:\.\d+)?)?[a-z]?")
_OTHERS: Final = {
    "zsh": "zsh", "ksh": "ksh", "ksh93": "ksh", "ksh88": "ksh", "mksh": "ksh", "pdksh": "ksh",
    "oksh": "ksh", "lksh": "ksh", "yash": "yash", "csh": "csh", "tcsh": "tcsh", "fish": "fish", "pwsh": "PowerShell",
    "powershell": "PowerShell", "awk": "awk", "gawk": "awk", "mawk": "awk", "nawk": "awk",
    "nu": "Nushell", "elvish": "Elvish", "xonsh": "xonsh", "osh": "Oils", "ysh": "Oils",
    "bats": "Bats", "expect": "Expect", "tclsh": "Tcl", "wish": "Tcl", "perl": "Perl",
    "ruby": "Ruby", "node": "Node.js", "nodejs": "Node.js", "deno": "Deno", "bun": "Bun",
    "tsx": "TypeScript", "ts-node": "TypeScript", "php": "PHP", "lua": "Lua", "luajit": "Lua",
    "sed": "sed", "make": "make", "groovy": "Groovy", "rscript": "R", "ansible-playbook": "Ansible",
    "ansible": "Ansible", "terraform": "Terraform", "scala": "Scala", "guile": "Guile", "jq": "jq",
    "java": "Java", "jbang": "Java", "kscript": "Kotlin", "kotlin": "Kotlin", "go": "Go",
    "openrc-run": "openrc-run", "runscript": "openrc-run", "nft": "nft", "ipxe": "iPXE",
    "nix-shell": "nix-shell", "uv": "uv", "emacs": "Emacs Lisp", "sbcl": "Lisp", "escript": "Erlang",
    "swift": "Swift", "crystal": "Crystal", "raku": "Raku", "env": "another interpreter",
    "python2": "Python 2", "python2.6": "Python 2", "python2.7": "Python 2", "pypy2": "Python 2",
}  # fmt: skip
_NO_UNIX_LINES: Final = frozenset({"PowerShell", "Node.js", "Deno", "Bun", "TypeScript"})
_SUFFIX_OF_OTHERS: Final = {
    ".zsh": "zsh", ".ksh": "ksh", ".mksh": "ksh", ".csh": "csh", ".tcsh": "tcsh", ".fish": "fish",
    ".ps1": "PowerShell", ".psm1": "PowerShell", ".awk": "awk", ".nu": "Nushell",
    ".elv": "Elvish", ".xsh": "xonsh", ".bats": "Bats", ".bat": "cmd.exe", ".cmd": "cmd.exe",
    ".exp": "Expect", ".tcl": "Tcl",
}  # fmt: skip
_HCL: Final = (".tf", ".tofu", ".tfvars", ".tftest.hcl", ".tofutest.hcl", ".pkr.hcl", ".pkrvars.hcl",
               "terragrunt.hcl", ".terraform.lock.hcl")  # fmt: skip
_HCL_JSON: Final = (".tf.json", ".tofu.json", ".tfvars.json", ".tftest.json", ".pkr.json")
# ``# shellcheck shell=ksh``, Emacs' and vim's mode lines, and what zsh's completions begin with
_MODE = re.compile(rb"(?:\bshell=|\bsh-shell:|\bmode:|\bft=|\bfiletype=)\s*([a-z0-9]+)")
_OF_ZSH = (b"#compdef", b"#autoload")
# ``exec tclsh "$0"``: what begins as a script of sh hands itself to another program at once
_HANDS_OVER = re.compile(
    rb"""^[\s:'"]*exec\s+(?:/\S*/|/usr/bin/env\s+)?([a-z]+)[\d.]*\b[^\n|;]*["'\s]\$\{?0\b""",
    re.MULTILINE,
)
_HEAD_LINES: Final = 15


def kind_of(path: str, content: bytes) -> Kind:
    """Say what the file at ``format/…`` is; never raises."""
    script_format, _, rest = path.partition("/")
    name = PurePosixPath(rest).name
    if PurePosixPath(name).suffix.lower() in _TO_BE_FILLED_IN:
        return UNJUDGED
    if script_format == "shell":
        return _in_shell(name, content)
    lower = name.lower()
    if script_format == "python":
        if lower.endswith((".py", ".pyw")) or not PurePosixPath(name).suffix:
            return _in_python(lower, content)
        return UNJUDGED
    if script_format == "terraform":
        if lower.endswith(_HCL_JSON):
            return Kind("json")
        return Kind("hcl") if lower.endswith(_HCL) else UNJUDGED
    if script_format == "cloudformation":
        is_one = lower.endswith((".yaml", ".yml", ".json", ".template"))
        return Kind("cloudformation") if is_one else UNJUDGED
    return Kind("arm") if script_format == "arm" and lower.endswith(".json") else UNJUDGED


def first_line(content: bytes) -> bytes:
    """The first line without a byte order mark and its end."""
    return content[:_HEAD_BYTES].removeprefix(BOM).split(b"\n", 1)[0].rstrip(b"\r")


def _in_python(name: str, content: bytes) -> Kind:
    named = _by_interpreter(content)
    if named is not None and (named is _PYTHON or named.note == _note("Python 2")):
        return named
    return _PYTHON if name.endswith((".py", ".pyw")) else UNJUDGED


def _in_shell(name: str, content: bytes) -> Kind:
    suffix = PurePosixPath(name).suffix.lower()
    kind = _by_interpreter(content)
    if kind is None:
        if name.startswith(".") and not suffix:
            return UNJUDGED
        if suffix in {".sh", ".bash"}:
            kind = _by_mode_line(content) or _BASH
        elif suffix in _SUFFIX_OF_OTHERS:
            kind = _other(_SUFFIX_OF_OTHERS[suffix])
        else:
            return UNJUDGED
    if kind is _BASH:
        head = b"\n".join(content[:_HEAD_BYTES].split(b"\n", _HEAD_LINES)[:_HEAD_LINES])
        over = _HANDS_OVER.search(head)
        program = over[1].decode() if over else ""
        if program in _OTHERS and program != "env":
            return _other(_OTHERS[program])
        if _FOR_PYTHON.fullmatch(program):
            return _PYTHON
    return kind


def _by_interpreter(content: bytes) -> Kind | None:
    """By the ``#!`` line; None where there is none."""
    line = first_line(content)
    if not line.startswith(b"#!"):
        return None
    for word in _words(line[2:].decode("utf-8", "replace")):
        if word == "nix-shell":
            return _by_nix(content)
        if _FOR_BASH.fullmatch(word):
            return _BASH
        if _FOR_PYTHON.fullmatch(word):
            return _PYTHON
        # versions stand in names: perl5.36, lua5.4, ruby3
        known = _OTHERS.get(word) or _OTHERS.get(re.sub(r"-?\d[\d.]*$", "", word))
        if known and word != "env":
            return _other(known)
    return _other("another interpreter")


def _words(line: str) -> Iterator[str]:
    for word in line.split():
        if not word.startswith("-") and "=" not in word:
            yield PurePosixPath(word).name.lower()


def _by_nix(content: bytes) -> Kind:
    """``#! nix-shell -i bash`` on one of the next lines names the real one."""
    named = re.search(
        rb"^#!\s*nix-shell\s.*?-i\s*([a-z0-9.]+)", content[:_HEAD_BYTES], re.MULTILINE
    )
    if named is None:
        return _other("nix-shell")
    return _by_interpreter(b"#!" + named[1]) or _other("nix-shell")


def _by_mode_line(content: bytes) -> Kind | None:
    if content.startswith(_OF_ZSH):
        return _other("zsh")
    for line in content[:_HEAD_BYTES].split(b"\n", _HEAD_LINES)[:_HEAD_LINES]:
        if line.lstrip().startswith(b"#"):
            for name in _MODE.findall(line):
                if known := _OTHERS.get(name.decode()):
                    return _other(known)
    return None


def _other(language: str) -> Kind:
    unix = language not in _NO_UNIX_LINES and language != "cmd.exe"
    return Kind(None, _note(language), unix)


def _note(language: str) -> str:
    return f"not checked: it is written for {language}"
