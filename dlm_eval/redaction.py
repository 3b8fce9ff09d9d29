"""Redaction of secrets, by name and by value, in all files and messages.

By name: an entry of settings whose key names a secret (`token`, `api_key`, `headers`, ...). By
value: texts in the form of a known kind of key (`hf_...`, `sk-...`, a URL with a password), values
of environment variables that name a secret, and values of arguments that name one. Values are also
found in JSON, percent and base64 encoding. The settings themselves keep the secret for the code
that needs it.

Redaction by name applies only to settings. In a document of a dataset "token" or "password" is a
column like any other, so only values are redacted there.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from dlm_eval.printable import printable, valid_unicode

REDACTED = "[redacted]"

# -- names -----------------------------------------------------------------------------------------

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SECRET_WORDS = _set(
    "password passwords passwd passphrase passcode pwd secret secrets credential credentials creds "
    "apikey apikeys bearer cookie cookies jwt dsn"
    " sessionid jsessionid phpsessid connectionstring connstr webhook webhooks passkey passkeys "
    "otp totp csrf xsrf mnemonic"
)
# secret only at the end of a name: `signature_columns` is not a secret
LAST_WORDS = _set("pat pats sid signature session userpass htpasswd netrc")
# Words before "token" that make it a vocabulary item or a count, not a secret.
VOCABULARY = _set(
    "eos bos pad mask unk sep cls eot eod eom eoh sot stop end start begin beginning special image "
    "video audio prefix suffix middle fim next per"
    " previous last first new max min num n gen prompt decoder encoder forced one two zero blank "
    "null boundary think thinking reasoning added"
    " extra control sentinel newline space text vocab drop single dummy fill open answer assistant "
    "role placeholder separator delimiter"
    " infill hole noise noised target source continuation context word piece sub subword byte char "
    "character any each every by of for the a to in"
    " leading trailing final initial current eof out oov rare common plain known unknown visible "
    "hidden masked class language lang"
)
TOKEN_ENDS = _set("token tokens secret value")
KEY_OWNERS = _set(
    "api access secret private ssh signing encryption account subscription auth service storage "
    "deploy master shared client rsa pgp gpg hmac crypto"
    " openai anthropic hf huggingface wandb azure aws gcp google gemini cohere mistral together "
    "groq replicate openrouter deepseek nvidia ngc"
    " github gitlab slack stripe sendgrid twilio session license host ssl tls app"
)
PASS_OWNERS = _set(
    "user db database smtp mail email imap ldap login ftp sftp mysql pg postgres redis mongo "
    "rabbitmq proxy http basic admin root"
)
TOKEN_OWNERS = KEY_OWNERS | {
    "bearer",
    "refresh",
    "id",
    "oauth",
    "csrf",
    "xsrf",
    "sas",
    "personal",
    "hub",
}


@lru_cache(maxsize=65536)
def is_secret_name(name: str) -> bool:
    """Returns whether a setting, argument, header or variable of this name holds a secret.

    Names may be in snake, kebab or camel case.
    """
    words = [word.lower() for word in WORD.findall(name)]
    whole = "".join(words)
    if not words:
        return False
    if SECRET_WORDS & {*words, whole} or any(_authenticates(word) for word in words):
        return True
    words = [part for word in words for part in _parts(word)]
    while words[-1].isdigit() and len(words) > 1:
        words = words[:-1]
    pairs = list(zip(words, words[1:], strict=False))
    if any(owner in KEY_OWNERS and word in ("key", "keys") for owner, word in pairs):
        return words[-1] not in ("name", "path", "file", "env", "length", "len", "size", "type")
    if {("connection", "string"), ("conn", "str"), ("session", "id"), ("pass", "key")} & {*pairs}:
        return True
    if words[-1] in LAST_WORDS or words in (["sig"], ["x", "sig"]):
        return True
    if words[-1].endswith(("password", "passwd")) or (
        words[-1] == "pass" and words[0] in PASS_OWNERS
    ):
        return True
    return _is_token(words)


def _parts(word: str) -> tuple[str, ...]:
    """Splits a word such as `apikey` or `authtoken` in two."""
    found = re.fullmatch(r"(.+?)(tokens?|keys?)", word)
    return (found[1], found[2]) if found and found[1] in TOKEN_OWNERS - {"id"} else (word,)


def _authenticates(word: str) -> bool:
    return word in ("auth", "oauth", "oauth2", "authn", "authz", "basicauth") or word.startswith(
        ("authoriz", "authent")
    )


def _are_headers(name: str) -> bool:
    """Returns whether a setting holds HTTP headers."""
    words = WORD.findall(name)
    return bool(words) and (words[-1].lower() == "headers" or name.lower() == "header")


def _is_token(words: list[str]) -> bool:
    """Returns whether the words name a secret token (`token_hf`, `hf_token_2`), not a vocabulary
    item or a count.
    """
    if words[0] == "token" and len(words) == 2 and words[1] in TOKEN_OWNERS - {"id"}:
        return True
    for place, word in enumerate(words):
        if word not in ("token", "tokens") or not set(words[place:]) <= TOKEN_ENDS:
            continue
        before = words[:place]
        if word == "tokens":
            return bool(before) and before[-1] in TOKEN_OWNERS
        return not before or before[-1] not in VOCABULARY
    return False


# -- values ----------------------------------------------------------------------------------------

MIXED = r"(?=[A-Za-z0-9_-]{0,100}\d)"  # ordinary words have no digits
HEAD = r"(?<![A-Za-z0-9])"
# Every repetition is bounded: a hostile model or data set must not make a search quadratic.
# (a text that every match contains, the pattern, its replacement)
FORMS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (mark, re.compile(pattern), put)
    for mark, pattern, put in (
        ("hf_", HEAD + r"hf_(?:(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}|[A-Za-z0-9]{24,})", REDACTED),
        ("api_org_", HEAD + r"api_org_[A-Za-z0-9]{16,}", REDACTED),
        ("sk-", HEAD + r"sk-" + MIXED + r"[A-Za-z0-9_-]{12,}", REDACTED),
        ("sk_", HEAD + r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,}", REDACTED),
        ("rk_", HEAD + r"rk_(?:live|test)_[A-Za-z0-9]{10,}", REDACTED),
        ("gh", HEAD + r"gh[pousr]_[A-Za-z0-9]{16,}", REDACTED),
        ("github_pat_", HEAD + r"github_pat_[A-Za-z0-9_]{16,}", REDACTED),
        ("glpat-", HEAD + r"glpat-[A-Za-z0-9_-]{16,}", REDACTED),
        ("AKIA", HEAD + r"AKIA[A-Z0-9]{12,}", REDACTED),
        ("ASIA", HEAD + r"ASIA[A-Z0-9]{16,}", REDACTED),
        ("xox", HEAD + r"xox[a-z]-[A-Za-z0-9-]{8,}", REDACTED),
        ("xapp-", HEAD + r"xapp-[A-Za-z0-9-]{8,}", REDACTED),
        ("hooks.slack.com", r"hooks\.slack\.com/services/[A-Za-z0-9/_-]+", "hooks.slack.com/services/" + REDACTED),
        ("AIza", HEAD + r"AIza[A-Za-z0-9_-]{24,}", REDACTED),
        ("ya29.", HEAD + r"ya29\.[A-Za-z0-9_-]{16,}", REDACTED),
        ("npm_", HEAD + r"npm_[A-Za-z0-9]{30,}", REDACTED),
        ("pypi-", HEAD + r"pypi-[A-Za-z0-9_-]{30,}", REDACTED),
        ("gsk_", HEAD + r"gsk_[A-Za-z0-9]{20,}", REDACTED),
        ("r8_", HEAD + r"r8_[A-Za-z0-9]{20,}", REDACTED),
        ("xai-", HEAD + r"xai-[A-Za-z0-9]{20,}", REDACTED),
        ("pplx-", HEAD + r"pplx-[A-Za-z0-9]{20,}", REDACTED),
        ("tvly-", HEAD + r"tvly-[A-Za-z0-9-]{16,}", REDACTED),
        ("nvapi-", HEAD + r"nvapi-[A-Za-z0-9_-]{16,}", REDACTED),
        ("dop_v1_", HEAD + r"dop_v1_[a-f0-9]{32,}", REDACTED),
        ("dckr_pat_", HEAD + r"dckr_pat_[A-Za-z0-9_-]{16,}", REDACTED),
        ("hvs.", HEAD + r"hvs\.[A-Za-z0-9_-]{20,}", REDACTED),
        ("SG.", HEAD + r"SG\.[A-Za-z0-9_-]{16,100}\.[A-Za-z0-9_-]{16,}", REDACTED),
        ("eyJ", HEAD + r"eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{8,}", REDACTED),
        (
            "PRIVATE KEY",
            r"(?s)-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z "
            r"]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)",
            REDACTED,
        ),
        ("://", r"(?<=://)[^\s/@?#\"'<>|]{1,512}@", REDACTED + "@"),
        (
            "=",
            r"(?i)(?<=[?&;#])((?:[a-z_-]{0,20}(?:token|signature|secret|password|credential|passkey|access_?key|api[_-]?key)|sig|pwd|otp|jwt)=)"
            r"[^\s&;\"'<>]+",
            r"\1" + REDACTED,
        ),
        (
            "uthorization",
            r"(?i)(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:(?:bearer|basic|token|digest|apikey|negotiate)\s{1,4})?)(?!\[redacted\])[^\s\"',;}]+",
            r"\1" + REDACTED,
        ),
        ("earer ", r"(?i)\b(bearer\s{1,4})(?=\S*\d)[A-Za-z0-9._~+/=-]{8,}", r"\1" + REDACTED),
    )
)  # fmt: skip
# name=value, "name": "value" in a message; the name is checked afterwards.
ASSIGNMENT = re.compile(
    r"(?<![A-Za-z0-9_.])(?P<head>(?P<name>[A-Za-z][\w.-]{1,60})[\"']?\s?[=:]\s?)(?P<value>\"[^\"\n]{1,4096}\"|'[^'\n]{1,4096}'|[^\s,;\"'(){}\[\]<>]{1,4096})"
)
# user:password@host without a scheme. Only for settings and messages: a document may have
# mailto:me@host, or a program a:b@c.
BARE = re.compile(
    r"(?i)(?<![\w:/@.%+-])(?!(?:mail|mailto|e-?mail|contact|from|to|cc|bcc|sip|sips|xmpp|acct|sender|reply-to|address|author|authors):)"
    r"(?P<user>[a-z][\w.%+-]{0,63}):(?!//)(?P<password>[^\s:/@\"'<>|,]{2,256})@(?=[a-z0-9])"
)
URL_PASSWORD = re.compile(r"://[^\s/@?#:\"'<>|]{0,256}:([^\s/@?#\"'<>|]{1,512})@")
HEADERS = re.compile(r"(?i)headers?[\"']?\s{0,4}[:=]\s{0,4}\{([^}]{1,4096})")
HEADER_VALUE = re.compile(r":\s{0,4}[\"']?([^\"',{}]{1,4096})")
DEEPEST = 200  # maximum depth of nested containers; deeper ones are cut
# Minimum length of a value that is redacted in texts; ordinary words contain shorter ones.
LEAST = 6
WHOLE_WORD = 12  # shorter values are redacted only as whole words
ORDINARY = _set("true false none null default disabled enabled unknown")

_learned: set[str] = set()


def learn(settings: Any, depth: int = 0) -> None:
    """Registers the secrets in settings (nested mappings and lists), so that their values are
    redacted.
    """
    if depth > DEEPEST:
        return
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if is_secret_name(str(key)) or _are_headers(str(key)):
                _learned.update(_leaves(value))
            else:
                learn(value, depth + 1)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            learn(value, depth + 1)
    elif isinstance(settings, str):
        for match in (*URL_PASSWORD.finditer(settings), *BARE.finditer(settings)):
            _learned.update(_leaves(match[match.lastindex or 0]))


def learn_words(words: Iterable[str]) -> None:
    """Registers the secrets of a command line or a settings file: `token=x`, `{"token": "x"}`,
    `--token x`.
    """
    before = ""
    for word in words:
        for found in ASSIGNMENT.finditer(word):
            if is_secret_name(found["name"]):
                _learned.update(_leaves(found["value"].strip("\"'")))
        for headers in HEADERS.finditer(word):
            _learned.update(
                text for value in HEADER_VALUE.findall(headers[1]) for text in _leaves(value)
            )
        name, equals, value = word.partition("=")
        if equals and is_secret_name(name.strip("-{\"' ")):
            _learned.update(_leaves(value))
        if before.startswith("--") and "=" not in before and is_secret_name(before):
            _learned.update(_leaves(word))
        before = word


def _leaves(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > DEEPEST:
        return
    if isinstance(value, (Mapping, list, tuple, set)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item, depth + 1)
    elif isinstance(value, bytes):
        yield from _leaves(value.decode("utf-8", "replace"))
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        text = str(value).strip()
        scheme, _, rest = text.partition(" ")
        if scheme.lower() in ("bearer", "basic", "token") and rest:
            yield from _leaves(rest)
        if len(text) >= LEAST and text.lower() not in ORDINARY:
            yield text


def _of_environment() -> Iterator[str]:
    """Yields the values of environment variables that name a secret, without paths and desktop
    sessions.
    """
    for name, value in os.environ.items():
        desktop = "SESSION" in name and not name.endswith(("TOKEN", "KEY", "SECRET"))
        if is_secret_name(name) and not desktop and not os.path.exists(value):
            yield from _leaves(value)
        for match in URL_PASSWORD.finditer(value):  # such as a proxy's
            yield from _leaves(match[1])


def _known() -> re.Pattern[str] | None:
    return _pattern(frozenset({*_learned, *_of_environment()}))


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Returns a pattern of the secrets, raw and encoded, the longest first, so that no part is
    left.
    """
    found: dict[str, str] = {}
    for secret in secrets:
        for form in _spellings(secret):
            short = len(form) < WHOLE_WORD
            found[form] = (
                rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])" if short else re.escape(form)
            )
        found.update({form: re.escape(form) for form in _in_base64(secret)})
    ordered = sorted(found, key=len, reverse=True)
    return re.compile("|".join(found[form] for form in ordered)) if ordered else None


