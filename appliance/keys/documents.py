# SPDX-License-Identifier: Apache-2.0
"""JSON documents that people carry and keys sign: each has one form only, so no second text means the same.

The form is canonical JSON (RFC 8785) and a newline: one object with a ``format``, exactly the fields of that format,
and a limit of size. Bytes stand in it as lower-case hex or as base64; numbers beyond 2^53 as decimal text. Whoever
reads one builds its values anew and renders them: a text that differs from that in one byte is not the document.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.operators import sign, verifies

DOCUMENT_BYTES: Final = 65536
"""More is no document of ours, unless its format says otherwise."""


def parse_document(
    data: bytes,
    form: str,
    fields: Mapping[str, type],
    maximum: int = DOCUMENT_BYTES,
    reason: Reason = Reason.BAD_DOCUMENT,
) -> dict[str, Any]:
    """Read a document of one format.

    :param form: what its ``format`` must say, such as ``bsfg-voucher-1``.
    :param fields: its other fields, all required, each with the exact JSON type (``str``, ``int``, ``list``, ``dict``).
    :param maximum: bytes, newline included.
    :param reason: what a text that is not such a document is refused with.
    :raises RefusedError: ``reason``: another format, a field missing, unknown or of another type, too long, or not in
        its one form.
    """
    if len(data) > maximum:
        raise RefusedError(reason, f"more than {maximum} bytes")
    try:
        values = json.loads(data)
        same = isinstance(values, dict) and render_document(values) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise RefusedError(reason, f"not a JSON document: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError(reason, "not a JSON object")
    if values.get("format") != form:
        raise RefusedError(reason, f"not of the format {form}")
    for name, kind in fields.items():
        if name not in values:
            raise RefusedError(reason, f"{name} is missing")
        if type(values[name]) is not kind:  # not isinstance: True is no number
            raise RefusedError(reason, f"{name} has another type")
    if unknown := sorted(set(values) - set(fields) - {"format"}):
        raise RefusedError(reason, f"unknown: {', '.join(unknown)[:80]}")
    if not same:
        raise RefusedError(reason, "not in its one form")
    del values["format"]
    return values


def render_document(values: Mapping[str, Any]) -> bytes:
    """The one form of a document; ``values`` have its ``format``."""
    return rfc8785.dumps(dict(values)) + b"\n"


def document_statement(kind: str, values: Mapping[str, Any]) -> bytes:
    """What a key signs of a document: its kind, and everything but the signatures.

    The kind keeps a signature of one format from being good for another.
    """
    return b"bsfg " + kind.encode() + b"\0" + rfc8785.dumps(dict(values))


def sign_document(key: ec.EllipticCurvePrivateKey, kind: str, values: Mapping[str, Any]) -> bytes:
    """An operator's signature over a document, in its one form (DER)."""
    return sign(key, document_statement(kind, values))


def is_signed(key: ec.EllipticCurvePublicKey, kind: str, values: Mapping[str, Any], signature: bytes) -> bool:
    """Whether the signature is this key's over this document, and in its one form."""
    return verifies(key, document_statement(kind, values), signature)


def base64_text(data: bytes) -> str:
    """Bytes as they stand in a document."""
    return base64.b64encode(data).decode("ascii")


def base64_bytes(text: Any) -> bytes:
    """What :func:`base64_text` wrote. :raises ValueError: anything else, also another text of the same bytes."""
    if not isinstance(text, str):
        raise ValueError("base64 is text")
    data = base64.b64decode(text, validate=True)
    if base64_text(data) != text:
        raise ValueError("base64 not in its one form")
    return data


def hex_bytes(text: Any, size: int | None = None) -> bytes:
    """Bytes written as lower-case hex. :raises ValueError: anything else, or not ``size`` bytes."""
    if not isinstance(text, str):
        raise ValueError("hex is text")
    data = bytes.fromhex(text)
    if data.hex() != text or (size is not None and len(data) != size):
        raise ValueError(f"not {size if size is not None else 'whole'} bytes in lower-case hex")
    return data


def decimal_number(text: Any, bits: int = 64) -> int:
    """A number written as decimal text. :raises ValueError: anything else, negative, or beyond ``bits``."""
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or str(int(text)) != text:
        raise ValueError("not a decimal number")
    if int(text) >> bits:
        raise ValueError(f"a number beyond {bits} bits")
    return int(text)
