# SPDX-License-Identifier: Apache-2.0
"""How the port's calls are said on the keeper's unix socket. Pure.

A frame is a length of 4 bytes, big endian, and so many bytes of canonical JSON (RFC 8785): a request
``{"operation": …, "arguments": {…}}``, then its answer, ``{"result": …}`` or ``{"error": {…}}`` with reason and detail.
Whatever is not in this one form is refused, by both sides.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import rfc8785

from appliance.boundary.errors import (
    BsfgError,
    DeniedError,
    IntegrityError,
    PositionError,
    RefusedError,
    UnavailableError,
)
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import BoxDescription, Certified, KeeperStatus, Latched, Quote, SessionInfo
from appliance.keys.keeper.roles import Operation
from appliance.keys.keeper.values import from_json, to_json
from appliance.keys.tpm.public import Digest

HEADER: Final = struct.Struct(">I")
REQUEST_BYTES: Final = 65536
ANSWER_BYTES: Final = 4 * 1024 * 1024
"""The longest frames; a quote's answer carries two logs."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The arguments of a call that has none."""


@dataclass(frozen=True, slots=True)
class Named:
    """A session, or a secret."""

    name: str


@dataclass(frozen=True, slots=True)
class Sealing:
    """A secret with its name."""

    name: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to be signed."""

    statement: bytes


@dataclass(frozen=True, slots=True)
class Nonce:
    """A nonce for a quote or a certificate."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """The digest of the evidence that a latch is for."""

    evidence: Digest


@dataclass(frozen=True, slots=True)
class Credential:
    """What a hub hid for this TPM."""

    credential: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A certificate, a release or a time token."""

    document: bytes


@dataclass(frozen=True, slots=True)
class Certification:
    """A zone, and the request (PKCS #10, DER) of its boundary key."""

    zone: ZoneId
    request: bytes


Arguments = Nothing | Named | Sealing | Statement | Nonce | Evidence | Credential | Document | Certification

_O = Operation
CALLS: Final[Mapping[Operation, tuple[type[Arguments], Any]]] = {
    _O.STATUS: (Nothing, KeeperStatus),
    _O.SESSION: (Named, SessionInfo),
    _O.SIGN: (Statement, Signature),
    _O.SEAL: (Sealing, type(None)),
    _O.UNSEAL: (Named, bytes),
    _O.QUOTE: (Nonce, Quote),
    _O.LATCH: (Evidence, Latched),
    _O.DESCRIBE: (Nothing, BoxDescription),
    _O.CERTIFICATE_REQUEST: (Nothing, bytes),
    _O.ACTIVATE: (Credential, bytes),
    _O.CERTIFY: (Nonce, Certified),
    _O.INSTALL: (Document, type(None)),
    _O.IMPORT_RELEASE: (Document, type(None)),
    _O.TIME_NONCE: (Nothing, bytes),
    _O.SET_TIME: (Document, int),
    _O.HUB_CA: (Nothing, bytes),
    _O.CERTIFY_ZONE: (Certification, bytes),
}
"""What each call takes and answers."""
ERRORS: Final[Mapping[str, type[BsfgError]]] = {
    "refused": RefusedError,
    "denied": DeniedError,
    "position": PositionError,
    "unavailable": UnavailableError,
    "integrity": IntegrityError,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    operation: Operation
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: str
    reason: Reason
    detail: str


def frame(values: Mapping[str, Any], maximum: int) -> bytes:
    """A frame. :raises RefusedError: ``too_large``."""
    body = rfc8785.dumps(dict(values))
    if len(body) > maximum:
        raise RefusedError(Reason.TOO_LARGE, f"{len(body)} bytes, {maximum} are allowed")
    return HEADER.pack(len(body)) + body


def body_length(header: bytes, maximum: int) -> int:
    """How many bytes follow a header. :raises RefusedError: ``too_large``, ``bad_request``."""
    (length,) = HEADER.unpack(header)
    if length > maximum:
        raise RefusedError(Reason.TOO_LARGE, f"a frame of {length} bytes, {maximum} are allowed")
    if length < 2:
        raise RefusedError(Reason.BAD_REQUEST, "an empty frame")
    return int(length)


def render_request(request: Request) -> bytes:
    """A request's frame. :raises RefusedError: ``too_large``."""
    return frame({"operation": str(request.operation), "arguments": to_json(request.arguments)}, REQUEST_BYTES)


def parse_request(body: bytes) -> Request:
    """Read a request's body. :raises RefusedError: ``bad_request``: not in its one form."""
    try:
        values = _object(body, {"operation", "arguments"})
        operation = Operation(values["operation"])
        return Request(operation, from_json(CALLS[operation][0], values["arguments"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise RefusedError(Reason.BAD_REQUEST, f"keeper's socket: {error}") from error


def render_result(operation: Operation, result: Any) -> bytes:
    """The frame of an answer to a call."""
    kind = CALLS[operation][1]
    if not isinstance(result, kind):
        raise TypeError(f"{operation} answers {kind.__name__}, not {type(result).__name__}")
    return frame({"result": to_json(result)}, ANSWER_BYTES)


def render_error(error: BsfgError) -> bytes:
    """The frame of an answer that is an error."""
    kind = next((name for name, each in ERRORS.items() if type(error) is each), "unavailable")
    return frame({"error": to_json(_Failure(kind, error.reason, error.detail[:1000]))}, ANSWER_BYTES)


def parse_answer(operation: Operation, body: bytes) -> Any:
    """The result in an answer's body.

    :raises BsfgError: the error in it. :raises UnavailableError: ``keeper_unavailable``: it is no answer to this.
    """
    try:
        values = _object(body, {"result"}, {"error"})
        if "result" in values:
            return from_json(CALLS[operation][1], values["result"])
        failure: _Failure = from_json(_Failure, values["error"])
        error = ERRORS[failure.kind](failure.reason, failure.detail)
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise UnavailableError(Reason.KEEPER_UNAVAILABLE, f"its answer is not one: {problem}") from problem
    raise error


def _object(body: bytes, *forms: set[str]) -> dict[str, Any]:
    values = json.loads(body)
    if not isinstance(values, dict) or set(values) not in forms:
        raise ValueError("not the fields of a frame")
    try:
        same = rfc8785.dumps(values) == body
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error
    if not same:
        raise ValueError("not in its one form")
    return values
