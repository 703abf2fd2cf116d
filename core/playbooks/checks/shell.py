"""Judges shell scripts by ``bash -n``, which reads a script and runs none of it.

Besides what bash says: carriage returns and a byte order mark, which break a script that parses, and a
here-document that runs on into the next one. What no shell reads (the payload after a marker line such
as ``__ARCHIVE__``) is not judged.
"""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache

from core.playbooks.checks.heredocs import swallowed
from core.playbooks.checks.kinds import BOM
from core.playbooks.checks.words import Complaint, without_script_text

DEADLINE_SECONDS = 8
"""Of bash, before the sandbox would end the child."""

_SAID = re.compile(r"^/dev/stdin: line (?P<line>\d+): (?P<said>.*)$")
# What comes of no script text: anything else bash says is reported by its place alone.
_KNOWN = re.compile(
    r"syntax error near unexpected token `(?P<token>[^']*)'"
    r"|syntax error: unexpected end of file(?: from `\w+' command on line \d+)?"
    r"|unexpected EOF while looking for matching `.'"
    r"|unexpected token `[^']*', conditional binary operator expected"
    r"|unexpected argument `[^']*' to conditional (?:unary|binary) operator"
    r"|conditional binary operator expected"
    r"|unexpected token `[^']*' in conditional command"
    r"|maximum here-document count exceeded"
    r"|warning: here-document at line \d+ delimited by end-of-file(?= )"
)
_HEREDOC = re.compile(r"warning: here-document at line (\d+) delimited by end-of-file")
_UNCLOSED = re.compile(r"unexpected EOF while looking for matching `(.)'")
_NAMES = {'"': 'quote "', "'": "quote '", "`": "quote `", ")": "(", "}": "{", "]": "["}
_ENDS_INSIDE = "the script ends inside of an if, loop, case, function or ( that is never closed"
_PLACEHOLDER = re.compile(rb"<[A-Za-z][\w .:/-]*>")
_PAYLOAD = re.compile(
    rb"^(?:#\s*)?_{2,}[A-Z][A-Z_]*_{2,}:?[ \t]*$|^#?(?:PAYLOAD|ARCHIVE):?[ \t]*$", re.MULTILINE
)
_ENDS = re.compile(rb"^\s*(?:exit|exec)\b", re.MULTILINE)
# commands of zsh alone, in a script that does not say whose it is
_OF_ZSH = re.compile(
    rb"^\s*(?:zstyle|setopt|unsetopt|autoload|zmodload|compdef|zle|bindkey)\s", re.MULTILINE
)
_FUNSUB = re.compile(rb"\$\{[ \t\n|]")  # ``${ command; }``: bash 5.3
_NEWER_THAN_SOME = (4, 4)
_WITH_FUNSUB = (5, 3)


def shell(content: bytes, bash: str | None, missing: str) -> list[Complaint]:
    """What is wrong with a script of bash, sh, dash or ash; ``missing`` is said without a bash.

    Takes about 3 ms, most of it the new process.
    """
    found = line_ends(content)
    if content.startswith(BOM):
        found.append(Complaint(1, "a byte order mark stands before the first command: remove it"))
    script = without_payload(content.removeprefix(BOM).replace(b"\r\n", b"\n"))
    if bash is None:
        return [*found, Complaint(None, missing)]
    said = _first_of(script, bash)
    return [*found, *(said or swallowed(script, of_hcl=False))]


def line_ends(content: bytes) -> list[Complaint]:
    """A complaint about carriage returns at line ends: a Unix shell takes them for text."""
    count = without_payload(content).count(b"\r\n")
    if count:
        line = content.count(b"\n", 0, content.find(b"\r\n")) + 1
        lines = f"{count} lines end" if count > 1 else "a line ends"
        return [Complaint(line, f"{lines} in CRLF (Windows): shells on Unix fail on it, use LF")]
    if b"\r" in content and b"\n" not in content:
        return [Complaint(1, "lines end in CR alone: shells on Unix take it for one line, use LF")]
    return []


def interpreter_line_end(content: bytes) -> list[Complaint]:
    """A complaint about a ``#!`` line that ends in CRLF, of what takes CRLF otherwise."""
    first, newline, _ = content.partition(b"\n")
    if not (newline and first.startswith(b"#!") and first.endswith(b"\r")):
        return []
    return [
        Complaint(1, "the #! line ends in CRLF (Windows): no interpreter has that name, use LF")
    ]


def without_payload(content: bytes) -> bytes:
    """A self-extracting script without what follows its marker line, if it ends before that."""
    marker = _PAYLOAD.search(content)
    if marker is None or not _ENDS.search(content, 0, marker.start()):
        return content
    return content[: marker.start()]


def _first_of(script: bytes, bash: str) -> list[Complaint]:
    """What bash says; where it refuses, with extended globs, which a script may switch on."""
    said = _said(script, bash)
    if not said:
        return said
    again = _said(script, bash, "-O", "extglob")
    if not again:
        return again
    if (again[0].line or 0) > (said[0].line or 0):
        said = again
    if not script.startswith(b"#!") and _OF_ZSH.search(script):
        return [
            Complaint(said[0].line, "not checked: it looks written for zsh, and has no `#!` line")
        ]
    version = _version(bash)
    if version < _NEWER_THAN_SOME or (version < _WITH_FUNSUB and _FUNSUB.search(script)):
        name = ".".join(map(str, version))
        why = f"not checked: bash {name} of this machine refuses this line, a newer one may not"
        return [Complaint(said[0].line, why)]
    return said


def _said(script: bytes, bash: str, *options: str) -> list[Complaint]:
    try:
        done = subprocess.run(
            # as a file, not as standard input: only so are lines numbered and reads buffered
            [bash, "--noprofile", "--norc", *options, "-n", "/dev/stdin"],
            input=script,
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
        return [
            Complaint(None, f"bash gave up on it (signal {-done.returncode}): nested too deep?")
        ]
    found: list[Complaint] = []
    for line in done.stderr.decode("utf-8", "replace").splitlines():
        match = _SAID.match(line)
        if match is None:
            continue
        known = _KNOWN.match(match["said"])
        if known:
            found.append(_in_words(int(match["line"]), known, script))
        elif not found:
            found.append(Complaint(int(match["line"]), "bash refuses this line"))
    if done.returncode and not found:
        found.append(Complaint(None, "bash refuses it"))
    return found


def _in_words(line: int, known: re.Match[str], script: bytes) -> Complaint:
    heredoc = _HEREDOC.match(known[0])
    if heredoc:
        # bash tells the last line, too; where it begins is where to look
        return Complaint(int(heredoc[1]), "a here-document that is never closed by its marker")
    if unclosed := _UNCLOSED.fullmatch(known[0]):
        return Complaint(line, f"a {_NAMES.get(unclosed[1], unclosed[1])} that is never closed")
    if known[0].startswith("syntax error: unexpected end of file"):
        return Complaint(line, _ENDS_INSIDE)
    said = without_script_text(known[0])
    if known["token"] is not None:
        text = script.split(b"\n")[line - 1 : line]
        if text and _PLACEHOLDER.search(text[0]):
            said += ": a placeholder in < > that was left in?"
    return Complaint(line, said)


@lru_cache(maxsize=1)
def _version(bash: str) -> tuple[int, int]:
    try:
        done = subprocess.run(
            [bash, "--noprofile", "--norc", "-c", 'printf %s "${BASH_VERSINFO[*]:0:2}"'],
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            env={"LC_ALL": "C"},
        )
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0, 0
