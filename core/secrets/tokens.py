"""Finds the forms that only a secret has: tokens with a vendor's prefix, keys, URLs with a password.

::

    Form    kind · degree · what it begins with, as written · its whole as a pattern at that place

A form is looked for by its beginning (`needles`) and matched only there, with no letter or digit in
front; patterns have bounded lengths. So the time grows with the text, whatever it is. The forms follow
what the vendors document and the rules that gitleaks (``config/gitleaks.toml``) and detect-secrets
(``plugins/``) publish; kinds that detect-secrets names keep its names, as accepted findings hold
for a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

from core.secrets import Degree
from core.secrets.names import Holds
from core.secrets.needles import Needles
from core.secrets.values import is_documented, judge, looks_random


class Form(NamedTuple):
    """A kind of token: how it begins and how it is written."""

    kind: str
    starts: tuple[str, ...]
    pattern: re.Pattern[str]
    degree: Degree = Degree.CERTAIN
    drawn: bool = False  # besides, it must look random


_END = r"(?![A-Za-z0-9_-])"


def _form(
    kind: str,
    starts: str,
    rest: str,
    degree: Degree = Degree.CERTAIN,
    *,
    drawn: bool = False,
    end: str = _END,
) -> Form:
    return Form(kind, tuple(starts.split()), re.compile(rest + end), degree, drawn)


_POSSIBLE = Degree.POSSIBLE
FORMS = (
    _form("AWS Access Key", "AKIA ASIA ABIA ACCA", r"A[A-Z]{3}[A-Z0-9]{16}"),
    _form("Amazon Bedrock API Key", "ABSK", r"ABSK[A-Za-z0-9+/]{109,269}", drawn=True),
    _form("Amazon MWS Auth Token", "amzn.mws.", r"amzn\.mws\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    _form("Google API Key", "AIza", r"AIza[0-9A-Za-z_-]{35}"),
    _form("Google OAuth Client Secret", "GOCSPX-", r"GOCSPX-[0-9A-Za-z_-]{28}"),
    _form("Google OAuth Token", "ya29.", r"ya29\.[0-9A-Za-z_-]{30,2000}", drawn=True),
    _form("Google OAuth Refresh Token", "1//0", r"1//0[0-9A-Za-z_-]{40,200}", drawn=True),
    _form("GitHub Token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,251}"),
    _form("GitHub Fine-Grained Token", "github_pat_", r"github_pat_\w{40,120}"),
    _form("GitLab Token", "glpat- gldt- glft- glsoat- glrt- glcbt- glimt- glptt- gloas- glagent- glffct-", r"gl[a-z]{2,6}-[A-Za-z0-9_.-]{20,320}"),
    _form("GitLab Token", "GR1348941", r"GR1348941[\w-]{20}"),
    _form("Bitbucket Token", "ATBB ATCTT3", r"(?:ATBB[A-Za-z0-9]{28,40}|ATCTT3[A-Za-z0-9_=-]{150,250})", drawn=True, end=""),
    _form("Atlassian API Token", "ATATT3", r"ATATT3[A-Za-z0-9_=-]{150,250}", end=""),
    _form("Slack Token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxo- xoxe- xoxe. xoxc- xoxd-", r"xox[abceoprsd][-.](?:xox[bp]-)?[0-9A-Za-z%-]{10,500}", drawn=True, end=""),
    _form("Slack Token", "xapp-", r"xapp-\d-[A-Z0-9]{6,20}-\d{6,20}-[a-f0-9]{20,100}"),
    _form("Slack Token", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9]{8,20}/[A-Za-z0-9]{8,20}/[A-Za-z0-9/]{15,60}", end="", drawn=True),
    _form("Microsoft Teams Webhook", "webhook.office.com/", r"webhook\.office\.com/webhookb2/[0-9a-f-]{36}@[0-9a-f-]{36}/IncomingWebhook/[0-9a-f]{32}/[0-9a-f-]{36}"),
    _form("Discord Webhook", "discord.com/api/webhooks/ discordapp.com/api/webhooks/", r"discord(?:app)?\.com/api/webhooks/\d{17,20}/[\w-]{60,70}"),
    _form("Stripe Access Key", "sk_live_ rk_live_ sk_test_ rk_test_ sk_prod_ rk_prod_ whsec_", r"(?:[rs]k_(?:live|test|prod)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/]{24,64})", drawn=True),
    _form("Square OAuth Secret", "sq0csp- sq0atp-", r"sq0(?:csp-[\w-]{43}|atp-[\w-]{22})"),
    _form("PayPal Braintree Token", "access_token$production$", r"access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}"),
    _form("NPM tokens", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _form("NPM tokens", "_authToken", r"_authToken\s*=\s*\"?(?:npm_[A-Za-z0-9]{36}|[0-9a-f]{8}-[0-9a-f-]{27}|[A-Za-z0-9+/=_-]{30,200})", drawn=True),
    _form("PyPI Token", "pypi-AgE pypi-AgEN", r"pypi-AgE[\w-]{50,1000}"),
    _form("RubyGems Token", "rubygems_", r"rubygems_[a-f0-9]{48}"),
    _form("Docker Hub Token", "dckr_pat_ dckr_oat_", r"dckr_[po]at_[\w-]{27,60}"),
    _form("Hugging Face Token", "hf_ api_org_", r"(?:hf|api_org)_[A-Za-z]{34}", drawn=True),
    _form("OpenAI Token", "sk-", r"sk-(?:(?:proj|svcacct|admin|None)-)?[\w-]{20,100}T3BlbkFJ[\w-]{20,100}"),
    _form("Anthropic API Key", "sk-ant-", r"sk-ant-(?:api|admin|sid)\d{2}-[\w-]{80,120}"),
    _form("OpenRouter API Key", "sk-or-v1-", r"sk-or-v1-[0-9a-f]{64}"),
    _form("Groq API Key", "gsk_", r"gsk_[A-Za-z0-9]{52}"),
    _form("Replicate Token", "r8_", r"r8_[A-Za-z0-9]{37}"),
    _form("Perplexity API Key", "pplx-", r"pplx-[A-Za-z0-9]{48}"),
    _form("Vault Token", "hvs. hvb. hvr.", r"hv[sbr]\.[\w-]{20,300}", drawn=True),
    _form("Vault Token", "s. b.", r"[sb]\.[A-Za-z0-9]{24}", _POSSIBLE, drawn=True),
    _form("Databricks Token", "dapi dkea", r"(?:dapi|dkea)[a-f0-9]{32}(?:-\d)?"),
    _form("DigitalOcean Token", "dop_v1_ doo_v1_ dor_v1_", r"do[por]_v1_[a-f0-9]{64}"),
    _form("Heroku API Key", "HRKU-", r"HRKU-[\w-]{36,70}", drawn=True),
    _form("Fly.io Token", "fo1_ fm1a_ fm1r_ fm2_", r"f(?:o1_[\w-]{43}|m[12][ar]?_[A-Za-z0-9+/=]{100,800})"),
    _form("Pulumi Token", "pul-", r"pul-[a-f0-9]{40}"),
    _form("Doppler Token", "dp.pt. dp.st. dp.ct. dp.sa.", r"dp\.(?:pt|st|ct|sa)\.(?:[\w-]{1,40}\.)?[A-Za-z0-9]{40,44}"),
    _form("1Password Token", "ops_eyJ", r"ops_eyJ[A-Za-z0-9+/=_-]{200,2000}"),
    _form("1Password Secret Key", "A3-", r"A3-[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}"),
    _form("Age Secret Key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    _form("Grafana Token", "glsa_ glc_eyJ", r"gl(?:sa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}|c_eyJ[A-Za-z0-9+/=]{30,400})"),
    _form("Sentry Token", "sntrys_ sntryu_", r"sntry(?:u_[a-f0-9]{64}|s_eyJ[\w+/=-]{40,400})"),
    _form("New Relic Key", "NRAK- NRII- NRJS- NRRA-", r"NR(?:AK-[A-Z0-9]{27}|II-[A-Za-z0-9-]{32}|JS-[a-f0-9]{19}|RA-[a-f0-9]{42})"),
    _form("Dynatrace Token", "dt0c01. dt0s01. dt0s16.", r"dt0[cs]\d{2}\.[A-Z0-9]{8,24}\.[A-Z0-9]{64}"),
    _form("Datadog API Token", "ddapp_ ddpat_", r"dd(?:app|pat)_[A-Za-z0-9]{30,60}", drawn=True),
    _form("Postman Token", "PMAK-", r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    _form("Shopify Token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    _form("SendGrid API Key", "SG.", r"SG\.[\w-]{16,32}\.[\w-]{16,64}", drawn=True),
    _form("Sendinblue Key", "xkeysib- xsmtpsib-", r"x(?:key|smtp)sib-[a-f0-9]{64}-[A-Za-z0-9]{16}"),
    _form("Mailgun Key", "key-", r"key-[0-9a-f]{32}"),
    _form("Telegram Bot Token", ":AA", r":AA[\w-]{33}", _POSSIBLE, drawn=True),
    _form("Twilio API Key", "SK AC", r"(?:AC|SK)[0-9a-f]{32}", _POSSIBLE),
    _form("Alibaba Access Key", "LTAI", r"LTAI[A-Za-z0-9]{12,26}", drawn=True),
    _form("Tencent Secret Id", "AKID", r"AKID[A-Za-z0-9]{32}", drawn=True),
    _form("Yandex Key", "AQVN t1.9", r"(?:AQVN[\w-]{35,38}|t1\.9[\w-]{5,200}={0,2}\.[\w-]{86})", drawn=True, end=""),
    _form("Artifactory Credentials", "AKCp cmVmd", r"(?:AKCp[A-Za-z0-9]{69}|cmVmd[A-Za-z0-9]{59})", drawn=True),
    _form("Sonar Token", "squ_ sqp_ sqa_", r"sq[upa]_[a-f0-9]{40}"),
    _form("Linear API Key", "lin_api_", r"lin_api_[A-Za-z0-9]{40}"),
    _form("Notion Token", "ntn_ secret_", r"(?:ntn_\d{11}[A-Za-z0-9]{35}|secret_[A-Za-z0-9]{43})", drawn=True),
    _form("Airtable Token", "pat", r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}"),
    _form("PlanetScale Secret", "pscale_tkn_ pscale_pw_ pscale_oauth_", r"pscale_(?:tkn|pw|oauth)_[\w=.-]{32,64}"),
    _form("Supabase Token", "sbp_ sb_secret_", r"(?:sbp_[a-f0-9]{40}|sb_secret_[\w-]{30,50})"),
    _form("OpenShift Token", "sha256~", r"sha256~[\w-]{43}"),
    _form("Octopus API Key", "API-", r"API-[A-Z0-9]{26}", drawn=True),
    _form("Tailscale Key", "tskey-", r"tskey-(?:auth|api|client|scim|webhook)-[A-Za-z0-9]{8,20}-[A-Za-z0-9]{20,40}"),
    _form("Cloudflare Origin CA Key", "v1.0-", r"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}"),
    _form("Facebook Token", "EAACEdEose0cBA EAAM EAAC", r"EAA[MC][A-Za-z0-9]{100,300}", drawn=True),
    _form("Clojars Token", "CLOJARS_", r"CLOJARS_[a-f0-9]{60}"),
    _form("LaunchDarkly Key", "sdk- api-", r"(?:sdk|api)-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    _form("JSON Web Token", "eyJ", r"eyJ[\w-]{10,3000}\.eyJ[\w-]{10,6000}\.[\w-]{10,1000}"),
    _form("Typeform Token", "tfp_", r"tfp_[\w.=-]{40,70}", drawn=True),
)  # fmt: skip

# What is recognised by something in its middle (`·` stands for a blank): looked for so many
# characters before it.
_PRIVATE_KEY = "Private Key"
_INNER: tuple[tuple[str, str, int, re.Pattern[str], Degree], ...] = (
    ("Azure Client Secret", "Q~", 4, re.compile(r"(?<![\w~.-])[\w~.]{3}\dQ~[\w~.-]{31,34}(?![\w~-])"), Degree.CERTAIN),
    ("Azure Storage Account access key", "AccountKey=", 0, re.compile(r"AccountKey=([A-Za-z0-9+/]{60,90}={0,2})"), Degree.CERTAIN),
    ("Azure Shared Access Key", "SharedAccessKey=", 0, re.compile(r"SharedAccessKey=([A-Za-z0-9+/]{40,90}={0,2})"), Degree.CERTAIN),
    ("Azure Shared Access Signature", "sig=", 1, re.compile(r"(?:[?&;]|amp;|\\u0026|[\"'=])sig=((?:[0-9A-Za-z/+_-]|%[0-9A-Fa-f]{2}){30,120}={0,2})"), Degree.CERTAIN),
    ("Azure Function Key", "code=", 1, re.compile(r"[?&]code=([\w/+%-]{50,80}={0,2})"), Degree.CERTAIN),
    ("Azure Service Key", "JQQJ99", 56, re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}"), Degree.CERTAIN),
    ("Azure Service Key", "AzSe AzFu AzCa AzEG +ASt +ASb +AEh +AIoT +ACR ACDb", 80, re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{33,76}(?:AzSe|AzFu|AzCa|AzEG|ASt|ASb|AEh|AIoT|ACR|ACDb)[A-Za-z0-9+/_-]{5,8}={0,2}(?![A-Za-z0-9+/])"), Degree.CERTAIN),
    ("AWS Signature", "X-Amz-Signature=", 0, re.compile(r"X-Amz-Signature=([0-9a-f]{64})"), Degree.POSSIBLE),
    ("Terraform Cloud Token", ".atlasv1.", 14, re.compile(r"[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,70}"), Degree.CERTAIN),
    ("Mailchimp Access Key", "-us", 32, re.compile(r"(?<![0-9a-f])[0-9a-f]{32}-us\d{1,2}(?!\w)"), Degree.CERTAIN),
    ("MaxMind License Key", "_mmk", 36, re.compile(r"(?<!\w)[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk"), Degree.CERTAIN),
    (_PRIVATE_KEY, "PRIVATE·KEY", 40, re.compile(r"BEGIN[ \w-]{0,30}PRIVATE KEY"), Degree.CERTAIN),
    (_PRIVATE_KEY, "PuTTY-User-Key-File-", 0, re.compile(r"PuTTY-User-Key-File-\d"), Degree.CERTAIN),
    (_PRIVATE_KEY, "<RSAKeyValue>", 0, re.compile(r"<RSAKeyValue>[\s\S]{0,1000}?<D>"), Degree.CERTAIN),
    ("Password Hash", "$6$ $5$ $1$ $y$ $2a$ $2b$ $2y$ $apr1$", 0, re.compile(r"\$(?:[156y]|2[abxy]|apr1)\$[\w./$=,]{20,200}"), Degree.POSSIBLE),
)  # fmt: skip
_INNER_REACH = 1100
_NO_PASSWORD = re.compile(r"[A-Z_]+|pass\w*|pw[d\d]*|secret")
_URL_TOKEN = re.compile(r"://([\w-]{20,255})@(?=[\w.-])")
_URL = re.compile(r"://([^\s/:@\"'<>?#\\]{0,100}):([^\s/@\"'<>\\]{3,200})@(?=[\w.\[$%{-])")
# What stands after a key's first line: the key, or the headers of an encrypted one.
_KEY_BODY = re.compile(
    r"""(?:\ BLOCK)?-{0,5}(?:
        [ \t"',+\\]{0,20}(?:\\r|\r)?(?:\n|\\n)[\s"'+,\\nr>|*#-]{0,80}(?:Proc-Type|DEK-Info|Version:|Comment:|(?!END\b)[A-Za-z0-9+/=]{4})
       |\s{0,4}[A-Za-z0-9+/=]{16})""",
    re.VERBOSE,
)
_KEY_ELIDED = re.compile(
    r"[^A-Za-z]{0,80}?(?:\.\.\.|…|\*{3}|<[a-z]|\[[a-z]|your|x{4}|-----END|\$\{|\$\(|\{\{)",
    re.IGNORECASE,
)


class Inner(NamedTuple):
    """A kind of token that is recognised by something in its middle, so many characters in."""

    kind: str
    middle: str
    back: int
    pattern: re.Pattern[str]
    degree: Degree


_URL_SIGN = "://"
_NEEDLES: Needles[Form | Inner | None] = Needles(
    [
        *((start, form) for form in FORMS for start in form.starts),
        *(
            (middle, Inner(kind, middle, back, pattern, degree))
            for kind, middles, back, pattern, degree in _INNER
            for middle in (part.replace("·", " ") for part in middles.split())
        ),
        (_URL_SIGN, None),
    ]
)


def forms_in(text: str) -> Iterator[tuple[int, str, Degree] | None]:
    """Yield (offset, kind, degree) of each token in a text, and None after each look, to look at the clock."""
    ends: dict[str, int] = {}  # where the last token of a kind ended: the next one begins after it
    for at, rules in _NEEDLES.find(text):
        yield None
        for rule in rules:
            if rule is None:
                found = _url(text, at)
            elif isinstance(rule, Form):
                found = _form_at(rule, text, at, ends)
            else:
                found = _inner(rule, text, at, ends)
            if found is not None:
                yield found


def _form_at(
    form: Form, text: str, at: int, ends: dict[str, int]
) -> tuple[int, str, Degree] | None:
    if at < ends.get(form.kind, 0):
        return None
    end = _match(form, text, at)
    if end is None:
        return None
    ends[form.kind] = end
    return at, form.kind, form.degree


def _match(form: Form, text: str, at: int) -> int | None:
    """The end of a token of a form at this place, or None."""
    before = text[at - 1 : at]
    if (
        before and form.starts[0][0] not in ":."
        and ("a" <= before <= "z" or "A" <= before <= "Z" or "0" <= before <= "9" or before in "_-")
        and text[at - 2 : at] not in {"\\n", "\\r", "\\t"}
        and text[at - 3 : at - 2] != "%"  # escaped in a URL
    ):  # fmt: skip
        return None
    match = form.pattern.match(text, at)
    if match is None or is_documented(match[0]) or _is_stub(match[0], len(form.starts[0])):
        return None
    if form.drawn and not looks_random(re.split(r"[_/]", match[0])[-1] or match[0]):
        return None
    return match.end()


_FEW_SIGNS = 3


def _is_stub(token: str, head: int) -> bool:
    """Whether a token is drawn with x's or another character over and over, or elided."""
    rest = re.sub(r"[\W_]", "", token[head:]).lower()
    return (
        len(set(rest)) <= _FEW_SIGNS
        or "xxxx" in rest
        or "example" in rest
        or "0123456789" in rest
        or "1234567890" in rest
    )


def _inner(rule: Inner, text: str, at: int, ends: dict[str, int]) -> tuple[int, str, Degree] | None:
    if at < ends.get(rule.kind, 0):
        return None
    begin = max(0, at - rule.back - 1)
    match = rule.pattern.search(text, begin, at + len(rule.middle) + _INNER_REACH)
    if not match or not match.start() <= at < match.end():
        return None
    if not _holds_key(rule.kind, text, match):
        return None
    ends[rule.kind] = match.end()
    if not rule.middle.startswith("PRIVATE"):
        return at, rule.kind, rule.degree
    kind = "Encrypted Private Key" if "BEGIN ENCRYPTED" in match[0] else rule.kind
    if not _KEY_BODY.match(text, match.end()):
        return at, kind, Degree.POSSIBLE  # a word for it: `grep "BEGIN PRIVATE KEY"`
    return at, kind, rule.degree


def _holds_key(kind: str, text: str, match: re.Match[str]) -> bool:
    value = match[1] if match.re.groups else match[0]
    if kind == _PRIVATE_KEY:
        body = text[match.end() : match.end() + 400].split("-----END", maxsplit=1)[0]
        return not (_KEY_ELIDED.match(text, match.end()) or re.search(r"\.\.\.|…|\*{3}", body))
    return not (is_documented(value) or _is_stub(value, 0)) and (
        kind == "Password Hash" or looks_random(value)
    )


def _url(text: str, at: int) -> tuple[int, str, Degree] | None:
    """The password in a URL: `scheme://user:password@host`."""
    match = _URL.match(text, at)
    if match is None:
        alone = _URL_TOKEN.match(text, at)
        if alone is None or not looks_random(alone[1]) or is_documented(alone[1]):
            return None
        return alone.start(1), "Basic Auth Credentials", Degree.CERTAIN
    password = unquote(match[2])
    degree = judge("", password, strength=Holds.PASSWORD, bare=True)
    if degree is None or _NO_PASSWORD.fullmatch(password):
        return None
    return match.start(2), "Basic Auth Credentials", degree
