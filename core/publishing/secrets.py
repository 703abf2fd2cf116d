"""The scan for secrets that stands before every upload, built on detect-secrets' plugins.

The plugins are called directly, not through `detect_secrets.core.scan`: that one works on files
on disk, keeps its settings in globals of the process, loads its plugins again for every setting
and may ask the network whether a key works. The plugin objects themselves are compiled patterns
without state, so one set serves all threads.

Detectors by entropy are left out: over 2,998 real playbooks they found resource ids and digests.
A line that ends in the comment `pragma: allowlist secret` is passed over, as detect-secrets does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from core.publishing.assignments import Assignments

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector

MAX_BYTES = 1024 * 1024
MAX_FINDINGS_PER_FILE = 100
DEADLINE_SECONDS = 5.0
TOO_LARGE = "not scanned: larger than 1 MiB"
TOO_SLOW = f"not scanned to its end: took longer than {DEADLINE_SECONDS:.0f} s"
TOO_MANY = f"not scanned to its end: {MAX_FINDINGS_PER_FILE} findings"

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
_LONG_WORD = re.compile(r"[\w-]{22}")
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
    "Azure Shared Access Signature": ("sig=", re.compile(r"[?&]sig=[0-9A-Za-z%/+]{40,}")),
    "GitHub Fine-Grained Token": ("github_pat_", re.compile(r"\bgithub_pat_\w{40,}")),
}
_ALLOWED = re.compile(r"pragma: ?(?:allow|white)list[ -]secret")
_REFERENCE_IN_URL = re.compile(r"[$<{%*]|(?:password|passwd|pass|pwd|token|secret)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class SecretFinding:
    """Where something looks like a secret, never what it is. `line` is 0 for a whole file."""

    path: str
    line: int
    kind: str

    def as_text(self) -> str:
        """`shell/stop.sh:12: AWS Access Key`."""
        return f"{self.path}:{self.line}: {self.kind}" if self.line else f"{self.path}: {self.kind}"


def scan(files: Mapping[str, bytes]) -> list[SecretFinding]:
    """Lines of `files` (path → content) that look like secrets, each (line, kind) once.

    Binary content is passed over. What could not be read to its end is a finding that says so:
    larger than `MAX_BYTES`, slower than `DEADLINE_SECONDS`, more than `MAX_FINDINGS_PER_FILE`.
    Safe in threads.
    """
    return [finding for path, content in files.items() for finding in _scan_file(path, content)]


def _scan_file(path: str, content: bytes) -> list[SecretFinding]:
    if len(content) > MAX_BYTES:
        return [SecretFinding(path, 0, TOO_LARGE)]
    if b"\0" in content:
        return []
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return []
    deadline = time.monotonic() + DEADLINE_SECONDS
    found: dict[SecretFinding, None] = {}
    for line, kind in _findings(path, text):
        if kind:
            found[SecretFinding(path, line, kind)] = None
        if len(found) >= MAX_FINDINGS_PER_FILE:
            return [*found, SecretFinding(path, 0, TOO_MANY)]
        if time.monotonic() > deadline:
            return [*found, SecretFinding(path, 0, TOO_SLOW)]
    return list(found)


def _findings(path: str, text: str) -> Iterator[tuple[int, str | None]]:
    """(line, kind); kind None after each line in which nothing was found, to look at the clock."""
    lowered = text.lower()
    plugins = [
        (kind, plugin)
        for kind, plugin in _plugins()
        if kind not in _NEEDS or any(need in lowered for need in _NEEDS[kind])
    ]
    ours = [(kind, pattern) for kind, (need, pattern) in _OURS.items() if need in lowered]
    assignments = Assignments(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if "list" in line and _ALLOWED.search(line):
            continue
        for piece in _pieces(line):
            yield from ((number, kind) for kind, pattern in ours if pattern.search(piece))
            long_word = _LONG_WORD.search(piece)
            for kind, plugin in plugins:
                if kind in _OF_LONG_WORDS and not long_word:
                    continue
                if any(_counts(kind, secret) for secret in plugin.analyze_string(piece)):
                    yield number, kind
            if assignments.holds_secret(piece):
                yield number, "Secret Keyword"
            yield number, None


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
