"""Finds what looks like a secret in a content: forms by detect-secrets' plugins, values by their names.

The plugins are called directly, not through `detect_secrets.core.scan`: that one works on files
on disk, keeps its settings in globals of the process, loads its plugins again for every setting
and may ask the network whether a key works. The plugin objects themselves are compiled patterns
without state, so one set serves all threads. Detectors by entropy are left out: over 2,998 real
playbooks they found resource ids and digests.

`password = "…"` is a secret by the name it is given to. The keyword detector finds such assignments;
alone, it is wrong in 400 lines of the corpus for every 20 right ones (`ApiKeyRequired: true`,
`secretsmanager:GetSecretValue`, …), so what is no secret is sorted out (`Assignments`).

A scan is bounded in processor time, not by the clock on the wall: what is found is kept, and must not
depend on what else the machine does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from core.secrets import Degree, Spot
from core.secrets.contents import BINARY, Opaque, texts

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector
    from detect_secrets.plugins.keyword import KeywordDetector

KEYWORD = "Secret Keyword"

# Raise it with every change of what is found, here or in the modules beside: what was kept of
# earlier scans is then scanned again.
_RULES = 2

# Some plugins' patterns are cubic in a line's length, so long lines go in overlapping pieces.
_PIECE_CHARS = 600
_OVERLAP_CHARS = 150

_NOT_USED = frozenset(
    {
        "Base64 High Entropy String", "Hex High Entropy String",  # resource ids, digests
        "Public IP (ipv4)",  # 1,926 in the corpus; an address is no secret
        "Secret Keyword",  # through `Assignments`, which keeps names and values apart
    }
)  # fmt: skip

# A plugin need not run over a file that has none of these (lower case). Without an entry it
# always runs.
_NEEDS = {
    "AWS Access Key": ("akia", "asia", "abia", "acca", "a3t", "aws"),
    "Azure Storage Account access key": ("accountkey=",),
    "Basic Auth Credentials": ("://",),
    "Cloudant Credentials": ("cl",),
    "GitHub Token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    "GitLab Token": ("gl", "gr1348941"),
    "IBM COS HMAC Credentials": ("secret",),
    "IBM Cloud IAM Key": ("key", "pwd", "pass", "token"),
    "JSON Web Token": ("eyj",),
    "Mailchimp Access Key": ("-us",),
    "NPM tokens": ("_authtoken",),
    "OpenAI Token": ("t3blbkfj",),
    "Private Key": ("private key", "putty-user-key-file"),
    "PyPI Token": ("pypi-",),
    "SendGrid API Key": ("sg.",),
    "Slack Token": ("xox", "hooks.slack.com"),
    "SoftLayer Credentials": ("sl", "softlayer"),
    "Square OAuth Secret": ("sq0csp-",),
    "Stripe Access Key": ("k_live_",),
}
# These run only over a piece of a line that holds a word of this length.
_LONG_WORD = re.compile(r"(?<![\w-])[\w-]{22}")
_LONG = 22
_OF_LONG_WORDS = frozenset(
    {
        "Discord Bot Token", "IBM Cloud IAM Key", "Telegram Bot Token", "Twilio API Key",
        "SoftLayer Credentials", "Cloudant Credentials", "IBM COS HMAC Credentials",
    }
)  # fmt: skip

# What the three clouds and GitHub have and detect-secrets 1.5 has no plugin for.
_OURS = {
    "Google API Key": ("aiza", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    "Google OAuth Client Secret": ("gocspx-", re.compile(r"\bGOCSPX-[0-9A-Za-z_-]{28}\b")),
    "Encrypted Private Key": (
        "begin encrypted private key",
        re.compile(r"BEGIN ENCRYPTED PRIVATE KEY"),
    ),
    "Azure Shared Access Signature": ("sig=", re.compile(r"[?&]sig=[0-9A-Za-z%/+]{40,}")),
    "GitHub Fine-Grained Token": ("github_pat_", re.compile(r"\bgithub_pat_\w{40,}")),
}
# Nor over a piece of a line without one of these, as they are written.
_NEEDS_IN_PIECE = {
    "Artifactory Credentials": ("AKC", "AP"),
    "Telegram Bot Token": (":",),
    "Twilio API Key": ("AC", "SK"),
}
# Forms that other things have, too: an id, a hash, a number beside a word.
_WEAK = frozenset(
    {
        "Cloudant Credentials", "Discord Bot Token", "IBM COS HMAC Credentials",
        "IBM Cloud IAM Key", "Mailchimp Access Key", "SoftLayer Credentials",
        "Telegram Bot Token", "Twilio API Key",
    }
)  # fmt: skip
_ALLOWED = re.compile(r"pragma: ?(?:allow|white)list[ -]secret")
_REFERENCE_IN_URL = re.compile(r"[$<{%*]|(?:password|passwd|pass|pwd|token|secret)$", re.IGNORECASE)


class Match(NamedTuple):
    """A line with a secret of a kind; ``marked``: an allow-list comment stands on it."""

    line: int
    kind: str
    degree: Degree
    marked: bool


@lru_cache(maxsize=1)
def scanner_version() -> str:
    """Return the scanner's version, which changes whenever the same content may be found to hold something else."""
    return f"{_RULES}/{version('detect-secrets')}"


