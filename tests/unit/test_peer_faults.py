# SPDX-License-Identifier: Apache-2.0
"""Errors on the wire: each reason keeps its code and its class, and no answer can confuse the caller."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from appliance.peer.faults import HTTP_STATUS, error_from_info, error_from_json, error_json


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_survives_the_way(reason: Reason) -> None:
    """Reason and detail arrive; the class says who must act, whatever class it left with."""
    status, body = error_json(BsfgError(reason, "detail"))
    error = error_from_json(status, body)
    assert error.reason == reason
    assert "detail" in error.detail
    assert type(error) in (RefusedError, DeniedError, PositionError, UnavailableError, IntegrityError)


def test_the_body_is_what_connect_asks_for() -> None:
    """Code, message, and a detail whose value any client can parse and any person can read."""
    status, body = error_json(PositionError(Reason.OUT_OF_ORDER, "x", epoch=bytes(16), offset=3, head=bytes(32)))
    document = json.loads(body)
    (detail,) = document["details"]
    assert (status, document["code"]) == (400, "failed_precondition")
    assert detail["type"] == "bsfg.v1.ErrorInfo"
    assert "=" not in detail["value"]
    info = pb.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (info.reason, info.frontier.offset) == ("out_of_order", 3)
    assert detail["debug"]["hint"] == CATALOGUE[Reason.OUT_OF_ORDER].hint


def test_every_code_has_a_status() -> None:
    """Connect's table, complete for the codes of the catalogue."""
    assert set(HTTP_STATUS) == set(RpcCode)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("permission_denied", DeniedError),
        ("unauthenticated", DeniedError),
        ("invalid_argument", RefusedError),
        ("unimplemented", RefusedError),
        ("unavailable", UnavailableError),
        ("no_such_code", UnavailableError),
        ("", UnavailableError),
    ],
)
def test_a_newer_peers_reason_is_read_by_its_code(code: str, expected: type[BsfgError]) -> None:
    """And named in the detail."""
    error = error_from_info(pb.ErrorInfo(reason="from_the_future", detail="x"), code)
    assert type(error) is expected
    assert "from_the_future" in error.detail or "from_the_future" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"3",
        b'{"code": 7, "details": 3}',
        b'{"details": [3]}',
        b'{"details": [{"type": "bsfg.v1.ErrorInfo", "value": "!"}]}',
        b'{"details": [{"type": "bsfg.v1.ErrorInfo", "value": "AAAA"}]}',
        b"[" * 100_000,
    ],
)
def test_other_answers_are_the_peers_fault(body: bytes) -> None:
    """A proxy's page, a broken peer, a hostile one."""
    error = error_from_json(502, body)
    assert isinstance(error, UnavailableError)
    assert error.reason == Reason.PEER_FAULT


@given(st.binary(max_size=300))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    """Always one of our errors."""
    assert isinstance(error_from_json(500, body), BsfgError)
