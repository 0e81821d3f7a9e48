# SPDX-License-Identifier: Apache-2.0
"""What is said on the keeper's socket: every call both ways, and everything that is none."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import (
    BoxDescription,
    Certified,
    KeeperState,
    KeeperStatus,
    Latched,
    Quote,
    SessionInfo,
)
from appliance.keys.keeper.protocol import (
    ANSWER_BYTES,
    CALLS,
    HEADER,
    REQUEST_BYTES,
    Arguments,
    Certification,
    Credential,
    Document,
    Evidence,
    Named,
    Nonce,
    Nothing,
    Request,
    Sealing,
    Statement,
    body_length,
    parse_answer,
    parse_request,
    render_error,
    render_request,
    render_result,
)
from appliance.keys.keeper.roles import Operation
from appliance.keys.tpm.public import Attestation, Digest

ATTESTATION = Attestation(b"\xff\x00", b"\x30")
SESSION = SessionInfo(Path("/run/bsfg/session/agent.pem"), 1_795_000_000.5, "0a")
STATUS = KeeperStatus(
    state=KeeperState.READY,
    kind="swtpm",
    zone=ZoneId("plant-a"),
    counter=2**64 - 1,
    boundary_offset_ns=-(2**62),
    floor_unix_ms=1,
    sessions={"agent": SESSION},
    renewals=3,
    commands=9,
    problem="tpm_absent: \U0001f50c",
)
ARGUMENTS: dict[type, Arguments] = {
    Nothing: Nothing(),
    Named: Named("agent"),
    Sealing: Sealing("agent.token", b"\0secret"),
    Statement: Statement(b"bsfg.v1 receipt\n"),
    Nonce: Nonce(bytes(32)),
    Evidence: Evidence(Digest(bytes(32))),
    Credential: Credential(b"\1", b""),
    Document: Document(bytes(range(256))),
    Certification: Certification(ZoneId("plant-a"), b"\x30\x00"),
}
RESULTS: dict[Any, Any] = {
    KeeperStatus: STATUS,
    SessionInfo: SESSION,
    Signature: Signature(b"\1", b"\2"),
    Quote: Quote(ATTESTATION, {7: bytes(32), 11: b"\1" * 32}, b"log", b""),
    Latched: Latched(2**63, ATTESTATION),
    BoxDescription: BoxDescription(b"1", b"2", b"3", b"4", b"5", b"6", b""),
    Certified: Certified(ATTESTATION, ATTESTATION),
    type(None): None,
    bytes: b"\0\xff",
    int: 1_795_000_000_000,
}


def body(frame: bytes, maximum: int = ANSWER_BYTES) -> bytes:
    """What a frame carries."""
    assert body_length(frame[:4], maximum) == len(frame) - 4
    return frame[4:]


@pytest.mark.parametrize("operation", Operation)
def test_every_call_arrives_as_it_was_sent(operation: Operation) -> None:
    """Arguments and results."""
    takes, gives = CALLS[operation]
    request = Request(operation, ARGUMENTS[takes])
    assert parse_request(body(render_request(request), REQUEST_BYTES)) == request
    result = RESULTS[gives]
    assert parse_answer(operation, body(render_result(operation, result))) == result


def test_the_table_has_every_call_of_the_port() -> None:
    """And the port has every call of the table."""
    assert list(CALLS) == list(Operation)
    from appliance.keys.keeper.port import KeeperPort

    assert {name for name in vars(KeeperPort) if not name.startswith("_")} == set(Operation)


def test_an_error_keeps_its_kind_reason_and_detail() -> None:
    """A caller sees the same exception as if it had called the keeper itself."""
    denied, refused = DeniedError(Reason.KEY_LATCHED, "counter 2"), RefusedError(Reason.BAD_INPUT)
    for error in (denied, refused, UnavailableError(Reason.TPM_BUSY)):
        with pytest.raises(type(error)) as caught:
            parse_answer(Operation.SIGN, body(render_error(error)))
        assert (caught.value.reason, caught.value.detail) == (error.reason, error.detail)
    with pytest.raises(UnavailableError):
        parse_answer(Operation.SIGN, body(render_error(BsfgError(Reason.INTERNAL))))


def test_a_result_of_another_kind_is_a_defect() -> None:
    """Found where it is made."""
    with pytest.raises(TypeError):
        render_result(Operation.SIGN, b"no signature")


def spoilt(values: dict[str, Any]) -> list[dict[str, Any]]:
    """One member of an object changed, removed or added, at each level."""
    found: list[dict[str, Any]] = [{**values, "more": "1"}]
    for name, value in values.items():
        found.append({key: each for key, each in values.items() if key != name})
        wrong: list[Any] = [None, True, 1, 1.5, [], {}, "\u2028 no base64", "AAA"]
        found += [{**values, name: each} for each in wrong if each != value]
        if isinstance(value, dict) and value:
            found += [{**values, name: each} for each in spoilt(value)]
    return found


def outcome(parse: Callable[[], Any]) -> Any:
    """What comes of it: a value, or the reason of the error."""
    try:
        return parse()
    except BsfgError as error:
        return error.reason


def test_nothing_else_is_a_request() -> None:
    """Over two hundred mutants, and bytes that are no JSON; the original is taken in the same run."""
    request = Request(Operation.SEAL, Sealing("agent.token", b"secret"))
    good = body(render_request(request), REQUEST_BYTES)
    mutants = {rfc8785.dumps(values) for values in spoilt(json.loads(good))}
    mutants |= {good[:cut] for cut in range(len(good))}
    mutants |= {good[:place] + bytes([good[place] ^ 0x80]) + good[place + 1 :] for place in range(len(good))}
    mutants |= {good[:place] + b" " + good[place:] for place in range(len(good) + 1)}
    mutants |= {json.dumps(json.loads(good)).encode(), b'{"operation":"seal",' + good[1:], b"[" * 60000, b"\xff" * 9}
    found = [outcome(lambda mutant=mutant: parse_request(mutant)) for mutant in mutants]  # type: ignore[misc]
    taken = [each for each in found if each is not Reason.BAD_REQUEST]
    assert len(mutants) >= 200
    # A name may be any text here, for roles are checked after; nothing else may differ.
    assert all(isinstance(each.arguments, Sealing) and each.arguments.secret == b"secret" for each in taken)
    assert len({each.arguments.name for each in taken} - {"agent.token"}) == len(taken)
    assert parse_request(good) == request


def test_nothing_else_is_an_answer() -> None:
    """A mutant of an answer is a keeper that cannot be reached, or another value of the same type."""
    good = body(render_result(Operation.STATUS, STATUS))
    mutants = {rfc8785.dumps(values) for values in spoilt(json.loads(good))}
    mutants |= {good[:cut] for cut in range(0, len(good), 3)}
    found = [outcome(lambda mutant=mutant: parse_answer(Operation.STATUS, mutant)) for mutant in mutants]  # type: ignore[misc]
    refused = [each for each in found if each is Reason.KEEPER_UNAVAILABLE]
    assert len(refused) >= 200
    assert all(isinstance(each, KeeperStatus) for each in found if each is not Reason.KEEPER_UNAVAILABLE)
    assert parse_answer(Operation.STATUS, good) == STATUS


def test_a_frame_has_its_limits() -> None:
    """Too long, and too short to say anything; on both sides before a byte of it is read."""
    for length in (0, 1):
        with pytest.raises(RefusedError, match="bad_request"):
            body_length(struct.pack(">I", length), REQUEST_BYTES)
    for length in (REQUEST_BYTES + 1, 2**32 - 1):
        with pytest.raises(RefusedError, match="too_large"):
            body_length(HEADER.pack(length), REQUEST_BYTES)
    with pytest.raises(RefusedError, match="too_large"):
        render_request(Request(Operation.INSTALL, Document(bytes(REQUEST_BYTES))))


def test_callers_need_no_tpm_library(root: Path) -> None:
    """Only the keeper itself loads it."""
    code = "import sys, appliance.keys.keeper.client, appliance.keys.keeper.keys; sys.exit('tpm2_pytss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
