# SPDX-License-Identifier: Apache-2.0
"""Errors on the wire: a Connect code, and the stable reason with all it carries as ``bsfg.v1.ErrorInfo``.

The calling side gets back the same class of error that the answering side raised: the class says who must act, and that
must survive the way. Form: https://connectrpc.com/docs/protocol/#error-end-stream.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import (
    BsfgError,
    DeniedError,
    IntegrityError,
    PositionError,
    RefusedError,
    UnavailableError,
)
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason, RpcCode

HTTP_STATUS: Final = {
    RpcCode.INVALID_ARGUMENT: 400,
    RpcCode.ALREADY_EXISTS: 409,
    RpcCode.PERMISSION_DENIED: 403,
    RpcCode.UNAUTHENTICATED: 401,
    RpcCode.RESOURCE_EXHAUSTED: 429,
    RpcCode.FAILED_PRECONDITION: 400,
    RpcCode.ABORTED: 409,
    RpcCode.OUT_OF_RANGE: 400,
    RpcCode.UNIMPLEMENTED: 501,
    RpcCode.INTERNAL: 500,
    RpcCode.UNAVAILABLE: 503,
    RpcCode.DEADLINE_EXCEEDED: 504,
    RpcCode.DATA_LOSS: 500,
}
"""https://connectrpc.com/docs/protocol/#error-codes"""

_DETAIL_TYPE: Final = "bsfg.v1.ErrorInfo"
_R: Final = Reason
_POSITION: Final = {_R.OUT_OF_ORDER, _R.LOG_DIVERGED, _R.PEER_REGRESSED, _R.TOO_MANY_EPOCHS}
_DENIED: Final = {RpcCode.UNAUTHENTICATED, RpcCode.PERMISSION_DENIED}
_INTEGRITY: Final = {_R.LOG_DAMAGED, _R.LOG_LOST, _R.LEDGER_DAMAGED, _R.CHAIN_BROKEN}
_OUR_FAULT: Final = {RpcCode.INVALID_ARGUMENT, RpcCode.ALREADY_EXISTS, RpcCode.UNIMPLEMENTED, RpcCode.OUT_OF_RANGE}
"""Codes that say the caller must change something. All others are the other side's trouble: worth another try."""
_MAX_DETAIL: Final = 1024


def error_info(error: BsfgError) -> pb.ErrorInfo:
    """What travels with an error, beside its Connect code."""
    info = pb.ErrorInfo(reason=error.reason, detail=error.detail[:_MAX_DETAIL], hint=error.hint)
    if isinstance(error, PositionError):
        info.epoch = error.epoch
        info.frontier.offset = error.offset
        info.frontier.head = error.head
    return info


def error_from_info(info: pb.ErrorInfo, code: str = "") -> BsfgError:
    """The error that the other side raised.

    :param code: the Connect code, for reasons that a newer peer knows and we do not.
    """
    detail = info.detail[:_MAX_DETAIL]
    try:
        reason = Reason(info.reason)
    except ValueError:
        return _foreign_error(code, f"{info.reason[:64]}: {detail}")
    if reason in _POSITION:
        return PositionError(reason, detail, epoch=info.epoch, offset=info.frontier.offset, head=info.frontier.head)
    if CATALOGUE[reason].rpc in _DENIED:
        return DeniedError(reason, detail)
    if reason in _INTEGRITY:
        return IntegrityError(reason, f"at the peer: {detail}")
    if CATALOGUE[reason].rpc in _OUR_FAULT:
        return RefusedError(reason, detail)
    return UnavailableError(reason, f"at the peer: {detail}")


def _foreign_error(code: str, detail: str) -> BsfgError:
    """An error without a reason we know, by its Connect code alone."""
    if code in _DENIED:
        return DeniedError(Reason.UNKNOWN_PEER, f"{code}: {detail}")
    if code in _OUR_FAULT:
        return RefusedError(Reason.BAD_REQUEST, f"{code}: {detail}")
    return UnavailableError(Reason.PEER_FAULT, f"{code or 'no code'}: {detail}")


def error_json(error: BsfgError) -> tuple[int, bytes]:
    """HTTP status and body of an error answer."""
    info = error_info(error)
    code = error.text.rpc
    body = {
        "code": code,
        "message": str(error),
        "details": [
            {
                "type": _DETAIL_TYPE,
                "value": base64.b64encode(info.SerializeToString()).rstrip(b"=").decode(),
                "debug": MessageToDict(info, preserving_proto_field_name=True),  # the same for people with curl
            }
        ],
    }
    return HTTP_STATUS[code], json.dumps(body, ensure_ascii=False).encode()


def error_from_json(status: int, body: bytes) -> BsfgError:
    """The error an answer carries; answers that follow no contract become ``peer_fault``."""
    try:
        document = json.loads(body)
        info = next(filter(None, map(_info, document.get("details", ()))), None)
        code, message = str(document.get("code", "")), str(document.get("message", ""))[:_MAX_DETAIL]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return UnavailableError(Reason.PEER_FAULT, f"HTTP {status} without a Connect error")
    return error_from_info(info, code) if info is not None else _foreign_error(code, message)


def _info(detail: dict[str, Any]) -> pb.ErrorInfo | None:
    if detail.get("type") != _DETAIL_TYPE:
        return None
    value = str(detail.get("value", ""))
    try:
        return pb.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    except (DecodeError, binascii.Error):
        return None
