# SPDX-License-Identifier: Apache-2.0
"""No secret leaves the box in what the watchdog writes down: patterns of every kind of secret the product knows. Pure.

What the watchdog says comes from a list of sources that hold no secret, and its user can read no file that does. This
is the second layer: texts of foreign origin (a journal, a command line that a probe saw) may quote anything, so each
is cleaned before it is kept, and the finished bytes are searched once more.

It knows a secret by its form: a PEM block, the seed of an NKey, a JWT, a password hash, a password in an address or
behind its name, a recovery key. A password that stands alone in a sentence has no form, and would be missed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)?|secret|token|api[_-]?key|private[_-]?key|seed|credential|authorization|nkey"
)
PATTERNS: Final[dict[str, str]] = {
    "private key": r"-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|SEED)-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)",
    "user credentials": r"-----BEGIN [A-Z0-9 ]*JWT-----.*?(?:-----END [A-Z0-9 ]*-----|------END [A-Z0-9 ]*------|\Z)",
    "encoded private key": r"(?:MHcCAQEEI|MIG[A-Za-z0-9]AgEAM|MII[A-Za-z0-9+/]{3}IBA(?:AK|DA))[A-Za-z0-9+/=\s]{16,}",
    "nkey seed": r"\bS[ACNOUX][A-Z2-7]{56}\b",
    "jwt": r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}",
    "password hash": r"\$(?:2[abxy]|5|6|7|y|gy|argon2i?d?|scrypt)\$[^\s\"']{8,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@\"']*:[^\s/@\"']+@",
    "authorization": r"\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}",
    "recovery key": r"\b(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}\b",
    "named secret": rf"(?:\b|_)(?:{_NAMES})[\\\"']*\s*[:=]\s*[\\\"']*(?!\[withheld)[^\s\\\"',;]{{3,}}",
    "fact": r"\"?object_json\\?\"?\s*[:=].*|\\?\"envelope\\?\"\s*:.*",
}
"""What is looked for, by kind, in text; case counts in none of them but those whose letters do (Python's ``re``)."""
_EXACT: Final = frozenset(
    {"encoded private key", "nkey seed", "jwt", "recovery key", "private key", "user credentials"}
)
_TEXT: Final = {
    kind: re.compile(pattern, re.DOTALL if kind in _EXACT else re.DOTALL | re.IGNORECASE)
    for kind, pattern in PATTERNS.items()
}
_BINARY: Final[dict[str, re.Pattern[bytes]]] = {
    "private key": re.compile(
        rb"\x02\x01\x01\x04[\x20\x30]|\x02\x01\x00\x30[\x10-\x15]\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"
        rb"|\x02\x01\x00\x02\x82[\x00-\x04].\x00|\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
        re.DOTALL,
    )
}
"""Private keys in DER: EC (RFC 5915), PKCS #8, RSA (RFC 8017, RFC 5208)."""
_ROUNDS: Final = 8
_WORD: Final = re.compile(r"[A-Za-z0-9+/_=-]{20,}")
_HEX: Final = re.compile(r"[0-9A-Fa-f-]{32,}")
_KEPT: Final = 8
"""So much of a digest still tells one from another, and is far from a key."""


def clean(text: str) -> str:
    """A text without what looks like a secret, which is named instead; what is clean already stays as it is."""
    for _ in range(_ROUNDS):
        cleaned = text
        for kind, pattern in _TEXT.items():
            cleaned = pattern.sub(f"[withheld {kind}]", cleaned)
        if cleaned == text:
            return text
        text = cleaned
    return "[withheld]"


def clean_foreign(text: str) -> str:
    """As :func:`clean`, for texts that anybody may have written: long random words are cut short, too."""
    return clean(_WORD.sub(_shortened, clean(text)))


def found(data: bytes) -> frozenset[str]:
    """Which kinds of secret these bytes hold, be they text in UTF-8 or UTF-16, or a binary log."""
    return frozenset(_found(data))


def _found(data: bytes) -> Iterator[str]:
    for view in (data, data.replace(b"\0", b"")):
        text = view.decode("latin-1")
        yield from (kind for kind, pattern in _TEXT.items() if pattern.search(text))
    yield from (kind for kind, pattern in _BINARY.items() if pattern.search(data))


def _shortened(match: re.Match[str]) -> str:
    word = match[0]
    mixed = all(any(test(each) for each in word) for test in (str.isupper, str.islower, str.isdigit))
    if not mixed and not _HEX.fullmatch(word):
        return word
    return f"{word[:_KEPT]}[+{len(word) - _KEPT} characters]"