def search(text: str, syntax_of: str, *, is_binary: bool = False) -> Iterator[Match | None]:
    """Yield matches in a text, line by line, and None after each piece of a line, to look at the clock.

    ``syntax_of``: the file's path; its suffix tells whether a bare word may be a value. Of a binary
    file the lines mean nothing, and words in it are no assignment: only forms are certain there.
    """
    lowered = text.lower()
    plugins = [
        _Form(kind, plugin, _NEEDS_IN_PIECE.get(kind, ()))
        for kind, plugin in _plugins()
        if kind not in _NEEDS or any(need in lowered for need in _NEEDS[kind])
    ]
    forms = [form for form in plugins if form.kind not in _OF_LONG_WORDS]
    long_forms = [form for form in plugins if form.kind in _OF_LONG_WORDS]
    ours = [(kind, pattern) for kind, (need, pattern) in _OURS.items() if need in lowered]
    assignments = Assignments(syntax_of) if Assignments.may_be_in(lowered) else None
    for number, line in enumerate(text.split("\n"), start=1):
        marked = "list" in line and _ALLOWED.search(line) is not None and not is_binary
        at = 0 if is_binary else number
        for piece in _pieces(line):
            kinds = [kind for kind, pattern in ours if pattern.search(piece)]
            kinds += [form.kind for form in forms if form.is_in(piece)]
            if len(piece) >= _LONG and _LONG_WORD.search(piece):
                kinds += [form.kind for form in long_forms if form.is_in(piece)]
            for kind in kinds:
                degree = Degree.POSSIBLE if kind in _WEAK else Degree.CERTAIN
                yield Match(at, kind, degree, marked)
            if assignments is not None and assignments.holds_secret(piece):
                degree = Degree.POSSIBLE if is_binary else Degree.CERTAIN
                yield Match(at, KEYWORD, degree, marked)
            yield None


class _Form(NamedTuple):
    """A plugin, and what a piece must hold, as it is written, for the plugin to be asked."""

    kind: str
    plugin: RegexBasedDetector
    needs: tuple[str, ...]

    def is_in(self, piece: str) -> bool:
        for need in self.needs:
            if need in piece:
                break
        else:
            if self.needs:
                return False
        return any(_counts(self.kind, secret) for secret in self.plugin.analyze_string(piece))


def _counts(kind: str, secret: str) -> bool:
    """A URL's `user:$PASSWORD@` is no secret, and neither is `user:<password>@`."""
    return kind != "Basic Auth Credentials" or not _REFERENCE_IN_URL.match(secret)


def _pieces(line: str) -> Iterator[str]:
    if len(line) <= _PIECE_CHARS:
        if line:
            yield line
        return
    for start in range(0, len(line), _PIECE_CHARS - _OVERLAP_CHARS):
        yield line[start : start + _PIECE_CHARS]


@lru_cache(maxsize=1)
def _plugins() -> tuple[tuple[str, RegexBasedDetector], ...]:
    # here, not above: it imports some thirty modules and requests
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector as Detector

    classes: Mapping[str, type[BasePlugin]] = get_mapping_from_secret_type_to_class()
    return tuple(
        (kind, plugin())
        for kind, plugin in sorted(classes.items())
        if kind not in _NOT_USED and issubclass(plugin, Detector)
    )


# -- values by their names ---------------------------------------------------------------------

MIN_SECRET_CHARS = 6

# Suffixes of formats in which a bare word after = or : is a value; elsewhere it is a name.
_BARE_VALUES = frozenset(
    {"", ".sh", ".bash", ".env", ".ini", ".cfg", ".properties", ".yaml", ".yml"}
)