def _spellings(secret: str) -> set[str]:
    """Returns the forms of a secret in texts: raw, JSON, repr, HTML, URL, terminal."""
    raw = secret.encode("utf-8", "surrogatepass")
    spelled = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
    urls = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    urls |= {re.sub("%..", lambda match: match[0].lower(), url) for url in urls}
    return {
        form
        for form in {*spelled, *urls, html.escape(secret), printable(secret)}
        if len(form) >= LEAST
    }


def _in_base64(secret: str) -> set[str]:
    """Returns the base64 letters of a secret at each of the three byte offsets."""
    raw, forms = secret.encode("utf-8", "surrogatepass"), set()
    for shift in range(3):
        # Three bytes become four letters. Letters that also depend on neighbouring bytes are left
        # out.
        first, last = -(-8 * shift // 6), 8 * (shift + len(raw)) // 6
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(code(bytes(shift) + raw).decode()[first:last])
    return {form for form in forms if len(form) > LEAST}


# -- redaction -------------------------------------------------------------------------------------


def redact_text(text: str) -> str:
    """Returns text without secrets, by value."""
    return _without(text, _known())


def redact_message(text: str) -> str:
    """Returns a message (error, log line) without secrets, by value and by name (`token=...`)."""
    return ASSIGNMENT.sub(_unassigned, _without_bare(redact_text(text)))


def redact(settings: Any) -> Any:
    """Returns settings (nested mappings, lists, tuples and dataclasses) without secrets, by name
    and by value.

    Settings without secrets are returned unchanged.
    """
    return _redacted(settings, _known(), by_name=True)


def redact_values(data: Any) -> Any:
    """Returns data without secrets, only by value (documents and answers, whose columns may have
    any name).
    """
    return _redacted(data, _known(), by_name=False)


def _without(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(REDACTED, text)
    for mark, form, put in FORMS:
        if mark in text:
            text = form.sub(put, text)
    return text


def _without_bare(text: str) -> str:
    """Returns text without user:password before a host."""
    return BARE.sub(f"{REDACTED}@", text) if "@" in text else text


def _unassigned(match: re.Match[str]) -> str:
    value = match["value"]
    if (
        not is_secret_name(match["name"])
        or REDACTED in value
        or value.strip("\"'").lower() in {*ORDINARY, ""}
    ):
        return match[0]
    mark = value[0] if value[0] in "\"'" else ""
    return f"{match['head']}{mark}{REDACTED}{mark}"


def _redacted(value: Any, known: re.Pattern[str] | None, by_name: bool, depth: int = 0) -> Any:
    if isinstance(value, str):
        clean = valid_unicode(_without(value, known))
        clean = _without_bare(clean) if by_name else clean
        return value if clean == value else clean
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        without = _redacted(plain, known, by_name, depth)
        return value if without is plain else without
    if isinstance(value, (Mapping, list, tuple)) and depth > DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        items = [
            (_redacted(k, known, by_name), _entry(k, v, known, by_name, depth + 1))
            for k, v in value.items()
        ]
        same = all(
            k is key and v is item for (k, v), (key, item) in zip(value.items(), items, strict=True)
        )
        return value if same else dict(items)
    if isinstance(value, (list, tuple)):
        parts = [_redacted(item, known, by_name, depth + 1) for item in value]
        if all(part is item for part, item in zip(parts, value, strict=True)):
            return value
        return parts if isinstance(value, list) else tuple(parts)
    if known is None or value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)  # as lm-eval writes objects
    return _without(text, known) if known.search(text) else value


def _entry(key: Any, value: Any, known: re.Pattern[str] | None, by_name: bool, depth: int) -> Any:
    if by_name and isinstance(key, str):
        if _are_headers(key):
            return _emptied(value)
        if (
            is_secret_name(key)
            and value is not None
            and not isinstance(value, bool)
            and value != ""
        ):
            return REDACTED
    return _redacted(value, known, by_name, depth)


def _emptied(value: Any) -> Any:
    """Returns headers with their values redacted."""
    if isinstance(value, Mapping):
        return dict.fromkeys(value, REDACTED)
    return value if value is None or isinstance(value, (bool, int)) or value == "" else REDACTED