_KEYWORD = re.compile(
    r"(?<!by)pass(?:word|wd|phrase)?|pwd|secret|contrase[nñ]a"
    r"|(?:api|auth|service|account|access|db|database|priv|private|client)[_-]?key",
    re.IGNORECASE,
)
_KEYWORD_PARTS = ("pass", "pwd", "secret", "contrase", "key")  # one of them is in each
# The name in front of a value: the identifier before = or :
_NAME = re.compile(r"([A-Za-z_][\w.-]*)['\"\])]*\s*(?:[:=!]=*>?|=>)\s*[@!\w]*\s*['\"`]?$")
# `secret_name`, `PasswordLength`: words after the keyword that make it something else
_ABOUT = frozenset(
    {
        "name", "names", "arn", "arns", "id", "ids", "type", "required", "length", "age",
        "days", "port", "enabled", "version", "versions", "policy", "uri", "url", "ref",
        "path", "file", "prefix", "source", "count", "expires", "expiration", "validity",
        "authentication", "manager", "smanager", "rotation", "rotate", "reuse", "extension",
        "extensions", "http", "template", "kind", "store", "provider", "parameter", "param",
        "env", "variable", "label", "description", "hint", "title", "prompt", "field",
        "attribute", "column", "permissions", "vault", "group", "role", "class", "auth",
        "login", "min", "max",
    }
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# AWS' own way to name a secret without holding it
_DYNAMIC = re.compile(r"\{\{resolve:.*|arn:aws[\w-]*:secretsmanager:.*")

# Values that point at a secret or stand for one.
_REFERENCE = re.compile(
    r"[\[$<{(!%*&]|arn:|https?://|projects/|/subscriptions/|privatesettingsref:"
    r"|(?:var|local|data|module|each|self|os|process|random_\w+|[a-z]+_[a-z_]+\.\w+)\."
    r"|.*\{\{|.*\$\{|.*<[\w -]+>$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:value|secret|password|passwd|string|text|example|sample|dummy|placeholder|replaced?"
    r"|redacted|changed|todo|none|null|true|false|yes|no|header|required|optional|enabled|disabled"
    r"|x+|\.+|\*+|-+|_+)\d*|your[-_ ].*|\d[\d.]*",
    re.IGNORECASE,
)
_IAM_ACTION = re.compile(r"(?:[A-Z][a-z]+)+\*?")  # GetSecretValue, DescribeSecret
_BARE = re.compile(r"[^\s'\"`(){}\[\],;|&<>]+")

# A parameter's default stands some lines below its name.
_DEFAULT = re.compile(r"^\s*-?\s*[\"']?default(?:value)?[\"']?\s*[:=]\s*(.+?),?\s*$", re.IGNORECASE)
_DECLARED = re.compile(
    r"^\s*(?:\{\s*)?[\"']?name[\"']?\s*:\s*[\"']([\w-]+)[\"']"  # parameters.json
    r"|^\s*variable\s+\"([\w-]+)\"\s*\{"  # terraform
    r"|^\s*[\"']?([A-Za-z][\w-]*)[\"']?\s*:\s*\{?\s*$"  # CloudFormation, ARM
)
_DECLARATION_REACHES = 8


def takes_bare_values(path: str) -> bool:
    """Whether a word without quotes is a value in such a file: all that a path is looked at for."""
    return PurePosixPath(path).suffix in _BARE_VALUES


class Assignments:
    """Finds values given to names that say secret; reads one file's lines in their order."""

    def __init__(self, path: str) -> None:
        self._bare = takes_bare_values(path)
        self._declared, self._lines_since = "", 0

    @staticmethod
    def may_be_in(lowered: str) -> bool:
        """Whether a text, in lower case, may have a word that a secret is given to.

        `_KEYWORD` without regard to case takes a third of a scan's time; most texts and lines have
        none of its words.
        """
        return any(word in lowered for word in _KEYWORD_PARTS)

    def holds_secret(self, line: str) -> bool:
        """Whether the line gives a secret to a name that says so."""
        self._lines_since += 1
        if "secretsmanager" in line or "{{resolve" in line:
            line = _DYNAMIC.sub("", line)
        declared = _DECLARED.match(line)
        if declared:
            self._declared = next(name for name in declared.groups() if name)
            self._lines_since = 0
        elif self._lines_since <= _DECLARATION_REACHES and _KEYWORD.search(self._declared):
            default = _DEFAULT.match(line)
            if default and _is_secret(self._declared, default[1].strip("\"'")):
                return True
        if not self.may_be_in(line.lower()):
            return False
        return bool(_KEYWORD.search(line)) and self._assigns(line)

    def _assigns(self, line: str) -> bool:
        from detect_secrets.filters.heuristic import is_indirect_reference
        from detect_secrets.plugins import keyword

        if is_indirect_reference(line):
            return False
        quoted = _detector().analyze_string(line, keyword.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP)
        if any(_is_secret(_name_before(line, value), value) for value in quoted):
            return True
        if not self._bare:
            return False
        bare = _detector().analyze_string(line, keyword.CONFIG_DENYLIST_REGEX_TO_GROUP)
        for value in bare:
            word = _BARE.match(value)
            if word and "$" not in word[0] and _is_secret(_name_before(line, value), word[0]):
                return True
        return False


def _name_before(line: str, value: str) -> str:
    before = line[: line.find(value)]
    found = _NAME.search(before)
    return found[1] if found else ""


def _is_secret(name: str, value: str) -> bool:
    """Whether `value` may be a secret, given to `name` ("" where no name was recognised)."""
    if name and _is_about(name):
        return False
    if len(value) < MIN_SECRET_CHARS or not re.search(r"[A-Za-z]", value):
        return False
    if _REFERENCE.match(value) or _PLACEHOLDER.fullmatch(value):
        return False
    # words of a sentence; a passphrase of words is written without blanks or with a quote
    return value.count(" ") < 2 and not (  # noqa: PLR2004 - three words and more
        _IAM_ACTION.fullmatch(value) and _KEYWORD.search(value) and not name
    )


def _is_about(name: str) -> bool:
    """Whether a name tells something about a secret (`secretArn`) and does not hold it."""
    keywords = list(_KEYWORD.finditer(name))
    after = name[keywords[-1].end() :] if keywords else ""
    return any(word.lower() in _ABOUT for word in _WORDS.findall(after))


@lru_cache(maxsize=1)
def _detector() -> KeywordDetector:
    from detect_secrets.plugins.keyword import KeywordDetector as Detector

    return Detector()


# -- one content, to its end or with a word that it was not -----------------------------------

MAX_BYTES = 1024 * 1024
MAX_SPOTS = 100
DEADLINE_SECONDS = 5.0
TOO_LARGE = "not scanned: larger than 1 MiB"
TOO_SLOW = f"not scanned to its end: took longer than {DEADLINE_SECONDS:.0f} s"
TOO_MANY = f"not scanned to its end: {MAX_SPOTS} findings"
_LOOK_AT_CLOCK_EVERY = 16  # pieces of lines


def scan_content(path: str, content: bytes) -> list[Spot]:
    """Return what looks like a secret in a file's content, each (line, kind) once, by line.

    What can't be scanned is a certain finding that says why: too large, too slow, too many
    findings, encrypted, an archive that can't be opened. Safe in threads, and on anything.
    """
    if len(content) > MAX_BYTES:
        return [Spot(0, TOO_LARGE, Degree.CERTAIN)]
    found: dict[tuple[str, int, str], Spot] = {}
    end = None
    for spot in _spots(path, content):
        known = found.get((spot.member, spot.line, spot.kind))
        if known is None or spot.degree is Degree.CERTAIN:
            found[spot.member, spot.line, spot.kind] = spot
        if spot.kind == TOO_SLOW or len(found) >= MAX_SPOTS:
            end = Spot(0, TOO_SLOW if spot.kind == TOO_SLOW else TOO_MANY, Degree.CERTAIN)
            break
    spots = sorted(_without_wholes(list(found.values())))
    if end is not None:
        spots = [spot for spot in spots if spot.kind != TOO_SLOW] + [end]
    return spots


def _spots(path: str, content: bytes) -> Iterator[Spot]:
    deadline = time.thread_time() + DEADLINE_SECONDS
    pieces = 0
    for part in texts(content):
        if isinstance(part, Opaque):
            yield Spot(0, part.kind, Degree.CERTAIN, member=part.member)
            continue
        if part.is_binary:
            yield Spot(0, BINARY, Degree.POSSIBLE, member=part.member)
        for match in search(part.text, part.member or path, is_binary=part.is_binary):
            if match is not None:
                marked = match.marked and not part.member
                yield Spot(match.line, match.kind, match.degree, marked, part.member)
            pieces += 1
            if pieces % _LOOK_AT_CLOCK_EVERY == 0 and time.thread_time() > deadline:
                yield Spot(0, TOO_SLOW, Degree.CERTAIN)
                return
        if time.thread_time() > deadline:
            yield Spot(0, TOO_SLOW, Degree.CERTAIN)
            return


def _without_wholes(spots: list[Spot]) -> list[Spot]:
    """Without what was found in an archive's own bytes and again, as often, in its members."""
    counts: dict[tuple[str, str], int] = {}
    for spot in spots:
        counts[spot.kind, spot.member] = counts.get((spot.kind, spot.member), 0) + 1

    def is_told_again(spot: Spot) -> bool:
        inside = sum(
            count
            for (kind, member), count in counts.items()
            if kind == spot.kind and member != spot.member and member.startswith(spot.member)
        )
        return spot.kind != BINARY and inside >= counts[spot.kind, spot.member]

    return [spot for spot in spots if not is_told_again(spot)]
